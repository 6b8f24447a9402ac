"""Small training runs for tests: a teacher of a few thousand weights, images of 64 pixels, a few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mvad.datasets.registry import default_modalities
from mvad.datasets.shards.loader import ShardSet
from mvad.datasets.shards.pack import PackOptions, pack_renders
from mvad.datasets.synth.generate import SynthOptions, generate
from mvad.model.backbones.choose import choose_teacher
from mvad.model.backbones.protocol import Teacher
from mvad.model.backbones.weights import WeightsSource
from mvad.model.detector import Detector
from mvad.model.fitting import Prepared, fit_run, prepare
from mvad.model.registry import configure
from mvad.model.runs import RunFolder
from mvad.progress import Silent
from mvad.render.engine import Workers
from mvad.render.job import render_category
from mvad.render.options import RenderOptions, RigOptions

CPU = torch.device("cpu")
NOWHERE = WeightsSource(None, Path("nowhere"), offline=True)
TINY: dict[str, Any] = {
    "teacher": "tiny", "input.size": 64, "encoder.channels": 16, "voxel.channels": 4, "voxel.size": 4, "voxel.width": 16,
    "fusion.blocks": 1, "fusion.heads": 2, "decoder.widths": (16, 12, 8), "head.width": 8, "train.student_steps": 4,
    "train.head_steps": 3, "train.checkpoint_every": 2, "pseudo.textures": "procedural", "optimizer.warmup_steps": 2,
    "rd.epochs": 1, "simplenet.epochs": 1, "uniad.epochs": 1, "uniad.width": 16, "uniad.heads": 2, "uniad.layers": 1, "padim.channels": 12,
    "reconstruct.steps": 3, "reconstruct.width": 4, "patchcore.max_patches": 2000, "score.folds": 1,
}  # fmt: skip
"""Changes to the preset demo; each method takes its own of them."""


class StopAfter(Silent):
    """Progress that raises KeyboardInterrupt after a number of steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Count steps."""
        self.left -= steps
        if self.left == 0:
            raise KeyboardInterrupt


def packed_gears(root: Path, seed: int, train: int, validation: int) -> Path:
    """Return the shards of a workspace with generated gears, rendered at 64 pixels, and two good and one of each defect to test."""
    options = SynthOptions(seed=seed, train=train, validation=validation, good=2, per_defect=1, size=128)
    generate("mvtec3d", root / "raw" / "mvtec3d", ["gear"], options, Silent())
    views = RenderOptions(backend="cpu", rig=RigOptions(size=64))
    splits = ("train", "validation", "test")
    render_category("mvtec3d", "gear", root / "raw" / "mvtec3d", root / "renders", views, splits, Workers(), False, Silent())
    pack_renders(root / "renders", "mvtec3d", "gear", root / "shards", PackOptions(), Silent())
    return root / "shards"


def prepared(data: ShardSet, model: str = "idif", **changes: Any) -> tuple[Prepared, dict[str, str]]:
    """Return an unfitted detector of a tiny configuration, and the origins of its keys."""
    layers = [("dataset", {"input.modalities": default_modalities(data.dataset)}), ("test", TINY), ("change", changes)]
    config, origins = configure("demo", model, layers)
    return prepare(data, config, Path("nowhere"), NOWHERE, CPU), origins


def train(run: Path, shards: Path, progress: Any = None, **changes: Any) -> bool:
    """Train a tiny detector into a folder; ``model`` and any dotted key may be given."""
    data = ShardSet(shards, "train")
    ready, origins = prepared(data, changes.pop("model", "idif"), **changes)
    return fit_run(run, data, ready, origins, progress or Silent())


def load(run: Path) -> Detector:
    """Return a trained detector on the CPU."""
    return RunFolder(run).load(NOWHERE, CPU)


def untrained_teacher(name: str = "random") -> Teacher:
    """Return a teacher that needs no weights file."""
    return choose_teacher(name, NOWHERE, 0)[0]
