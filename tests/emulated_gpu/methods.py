"""Take methods through everything on the emulated CUDA device, and through the same training on the processor; prints JSON lines.

python methods.py FOLDER_OF_SHARDS SCRATCH '[{"model": "padim", "preset": "small", "keys": {...}, "stop": 2, "evaluate": true}, ...]'

``stop``: steps after which the training on the device is interrupted and continued; 0: it is not. ``evaluate``: whether the test split is evaluated.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from guard import load_guard

scratch = Path(sys.argv[2])
load_guard(scratch)

import cuda  # noqa: E402  # imports torch, which asks for the guard
import torch  # noqa: E402

cuda.install()

from mvad.datasets.shards.loader import ShardSet  # noqa: E402
from mvad.model.backbones.weights import WeightsSource  # noqa: E402
from mvad.model.detector import AnomalyMaps, Detector  # noqa: E402
from mvad.model.evaluation.data import with_views  # noqa: E402
from mvad.model.evaluation.evaluate import evaluate_run  # noqa: E402
from mvad.model.fitting import fit_run, prepare  # noqa: E402
from mvad.model.registry import configure  # noqa: E402
from mvad.model.runs import RunFolder  # noqa: E402
from mvad.progress import Silent  # noqa: E402

NOWHERE = WeightsSource(None, Path("nowhere"), offline=True)
CPU = torch.device("cpu")


class StopAfter(Silent):
    """Progress that interrupts after a number of steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, steps: int = 1, **figures: float) -> None:
        self.left -= steps
        if self.left == 0:
            raise KeyboardInterrupt


def fit(run: Path, data: ShardSet, asked: dict[str, Any], device: torch.device, stop: int = 0) -> None:
    """Train on a device; interrupted and continued after ``stop`` steps."""
    config, origins = configure(asked["preset"], asked["model"], [("emulated", asked["keys"])])
    for progress in [StopAfter(stop)] * bool(stop) + [Silent()]:
        ready = prepare(data, config, Path("nowhere"), NOWHERE, device)
        with contextlib.suppress(KeyboardInterrupt):
            fit_run(run, data, ready, origins, progress)


def answers(detector: Detector, test: ShardSet) -> dict[str, AnomalyMaps]:
    """Score two samples, one of them alone, and it with views missing."""
    return {
        "two": detector.score(test.batch([0, 1])),
        "one": detector.score(test.batch([1])),
        "missing": detector.score(with_views(test.batch([1]), [0, 2])),
    }


def difference(found: AnomalyMaps, expected: AnomalyMaps) -> float:
    """Return the largest difference of maps and scores, as a share of the range of the maps; where one is infinite, both must be."""
    unit = float(expected.maps.max() - expected.maps.min()) + 1e-12
    worst = float((found.maps - expected.maps).abs().max()) / unit
    for mine, theirs in ((found.view_scores, expected.view_scores), (found.sample_scores, expected.sample_scores)):
        assert torch.equal(mine.isfinite(), theirs.isfinite())
        there = theirs.isfinite()
        worst = max(worst, float((mine[there] - theirs[there]).abs().max() / theirs[there].abs().max().clamp(min=1e-12)))
    return worst


def taken_through(shards: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Train, resume, save, load, score and evaluate a method, and compare with the processor."""
    name, data = asked["model"], ShardSet(shards, "train")
    runs, found = scratch / "methods" / f"{name}-{asked['preset']}", dict[str, Any](asked)
    shutil.rmtree(runs, ignore_errors=True)
    try:
        fit(runs / "cuda", data, asked, cuda.CUDA, asked.get("stop", 0))
        fit(runs / "cpu", data, asked, CPU)
        found["facts"] = {kind: list(json.loads((runs / kind / "model.json").read_text())) for kind in ("cuda", "cpu")}
        on_gpu, saved, on_cpu = (
            RunFolder(runs / kind).load(NOWHERE, device) for kind, device in (("cuda", cuda.CUDA), ("cuda", CPU), ("cpu", CPU))
        )
        test = ShardSet(shards, "test", fields=on_gpu.spec.modalities)
        mine = answers(on_gpu, test)
        cuda.COUNTS.taken()
        on_gpu.score(test.batch([0, 1]))
        found["counts"] = cuda.COUNTS.taken()
        found["moved"] = max(difference(mine[kind], other) for kind, other in answers(saved, test).items())
        found["trained"] = max(difference(mine[kind], other) for kind, other in answers(on_cpu, test).items())
        if asked.get("evaluate"):
            results = evaluate_run(runs / "cuda", shards.parent.parent, NOWHERE, Silent(), device=cuda.CUDA)
            found["evaluated"] = [results.seconds["samples_per_call"], [sample.score for sample in results.samples[:2]]]
        found["scores"] = mine["two"].sample_scores.tolist()
    except Exception as error:
        found["error"] = cuda.told(error)
    finally:
        shutil.rmtree(runs, ignore_errors=True)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    with cuda.EmulatedMode():
        for asked in json.loads(sys.argv[3]):
            print(json.dumps(taken_through(Path(sys.argv[1]), asked)), flush=True)
