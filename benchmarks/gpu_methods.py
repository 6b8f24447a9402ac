"""Stage of gpu.py: every method, tiny, on the card and on the processor."""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any

from gpu_common import Asked, configured, milliseconds, nowhere, release, shards


def methods(asked: Asked) -> None:
    """Every method, tiny: fit, save, load, score, missing views, resume; scores on the card against the processor's."""
    from mvad.model.registry import methods as registered

    for name in ("idif", "padim") if asked.quick else registered():
        asked.attempt(name, lambda n=name: _method(asked, n), 0 if asked.quick else 3)
        release(asked.device)


def _method(asked: Asked, name: str) -> dict[str, Any]:
    import torch

    from mvad.datasets.shards.loader import ShardSet
    from mvad.model.evaluation.data import with_views
    from mvad.model.fitting import fit_run
    from mvad.model.runs import RunFolder
    from mvad.progress import Silent

    device = asked.torch_device()
    with tempfile.TemporaryDirectory(dir=asked.scratch) as folder:
        split, ready, origins = _tiny_method(asked, name)
        began = time.perf_counter()
        fit_run(Path(folder) / "run", split, ready, origins, Silent())
        found: dict[str, Any] = {"fit_s": round(time.perf_counter() - began, 2)}
        detectors = [RunFolder(Path(folder) / "run").load(nowhere(), d) for d in (device, torch.device("cpu"))]
        batch = ShardSet(shards(asked), "test").batch([0, 1])
        for kind, given in (("all_views", batch), ("missing_views", with_views(batch, [0, 2]))):
            there, here = (detector.score(given).sample_scores for detector in detectors)
            found[f"difference_{kind}"] = float(f"{float((there - here).abs().max() / here.abs().max().clamp(min=1e-9)):.3g}")
        found["score_ms"] = milliseconds(lambda: detectors[0].score(batch), device, 1 if asked.quick else 5, 1)
        if (Path(folder) / "run" / "checkpoints").exists():
            found["resumed_difference"] = _resumed(asked, name, Path(folder))
    return found


def _tiny_method(asked: Asked, name: str) -> tuple[Any, Any, Any]:
    from training import TINY

    keys = dict(TINY) | {"train.precision": "float32", "train.deterministic": True}
    return configured(asked, 5, name, "demo", **{key.replace(".", "__"): value for key, value in keys.items()})


def _resumed(asked: Asked, name: str, folder: Path) -> float:
    """Return the largest difference between the weights of a run that was stopped after its second step and continued, and of one that was not."""
    import safetensors.torch
    from training import StopAfter

    from mvad.model.fitting import fit_run
    from mvad.progress import Silent

    for progress, expected in ((StopAfter(2), KeyboardInterrupt), (Silent(), ())):
        split, ready, origins = _tiny_method(asked, name)
        with contextlib.suppress(expected):
            fit_run(folder / "stopped", split, ready, origins, progress)
    one, two = (safetensors.torch.load_file(folder / run / "model.safetensors") for run in ("run", "stopped"))
    return max(float((one[key].double() - two[key].double()).abs().max()) for key in one)
