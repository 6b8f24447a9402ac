"""Shared by the stages of gpu.py: what a stage is asked, results that survive it, generated data, detectors, times."""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(1, str(HERE.parent / "tests"))

PAPER_BATCH = 8
INPUTS: dict[int, tuple[str, ...]] = {5: ("rgb",), 10: ("rgb", "normal")}
"""Modalities by the number of inputs, V."""


@dataclass
class Asked:
    """What a stage is asked, and its results so far.

    Attributes
    ----------
    scratch
        Folder of the data and of everything temporary.
    part
        File to which the results are written at once, so that a stage that is killed keeps what it had.
    seconds
        Time limit of the stage.
    quick
        Tiny sizes, to try the code on any machine.
    real
        Folder of real scans, or None.
    device
        ``cuda`` or ``cpu``.
    """

    scratch: Path
    part: Path
    seconds: float
    quick: bool
    real: Path | None
    device: str
    began: float = field(default_factory=time.monotonic)
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds that are left to the stage."""
        return self.seconds - (time.monotonic() - self.began)

    def note(self, name: str, value: Any) -> None:
        """Record a result at once."""
        from mvad import files

        self.results[name] = value
        files.write_json(self.part, self.results)

    def attempt(self, name: str, work: Callable[[], Any], enough_s: float = 0) -> Any:
        """Record what ``work`` returns, or why it failed; None where it failed or fewer than ``enough_s`` seconds are left."""
        if self.left < enough_s:
            self.note(name, {"left_out": f"{max(self.left, 0):.0f} s were left"})
            return None
        try:
            found = work()
        except Exception as error:
            traceback.print_exc()
            self.note(name, failure(error))
            release(self.device)
            return None
        self.note(name, found)
        return found

    @property
    def on_card(self) -> bool:
        """Whether this machine has a CUDA device."""
        return self.device == "cuda"

    def torch_device(self) -> Any:
        from mvad.model.devices import resolve_device

        return resolve_device(self.device)


def failure(error: Exception) -> dict[str, Any]:
    """Return an error as a result: its kind, its first line, and the lines of mvad and of the benchmarks that it passed."""
    frames = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__) if _is_ours(f.filename)]
    text = " ".join(str(error).split())[:300]
    return {"failed": f"{type(error).__name__}: {text}", "at": frames[-4:]}


def _is_ours(name: str) -> bool:
    return "/mvad/" in name or "/benchmarks/" in name


def release(device: str) -> None:
    """Give back memory that a failed attempt held."""
    import gc

    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def peak_gb(device: str) -> float | None:
    """Return the peak of the memory that tensors took since ``fresh_peak``; None without a card."""
    import torch

    with contextlib.suppress(AttributeError, RuntimeError):  # an emulated card has no allocator
        return round(torch.cuda.max_memory_allocated() / 1e9, 3) or None if device == "cuda" else None
    return None


def fresh_peak(device: str) -> None:
    import torch

    if device == "cuda":
        with contextlib.suppress(AttributeError, RuntimeError):
            torch.cuda.reset_peak_memory_stats()


def needs_card(asked: Asked, what: str) -> dict[str, str] | None:
    """Return the result of what cannot be measured without a card, or None where there is one."""
    return None if asked.on_card else {"left_out": f"{what} needs a CUDA device"}


def milliseconds(work: Callable[[], Any], device: Any, least: int, warm: int = 3) -> float:
    """Return the median milliseconds of a call, each between two synchronisations."""
    from mvad.model.devices import synchronise

    for _ in range(warm):
        work()
    taken = []
    for _ in range(least):
        synchronise(device)
        began = time.perf_counter()
        work()
        synchronise(device)
        taken.append(1000 * (time.perf_counter() - began))
    return round(statistics.median(taken), 3)


def many_milliseconds(work: Callable[[], Any], device: Any, times: int, warm: int = 3) -> float:
    """Return the milliseconds of one of many calls between two synchronisations."""
    from mvad.model.devices import synchronise

    for _ in range(warm):
        work()
    synchronise(device)
    began = time.perf_counter()
    for _ in range(times):
        work()
    synchronise(device)
    return round(1000 * (time.perf_counter() - began) / times, 4)


# --------------------------------------------------------------------------------------------------------- the data


def data_root(asked: Asked) -> Path:
    name = "real" if asked.real else "generated"
    return asked.scratch / f"data-{name}{'-quick' if asked.quick else ''}"


def shards(asked: Asked) -> Path:
    """Return the folder of the packed category."""
    return data_root(asked) / "shards" / "mvtec3d" / ("cable_gland" if asked.real else "gear")


def make_data(asked: Asked) -> dict[str, Any]:
    """Generate (or take the real) scans, render and pack them where they are not there yet."""
    from mvad.cores import usable_cores
    from mvad.datasets.shards.loader import ShardSet
    from mvad.datasets.shards.pack import PackOptions, pack_renders
    from mvad.datasets.synth.generate import SynthOptions, generate
    from mvad.progress import Silent
    from mvad.render.engine import Workers
    from mvad.render.job import render_category
    from mvad.render.options import RenderOptions, RigOptions

    root, target = data_root(asked), shards(asked)
    raw = asked.real / "mvtec3d" if asked.real else root / "raw"
    splits, began = ("train", "validation", "test"), time.perf_counter()
    if not (target / "manifest.json").exists():
        if asked.real is None:
            counts = SynthOptions(1, 4, 1, 2, 1, 128) if asked.quick else SynthOptions(1, 48, 2, 16, 6, 300)
            generate("mvtec3d", raw, ["gear"], counts, Silent())
        options = RenderOptions(backend="cpu", rig=RigOptions(size=64 if asked.quick else 256))
        workers = Workers(1, threads=1 if asked.quick else min(usable_cores(), 16))
        render_category("mvtec3d", target.name, raw, root / "renders", options, splits, workers, False, Silent())
        pack_renders(root / "renders", "mvtec3d", target.name, root / "shards", PackOptions(), Silent())
    samples = {split: len(ShardSet(target, split)) for split in ("train", "test")}
    return {"category": target.name, "samples": samples, "seconds": round(time.perf_counter() - began, 1)}


def textures(asked: Asked) -> str:
    """Return the texture folder beside the real scans, else the procedural textures."""
    folder = asked.real / "dtd" / "images" if asked.real else None
    return str(folder) if folder and folder.is_dir() else "procedural"


# ----------------------------------------------------------------------------------------------------- the detectors


def nowhere() -> Any:
    """Return a source of weights that asks no network."""
    from mvad.model.backbones.weights import WeightsSource

    return WeightsSource(None, Path("nowhere"), offline=True)


def tiny(asked: Asked) -> Mapping[str, Any]:
    """Return the keys of tiny networks that the dry run takes."""
    from training import TINY

    return {**TINY, "train.batch": 2} if asked.quick else {}


def configured(asked: Asked, inputs: int = 5, model: str = "idif", preset: str = "paper", **keys: Any) -> tuple[Any, Any, Any]:
    """Return the training split, a detector ready to be fitted, and the origins of its keys; dots in keys are ``__``."""
    from mvad.datasets.shards.loader import ShardSet
    from mvad.model.fitting import prepare
    from mvad.model.registry import configure

    given = {"teacher": "random", "input.modalities": INPUTS[inputs], "pseudo.textures": textures(asked)} | dict(tiny(asked))
    given |= {name.replace("__", "."): value for name, value in keys.items()}
    config, origins = configure(preset, model, [("benchmark", given)])
    data = ShardSet(shards(asked), "train")
    ready = prepare(data, config, Path("nowhere"), nowhere(), asked.torch_device())
    return data.select([*ready.config.input.modalities]), ready, origins


def batch_views(data: Any, detector: Any, batch: int) -> Any:
    """Return a batch as images on the device; samples come again where the split has fewer."""
    return detector.images(data.batch([k % len(data) for k in range(batch)]))
