"""What a training step asks of a GPU, counted on one that is emulated: how often it waits, and how many kernels it launches."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import ROOT
from emulated_gpu.guard import compiler
from PIL import Image
from training import TINY, train

from mvad import files

PROGRAMS = ROOT / "tests" / "emulated_gpu"
pytestmark = pytest.mark.skipif(compiler() is None, reason="the emulated GPU needs g++ or clang++")

SAMPLES = 4
"""Training samples of the workspace: after two batches of two the teacher's features are all kept."""

PAPER = {
    key: value
    for key, value in TINY.items()
    if key.split(".")[0] in ("encoder", "voxel", "fusion", "decoder", "head") and key != "fusion.blocks"
} | {"teacher": "random", "train.batch": 2, "train.precision": "bfloat16", "input.size": 64}  # fmt: skip
"""Preset paper in all but its widths, which no number of launches depends on."""


def emulated(program: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, str(PROGRAMS / program), *arguments], capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("emulated")


@pytest.fixture(scope="module")
def textures(scratch: Path) -> str:
    folder = scratch / "textures"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (80, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return str(folder)


def steps(workspace: Path, scratch: Path, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    gear = workspace / "shards" / "mvtec3d" / "gear"
    found = [json.loads(line) for line in emulated("steps.py", str(gear), str(scratch), json.dumps(asked)).splitlines()]
    for one in found:
        assert "error" not in one, one["error"]
    return found


def paper(workspace: Path, scratch: Path, textures: str, recorded: bool) -> dict[str, Any]:
    """Train preset paper at five views, without or with recorded steps."""
    counts = {"train.student_steps": 8, "train.head_steps": 8, "pseudo.textures": textures, "train.graphs": recorded}
    keys = PAPER | counts | {"dropout.p": 0.0, "input.modalities": ["rgb"]}
    return steps(workspace, scratch, [{"model": "idif", "preset": "paper", "keys": keys, "scores": False}])[0]


@pytest.fixture(scope="module")
def recorded(workspace: Path, scratch: Path, textures: str) -> dict[str, Any]:
    return paper(workspace, scratch, textures, True)


def settled(rows: list[dict[str, Any]], phase: str) -> list[dict[str, Any]]:
    """Steps that are like all later ones: features are kept, momenta are there, and no checkpoint of a phase's end follows."""
    return [row for row in rows if row["phase"] == phase][SAMPLES // 2 : -1]


@pytest.mark.parametrize(("phase", "most"), [("student", 1500), ("head", 700)])
def test_a_step_waits_for_the_device_once_and_launches_few_kernels(recorded: dict[str, Any], phase: str, most: int) -> None:
    row = settled(recorded["steps"], phase)[0]
    assert row["stops"] == 1, row["stops_by_line"]  # its figures are read when the next step is under way
    assert most / 2 < row["launches"] <= most, (phase, row["launches"], row["by_operation"])


@pytest.mark.parametrize("phase", ["student", "head"])
def test_a_recorded_step_takes_a_sixth_of_the_launches(recorded: dict[str, Any], phase: str) -> None:
    """What is recorded may wait for nothing and copy nothing from the host: the emulation raises there, as CUDA does."""
    rows = settled(recorded["steps"], phase)
    assert rows[-1]["launches"] < rows[0]["launches"] / 6, rows[-1]["by_operation"]
    assert rows[-1]["stops"] == 1, rows[-1]["stops_by_line"]


@pytest.mark.thorough(8)
def test_a_recorded_step_gives_the_same_losses(recorded: dict[str, Any], workspace: Path, scratch: Path, textures: str) -> None:
    assert recorded["losses"] == pytest.approx(paper(workspace, scratch, textures, False)["losses"], rel=1e-5)


@pytest.mark.thorough(24)
@pytest.mark.parametrize(
    "more",
    [
        {"input.modalities": ["rgb", "depth"], "dropout.p": 0.4},
        {"dropout.p": 0.4, "dropout.draw": "sample", "encoder.share": "view", "head.share": "view"},
        {"pseudo.views": "consistent", "pseudo.compact": 0.5, "augment.turn_deg": 5.0, "bottleneck.withhold": 0.5},
        {"fusion.kind": "conv3d", "bottleneck.aggregate": "attention", "dropout.p": 0.4},
        {"decoder.share": "shared", "bottleneck.at_test": "sample", "dropout.p": 0.4},
    ],
    ids=["two modalities", "views by sample", "on the scan", "conv3d", "one decoder"],
)
def test_no_configuration_waits_more_often(workspace: Path, scratch: Path, textures: str, more: dict[str, Any]) -> None:
    counts = {"train.student_steps": 6, "train.head_steps": 5, "pseudo.textures": textures, "input.modalities": ["rgb"]} | {
        "train.graphs": False
    }
    [found] = steps(workspace, scratch, [{"model": "idif", "preset": "paper", "keys": PAPER | counts | more, "scores": False}])
    for phase in ("student", "head"):
        for row in settled(found["steps"], phase):
            assert row["stops"] == 1, row["stops_by_line"]


@pytest.mark.thorough(8)
def test_losses_are_those_of_the_processor(workspace: Path, scratch: Path, textures: str, tmp_path: Path) -> None:
    """Data and features on the device, numbers in one copy, late losses, fused optimizers: the same training."""
    changes = {"train.precision": "float32", "train.batch": 2, "pseudo.textures": textures, "dropout.p": 0.4}
    gear = workspace / "shards" / "mvtec3d" / "gear"
    train(tmp_path / "run", gear, **changes)
    expected = [line["loss"] for line in files.read_lines(tmp_path / "run" / "metrics.jsonl")]
    keys = {key: list(value) if isinstance(value, tuple) else value for key, value in (TINY | changes).items()}
    keys = {
        key: value for key, value in keys.items() if key.split(".")[0] not in ("rd", "simplenet", "uniad", "padim", "patchcore")
    }
    keys = {key: value for key, value in keys.items() if not key.startswith("reconstruct")}
    [found] = steps(
        workspace, scratch, [{"model": "idif", "preset": "demo", "keys": keys | {"input.modalities": ["rgb", "depth"]}}]
    )
    assert found["losses"][:4] == pytest.approx(expected[:4], rel=1e-3)
    assert found["losses"] == pytest.approx(expected, rel=2e-2), "the head learns from weights that differ by rounding"
    assert found["batch_matters"] < 1e-4


@pytest.mark.thorough(6)
def test_fused_optimizers_clip_and_leave_out_steps_that_are_not_finite(scratch: Path) -> None:
    found = json.loads(emulated("guarded.py", str(scratch)))
    for on_device, on_host in zip(found[::2], found[1::2], strict=True):
        rows, expected = on_device["rows"], on_host["rows"]
        assert [row["stops"] for row in rows] == [0] * len(rows), "the loss is not read"
        if len(rows) == 3:  # clipped, and where a loss is nan no weight is moved
            for row, other in zip(rows, expected, strict=True):
                assert row["weights"] == pytest.approx(other["weights"], rel=1e-5)
                assert math.isnan(row["loss"]) == math.isnan(other["loss"])
        else:  # the processor moves weights where the loss is finite and the gradient is not
            before = rows[0]["weights"] if len(rows) == 2 else None
            assert math.isnan(rows[-1]["loss"]), "told as a loss that is not finite"
            assert all(math.isfinite(weight) for weight in rows[-1]["weights"])
            assert before is None or rows[-1]["weights"] == before
