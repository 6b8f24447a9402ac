"""Resuming: bit-identical weights from any checkpoint, its frozen part, and the memory layout of optimizers."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from faults.tiny import hooked, steps_of
from torch import nn
from training import StopAfter, train

from mvad import files
from mvad.errors import BadInput
from mvad.model.training.checkpoint import last_checkpoint, newest_step, pack_optimizer, remove_damaged, unpack_optimizer
from mvad.model.training.checkpoint_writer import CheckpointWriter
from mvad.model.training.tensor_file import tensor_file
from mvad.progress import Silent

IDIF = {"optimizer.student_lr": 1e-3, "optimizer.head_lr": 1e-3, "optimizer.head_residual_lr": 1e-3}
EACH_STEP = {**IDIF, "train.checkpoint_every": 1, "train.keep_checkpoints": 100}


@pytest.fixture
def gear(workspace: Path) -> Path:
    return workspace / "shards" / "mvtec3d" / "gear"


class Clock:
    """A clock that stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def steps_in(run: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*.json"))


@pytest.mark.thorough(6)
def test_what_a_phase_does_not_train_is_written_once_and_is_not_changed_by_it(gear: Path, tmp_path: Path) -> None:
    steps = steps_of(lambda: train(tmp_path / "run", gear, **EACH_STEP))
    folder = tmp_path / "run" / "checkpoints"
    assert steps_in(tmp_path / "run") == list(range(1, 8))
    assert [step for step in steps if step.startswith("write frozen")] == [
        f"write frozen-{begin}.safetensors.part-{os.getpid()}" for begin in (0, 4)
    ]
    for step in range(1, 8):
        names = safetensors.torch.load_file(folder / f"step-{step}.safetensors").keys()
        trained = ("network.", "optimizer") if step < 4 else ("heads.", "optimizer")
        assert all(name.startswith(trained) for name in names)
        assert any(name.startswith("optimizer") for name in names) == (step not in (4, 7)), "no phase goes on from there"
    model = safetensors.torch.load_file(tmp_path / "run" / "model.safetensors")
    frozen = safetensors.torch.load_file(folder / "frozen-4.safetensors")
    assert {name.split(".")[0] for name in frozen} == {"network", "baseline", "window"}
    assert all(torch.equal(model[name], tensor) for name, tensor in frozen.items() if name.startswith("network."))


@pytest.mark.thorough(12)
@pytest.mark.parametrize("damage", ["flipped", "missing", "another"])
def test_a_damaged_frozen_part_is_told_with_a_remedy_that_works(damage: str, gear: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    keys = {**IDIF, "train.checkpoint_every": 1, "train.keep_checkpoints": 3}
    with pytest.raises(KeyboardInterrupt):
        train(run, gear, StopAfter(5), **keys)
    assert steps_in(run) == [3, 4, 5]
    path = run / "checkpoints" / "frozen-4.safetensors"
    if damage == "flipped":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes((run / "checkpoints" / "frozen-0.safetensors").read_bytes())
    wrong = "cannot be read" if damage == "missing" else "damaged"
    remedy = r"delete step-4\.\*, step-5\.\*, which need it, to go back to the checkpoint before"
    with pytest.raises(BadInput, match=rf"frozen-4\.safetensors: {wrong} .*; {remedy}$"):
        train(run, gear, **keys)
    remove_damaged(path)
    assert steps_in(run) == [3]
    train(run, gear, **keys)
    train(tmp_path / "whole", gear, **keys)
    assert_same(run, tmp_path / "whole")


def assert_same(run: Path, whole: Path) -> None:
    one, two = (safetensors.torch.load_file(each / "model.safetensors") for each in (run, whole))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one), "bit for bit"
    logs = [[json.loads(line)["loss"] for line in (each / "metrics.jsonl").read_text().splitlines()] for each in (run, whole)]
    assert logs[0] == logs[1]


@pytest.fixture(scope="module")
def whole(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    train(run, workspace / "shards" / "mvtec3d" / "gear", **IDIF)
    return run


@pytest.mark.thorough(6)
def test_a_training_that_is_stopped_after_every_step_gives_the_weights_of_one_in_one_go(
    gear: Path, whole: Path, tmp_path: Path
) -> None:
    """Within and between phases; the keys of checkpoints may change, and a frozen part is not written again."""
    steps: list[str] = []
    with hooked(steps.append):
        for stop in range(7):
            keys = {**IDIF, "train.checkpoint_every": stop % 2, "train.checkpoint_seconds": stop}
            with pytest.raises(KeyboardInterrupt):
                train(tmp_path / "run", gear, StopAfter(1), **keys)
    assert sum(step.startswith("write frozen") for step in steps) == 2
    train(tmp_path / "run", gear, **IDIF)
    assert_same(tmp_path / "run", whole)


@pytest.mark.thorough(6)
def test_what_a_killed_training_lost_since_its_last_checkpoint_by_time_is_done_again(
    gear: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process dies after its third step, two seconds after a checkpoint by time or the end of a phase."""
    clock, resumed = Clock(), []
    monkeypatch.setattr("mvad.model.training.engine.CheckpointWriter", functools.partial(CheckpointWriter, clock=clock))

    class Killed(Exception):
        pass

    class Dying(Silent):
        left = 3

        def start(self, what: str, total: int, done: int = 0) -> None:
            resumed.append(done)

        def advance(self, steps: int = 1, **figures: float) -> None:
            clock.now += 2
            self.left -= 1
            if not self.left:
                raise Killed

    keys = {**IDIF, "train.checkpoint_every": 0, "train.checkpoint_seconds": 3}
    for _ in range(3):
        with pytest.raises(Killed):
            train(tmp_path / "run", gear, Dying(), **keys)
    train(tmp_path / "run", gear, **keys)
    assert resumed == [0, 2, 4]
    assert newest_step(tmp_path / "run") == 7
    assert_same(tmp_path / "run", whole)


@pytest.mark.thorough(6)
@pytest.mark.parametrize("stop", [2, 4, 5])
def test_a_checkpoint_of_before_with_everything_in_one_file_is_resumed(
    stop: int, gear: Path, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", gear, StopAfter(stop), **IDIF)
    saved, folder = last_checkpoint(tmp_path / "run"), tmp_path / "run" / "checkpoints"
    assert saved is not None
    for path in folder.iterdir():
        path.unlink()
    content = safetensors.torch.save(saved.tensors)
    (folder / f"step-{stop}.safetensors").write_bytes(content)
    facts = {"steps": 7, "step": stop, "sha256": files.sha256_bytes(content)}
    files.write_sealed_json(folder / f"step-{stop}.json", facts)
    record = files.read_sealed_json(tmp_path / "run" / "config.json", "a run", "")
    record["config"] |= {"train.checkpoint_every": 100}
    del record["config"]["train.checkpoint_seconds"]
    files.write_sealed_json(tmp_path / "run" / "config.json", record)
    train(tmp_path / "run", gear, **IDIF)
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, functools.partial(torch.optim.SGD, momentum=0.9)])
def test_after_a_resume_the_state_of_optimizers_has_the_memory_layout_of_the_weights(kind: Any) -> None:
    """Else one kernel for all parameters becomes one kernel for each."""

    def begun() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return module, kind(module.parameters(), lr=0.1)

    def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        torch.manual_seed(1)
        optimizer.zero_grad()
        module(torch.rand(2, 3, 8, 8)).square().sum().backward()
        optimizer.step()

    module, optimizer = begun()
    step(module, optimizer)
    stored = safetensors.torch.load(bytes(tensor_file(pack_optimizer("o", optimizer)).content()))
    again, resumed = begun()
    again.load_state_dict(module.state_dict())
    unpack_optimizer("o", resumed, stored)
    for parameter, fresh in zip(again.parameters(), module.parameters(), strict=True):
        for name, value in resumed.state[parameter].items():
            assert torch.equal(value, optimizer.state[fresh][name])
            if value.shape == parameter.shape:
                assert value.stride() == parameter.stride() == fresh.stride()
    assert any(not parameter.is_contiguous() for parameter in again.parameters())
    step(module, optimizer)
    step(again, resumed)
    assert all(torch.equal(*pair) for pair in zip(module.parameters(), again.parameters(), strict=True))
