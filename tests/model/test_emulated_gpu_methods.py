"""Every method trains, continues, is saved, loaded and scores on an emulated CUDA device as on a processor (emulated_gpu/cuda.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from training import TINY, packed_gears

FOLDER = Path(__file__).parents[1] / "emulated_gpu"
sys.path.insert(0, str(FOLDER))
from guard import compiler  # noqa: E402

pytestmark = pytest.mark.skipif(compiler() is None, reason="the emulated CUDA device needs g++ or clang++")

_COMMON = {"teacher": "tiny", "input.size": 64, "input.modalities": ["rgb"], "train.precision": "float32"}
_IDIF = {
    **{name: value for name, value in TINY.items() if name.partition(".")[0] in ("encoder", "voxel", "fusion", "decoder", "head", "pseudo")},
    # Adam moves weights whose gradient is rounding by a whole step; with small ones the same training stays the same.
    "optimizer.student_lr": 1e-6, "optimizer.head_lr": 1e-6, "optimizer.warmup_steps": 2, "train.batch": 2, "train.student_steps": 2, "train.head_steps": 2,
}  # fmt: skip
_HELD_OUT = {"train.holdout": 0.3}

ENTRIES: dict[str, dict[str, Any]] = {
    "patchcore": {"keys": {"patchcore.max_patches": 1000, "patchcore.min_patches": 0}, "evaluate": True},
    "simplenet": {"keys": {"simplenet.epochs": 1, "simplenet.adaptor_lr": 1e-6, "simplenet.discriminator_lr": 1e-6, "score.folds": 1}, "stop": 2},
    "mean_feature": {"keys": {"score.folds": 2, **_HELD_OUT}},
    "padim": {"keys": {"padim.channels": 12, "score.folds": 2, "input.modalities": ["rgb", "normal"]}, "evaluate": True},
    "uniad": {
        # A device drops by numbers of its own, so that trainings would differ.
        "keys": {"uniad.epochs": 1, "uniad.width": 16, "uniad.heads": 2, "uniad.layers": 1, "uniad.dropout": 0.0, "score.folds": 1},
        "stop": 2,
    },
    # As above: Adam, and linear layers before batch norms, whose biases have no gradient but rounding.
    "rd": {"keys": {"rd.epochs": 1, "rd.lr": 1e-5, "score.folds": 1}, "stop": 1},
    "idif": {"keys": {**_IDIF, "score.folds": 2, **_HELD_OUT}, "stop": 1},
    "ivc": {"preset": "demo", "keys": {**_IDIF, "score.folds": 1, "input.modalities": ["rgb", "depth"]}, "stop": 3},
    "conv3d": {"preset": "paper", "keys": {**_IDIF, "fusion.kind": "conv3d"}, "stop": 1},
    "destseg": {"preset": "destseg", "keys": {**_IDIF, "decoder.project": True}, "stop": 3},
    "retrieve": {"keys": {**_IDIF, "score.folds": 1}, "stop": 1},
    "reconstruct": {"keys": {**_IDIF, "reconstruct.steps": 2, "reconstruct.width": 4, "score.folds": 1}, "stop": 1},
    "photographs": {"model": "mean_feature", "keys": {"score.folds": 2}, "evaluate": True},
    "idif with padim": {"model": "idif", "preset": "best", "keys": {**_IDIF, "score.folds": 2}, "stop": 1},
}  # fmt: skip
"""What each method is asked for, with the preset small unless it says another."""


@pytest.fixture(scope="module")
def gear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed_gears(tmp_path_factory.mktemp("gears"), 4, 6, 1) / "mvtec3d" / "gear"


def taken_through(names: list[str], gear: Path, scratch: Path) -> dict[str, dict[str, Any]]:
    """Return what ``methods.py`` says of some entries."""
    asked = [{"model": name, "preset": "small", **ENTRIES[name]} for name in names]
    for each in asked:
        each["keys"] = {**_COMMON, **each["keys"]}
    command = [sys.executable, str(FOLDER / "methods.py"), str(gear), str(scratch), json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(names, map(json.loads, done.stdout.splitlines()), strict=True))


def check(names: list[str], gear: Path, scratch: Path) -> None:
    for name, found in taken_through(names, gear, scratch).items():
        assert "error" not in found, (name, found["error"])
        assert found["moved"] < 1e-4, f"{name}: a run of the device, loaded on the processor, scores as on the device"
        assert found["trained"] < 2e-3, f"{name}: trained on the device it scores as trained on the processor"
        assert found["facts"]["cuda"] == found["facts"]["cpu"], f"{name}: scale and figures without labels"
        stops = found["counts"]["stops_by_line"]
        # The batch is not in page-locked memory here; and IDIF asks whether an object is larger than the head's window.
        known = "copy to the device at datasets/shards/batch", "wait for an", "item at model/idif/training_steps"
        assert not [line for line in stops if not line.startswith(known)]
        assert sum(number for line, number in stops.items() if line.startswith("wait")) == 1, f"{name}: {stops}"
        if ENTRIES[name].get("evaluate"):
            assert found["evaluated"][0] == 8, "samples per call"
            assert found["evaluated"][1] == pytest.approx(found["scores"], rel=1e-3)


@pytest.mark.thorough(8)
def test_a_method_scores_on_the_device_as_on_the_processor_and_waits_once_per_call(gear: Path, tmp_path: Path) -> None:
    check(["patchcore", "simplenet"], gear, tmp_path)


@pytest.mark.thorough(8)
def test_photographs_that_are_seen_everywhere_go_the_same_way(workspace: Path, tmp_path: Path) -> None:
    """They have no field ``seen``: what stands for it has strides of 0, which page-locked memory cannot have."""
    check(["photographs"], workspace / "shards" / "realiad" / "plate", tmp_path)


@pytest.mark.thorough(24)
@pytest.mark.parametrize("name", sorted(ENTRIES.keys() - {"patchcore", "simplenet", "photographs"}))
def test_every_method_does(name: str, gear: Path, tmp_path: Path) -> None:
    check([name], gear, tmp_path)
