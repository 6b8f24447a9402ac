"""The benchmark of a card, tried without one: every stage, one that hangs, and the stages of steps on the emulated device."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
EMULATED = ROOT / "tests" / "emulated_gpu"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return the benchmark as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    before = set(sys.modules)
    yield importlib.import_module("gpu")
    for name in set(sys.modules) - before:
        if name.startswith("gpu"):
            del sys.modules[name]


def given_data(scratch: Path, workspace: Path) -> None:
    """Put the generated category of the tests where the benchmark finds its own."""
    root = scratch / "data-generated-quick"
    (root / "shards").mkdir(parents=True)
    (root / "shards" / "mvtec3d").symlink_to(workspace / "shards" / "mvtec3d")
    (root / "raw").symlink_to(workspace / "raw" / "mvtec3d")


@pytest.mark.thorough(12)
def test_a_dry_run_measures_every_stage_and_names_what_needs_a_card(workspace: Path, tmp_path: Path) -> None:
    given_data(tmp_path, workspace)
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--quick", "--device", "cpu", "--scratch", str(tmp_path)]
    done = subprocess.run([*command, "--out", str(tmp_path / "gpu.json")], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "gpu.json").read_text())
    failed = [(stage, parts) for stage, parts in found.items() if "'failed'" in repr(parts) or "'ended'" in repr(parts)]
    assert not failed
    assert found["machine"]["device"] == "cpu"
    (row,) = (part for name, part in found["steps"].items() if name.startswith("V = "))
    for phase in ("student", "head"):
        assert 0 < row[phase]["median_ms"] <= row[phase]["p90_ms"]
        assert 0 <= row[phase]["wait_share"] < 1
    assert found["methods"]["idif"]["resumed_difference"] == 0
    assert "needs a CUDA device" in found["attainable head"]["head, V = 5, forward and backward"]["left_out"]
    assert "S-AUROC" in done.stdout


@pytest.mark.thorough(8)
def test_a_stage_that_hangs_is_ended_and_keeps_what_it_had_measured(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "gpu_slow.py"
    slow.write_text("import time\ndef hang(asked):\n    asked.note('first', 1)\n    time.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT / 'src'}")
    monkeypatch.setattr(gpu, "_BUDGET", 480)
    options = Namespace(seconds=480, quick=True, real=None, device="cpu")
    found = gpu._separately(gpu.Stage("slow", "gpu_slow.hang", 30), options, tmp_path, 100)
    assert found["first"] == 1
    assert found["ended"] == "ended after 30 s"
    assert found["seconds"] < 300, "it would have slept for 600"


def test_a_stage_that_cannot_be_imported_says_why(gpu: Any, tmp_path: Path) -> None:
    options = Namespace(seconds=480, quick=True, real=None, device="cpu")
    found = gpu._separately(gpu.Stage("none", "gpu_nowhere.none", 60), options, tmp_path, 100)
    assert found["failed"].startswith("ModuleNotFoundError")
    assert found["ended"] == "exit 1"


@pytest.mark.thorough(12)
def test_the_stages_of_steps_run_on_the_emulated_card(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EMULATED)
    if importlib.import_module("guard").compiler() is None:
        pytest.skip("needs g++ or clang++")
    given_data(tmp_path, workspace)
    stages = ["gpu_steps.steps", "gpu_attainable.head"]
    command = [sys.executable, str(EMULATED / "benchmark.py"), str(tmp_path), json.dumps(stages)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    steps, attainable = map(json.loads, done.stdout.splitlines())
    (row,) = (part for name, part in steps.items() if name.startswith("V = "))
    assert row["student"]["median_ms"] > 0
    assert row["head"]["median_ms"] > 0
    assert "failed" in attainable["head, V = 5, forward and backward"], "an emulated card has no CUDA graphs"
