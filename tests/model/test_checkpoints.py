"""Checkpoints: when they are taken, the thread that writes them, and which files are kept."""

from __future__ import annotations

import errno
import functools
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from faults.tiny import at, hooked, steps_of

from mvad.errors import BadInput, CannotWrite
from mvad.model.config import TrainConfig
from mvad.model.training.checkpoint import last_checkpoint, newest_step
from mvad.model.training.checkpoint_writer import CheckpointWriter, Content
from mvad.model.training.context import FitContext
from mvad.model.training.loop import Phase, run_phases
from mvad.model.training.pending import Pending
from mvad.progress import Silent


class Clock:
    """A clock that stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Toy:
    """Two phases of six steps: each adds 1 to one of two weights, and takes a second."""

    def __init__(self, run: Path, first: int = 0, keep: int = 100, **config: float) -> None:
        self.weights = {"a": torch.zeros(3), "b": torch.zeros(2)}
        self.clock, self.done = Clock(), 0
        keys = TrainConfig(**{"checkpoint_seconds": 0.0, "checkpoint_every": 0, "keep_checkpoints": keep, **config})  # type: ignore[arg-type]
        self.writer = CheckpointWriter(run, self.content, first, 12, keys, clock=self.clock)
        self.run, self.first = run, first

    def content(self, step: int) -> Content:
        trained, frozen = ("a", "b") if step < 6 else ("b", "a")
        return Content(0 if step < 6 else 6, {trained: self.weights[trained]}, {frozen: self.weights[frozen]})

    def train(self, before_step: Callable[[int], object] = lambda done: None) -> None:
        def step(name: str, k: int) -> Pending:
            before_step(self.done)
            self.weights[name] += 1
            self.clock.now += 1
            self.done += 1
            return Pending({"loss": 0.0})

        phases = [Phase(name, 6, lambda: None, functools.partial(step, name)) for name in ("a", "b")]
        run_phases(phases, self.first, 1, self.writer, FitContext(self.run, Silent(), lambda figures: None))

    def written(self, _: int = 0) -> int:
        """Wait for what is being written; return the newest step on the disk."""
        return self.writer.newest()


def steps_in(run: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*.json"))


def state_of(run: Path) -> dict[str, list[float]]:
    saved = last_checkpoint(run)
    assert saved is not None
    return {name: tensor.tolist() for name, tensor in saved.tensors.items()}


def test_a_checkpoint_is_taken_when_so_many_seconds_have_passed_and_at_the_end_of_each_phase(tmp_path: Path) -> None:
    toy = Toy(tmp_path, checkpoint_seconds=4)
    toy.train(toy.written)
    assert steps_in(tmp_path) == [4, 6, 10, 12], "4 seconds after the last one, whatever that was taken for"


def test_checkpoints_can_be_taken_by_steps_too_or_at_the_ends_of_phases_only(tmp_path: Path) -> None:
    Toy(tmp_path / "steps", checkpoint_every=5).train()
    assert steps_in(tmp_path / "steps") == [5, 6, 10, 12]
    Toy(tmp_path / "ends").train()
    assert steps_in(tmp_path / "ends") == [6, 12]


def test_a_process_that_does_not_write_takes_no_checkpoint(tmp_path: Path) -> None:
    toy = Toy(tmp_path, checkpoint_seconds=1, checkpoint_every=1)
    toy.writer = CheckpointWriter(tmp_path, toy.content, 0, 12, TrainConfig(checkpoint_every=1), writes=False, clock=toy.clock)
    toy.train()
    assert not (tmp_path / "checkpoints").exists()


def test_training_goes_on_while_a_checkpoint_is_written_and_its_content_stays_that_of_its_step(tmp_path: Path) -> None:
    toy, may_write = Toy(tmp_path, checkpoint_seconds=1), threading.Event()

    def hook(step: str) -> None:
        if step.startswith("write step-1.safetensors"):
            assert may_write.wait(60)

    def before(done: int) -> None:
        if done == 4:  # steps 2 to 4 were due by time
            assert newest_step(tmp_path) == 0
            may_write.set()
            toy.written()

    with hooked(hook):
        toy.train(before)
    assert steps_in(tmp_path)[:2] == [1, 5], "none was due by time while one was written"
    state = safetensors.torch.load_file(tmp_path / "checkpoints" / "step-1.safetensors")
    assert state["a"].tolist() == [1, 1, 1]


def test_one_checkpoint_is_written_after_the_other(tmp_path: Path) -> None:
    done = steps_of(lambda: Toy(tmp_path, checkpoint_every=1).train())
    numbers = [int(step.split("-")[1].split(".")[0]) for step in done if step.startswith("write step-")]
    assert numbers == sorted(numbers)
    assert steps_in(tmp_path) == list(range(1, 13))


def test_a_full_disk_ends_the_training_at_the_next_step_in_one_line(tmp_path: Path) -> None:
    def full(step: str) -> None:
        if step.startswith("write step-2."):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    toy = Toy(tmp_path, checkpoint_every=2)
    with (
        hooked(full),
        pytest.raises(CannotWrite, match=r"step-2\.safetensors: cannot be written: No space.*run the same command"),
    ):
        toy.train(toy.written)
    assert toy.done == 3
    assert steps_in(tmp_path) == []


def test_a_full_disk_at_the_very_end_is_told(tmp_path: Path) -> None:
    def full(step: str) -> None:
        if step.startswith("write step-12."):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with hooked(full), pytest.raises(CannotWrite, match=r"step-12\.safetensors: cannot be written"):
        Toy(tmp_path).train()


@pytest.mark.parametrize("at_step", [1, 5, 8])
def test_what_was_taken_is_on_the_disk_when_a_signal_is_handled(at_step: int, tmp_path: Path) -> None:
    slow, found = threading.Event(), []
    toy = Toy(tmp_path, checkpoint_every=4)
    before = signal.signal(signal.SIGTERM, lambda number, frame: found.append(steps_in(tmp_path)[-1]))
    try:
        with hooked(lambda step: slow.wait(0.05) and None), pytest.raises(KeyboardInterrupt):
            toy.train(lambda done: os.kill(os.getpid(), signal.SIGTERM) if done == at_step else None)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert found == [toy.done] == [at_step + 1]
    assert sum(map(sum, state_of(tmp_path).values())) == sum(float(weight.sum()) for weight in toy.weights.values())


def test_a_signal_during_the_last_write_is_handled_after_it(tmp_path: Path) -> None:
    def hook(step: str) -> None:
        if step.startswith("write step-12.safetensors"):
            os.kill(os.getpid(), signal.SIGINT)

    with hooked(hook), pytest.raises(KeyboardInterrupt):
        Toy(tmp_path).train()
    assert steps_in(tmp_path) == [6, 12]


def test_what_was_taken_is_on_the_disk_after_another_error_and_that_error_is_told(tmp_path: Path) -> None:
    def before(done: int) -> None:
        if done == 4:
            raise BadInput("something else")

    slow = threading.Event()
    with hooked(lambda step: slow.wait(0.05) and None), pytest.raises(BadInput, match="something else"):
        Toy(tmp_path, checkpoint_every=4).train(before)
    assert steps_in(tmp_path) == [4]


def test_a_second_signal_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    may_write = threading.Event()

    def hook(step: str) -> None:
        if step.startswith("write step-3.safetensors"):
            os.kill(os.getpid(), signal.SIGINT)
            assert may_write.wait(60)

    toy = Toy(tmp_path)
    before = set(threading.enumerate())
    with hooked(hook):
        with pytest.raises(KeyboardInterrupt):
            toy.train(lambda done: os.kill(os.getpid(), signal.SIGINT) if done == 2 else None)
        assert steps_in(tmp_path) == []
        (left,) = set(threading.enumerate()) - before
        assert left.daemon, "nor does the end of the process"
        may_write.set()
        left.join()
    assert steps_in(tmp_path) == [3]


@pytest.mark.parametrize("lag", [0, 1])
def test_a_signal_while_figures_are_awaited_loses_none(tmp_path: Path, lag: int) -> None:
    """On a GPU a run spends its time in waiting for the figures of the step before."""
    toy, lines, met = Toy(tmp_path), list[int](), list[int]()

    class Awaited(Pending):
        def __init__(self, step: int) -> None:
            super().__init__({"loss": float(step)})
            self.step = step

        def read(self) -> dict[str, float]:
            if self.step == 3 and not met:
                met.append(self.step)
                raise KeyboardInterrupt
            return super().read()

    phases = [Phase("a", 6, lambda: None, lambda k: Awaited(k + 1))]
    context = FitContext(tmp_path, Silent(), lambda figures: lines.append(figures["step"]))
    with pytest.raises(KeyboardInterrupt):
        run_phases(phases, 0, 1, toy.writer, context, lag)
    assert lines == list(range(1, 4 + lag))
    assert steps_in(tmp_path) == [3 + lag]


def test_a_write_that_breaks_off_anywhere_leaves_the_checkpoint_before_and_no_litter_for_long(tmp_path: Path) -> None:
    """The write of the first checkpoint of a phase, which has a frozen part, is ended before each of its steps."""

    def taken(run: Path, act: Callable[[], Any] = dict) -> Toy:
        toy = Toy(run, keep=1)
        toy.weights["a"] += 5
        toy.writer.save(5)
        toy.writer.finish()
        toy.weights["a"] += 1
        act()
        return toy

    def second(toy: Toy) -> None:
        toy.writer.save(6)
        toy.writer.finish()

    whole = taken(tmp_path / "whole")
    count = len(steps_of(lambda: second(whole)))
    assert count > 15
    found = set()
    for number in range(count):
        toy = taken(tmp_path / str(number))
        with hooked(at(number, _crash)), pytest.raises(_CrashError):
            second(toy)
        state = state_of(toy.run)  # every byte is checked here
        assert state in ({"a": [5.0] * 3, "b": [0.0] * 2}, {"a": [6.0] * 3, "b": [0.0] * 2})
        found.add(state["a"][0])
        (toy.run / "checkpoints" / "step-5.safetensors.part-1").write_bytes(b"of an earlier process")
        toy.writer.save(7)
        toy.writer.finish()
        assert sorted(path.name for path in (toy.run / "checkpoints").iterdir()) == [
            "frozen-6.safetensors", "step-7.json", "step-7.safetensors",
        ]  # fmt: skip
    assert found == {5.0, 6.0}


class _CrashError(BaseException):
    pass


def _crash(step: str) -> None:
    raise _CrashError(step)


def test_a_frozen_part_is_removed_with_the_last_checkpoint_that_refers_to_it(tmp_path: Path) -> None:
    kept = {5: ["frozen-0"], 7: ["frozen-0", "frozen-6"], 8: ["frozen-6"], 12: ["frozen-6"]}
    toy = Toy(tmp_path, keep=3, checkpoint_every=1)
    found = {}

    def before(done: int) -> None:
        toy.written()
        found[done] = sorted(path.stem for path in tmp_path.glob("checkpoints/frozen-*"))

    toy.train(before)
    before(12)
    assert {done: found[done] for done in kept} == kept


def test_nothing_frozen_is_removed_while_a_kept_checkpoint_does_not_say_what_it_needs(tmp_path: Path) -> None:
    toy = Toy(tmp_path, keep=3, checkpoint_every=1)

    def before(done: int) -> None:
        toy.written()
        if done == 8:
            flip(tmp_path / "checkpoints" / "step-7.json")

    toy.train(before)
    assert sorted(path.stem for path in tmp_path.glob("checkpoints/frozen-*")) == ["frozen-6"]
    toy.weights["b"] += 1
    flip(tmp_path / "checkpoints" / "step-12.json")
    (tmp_path / "checkpoints" / "frozen-0.safetensors").write_bytes(b"may be needed")
    toy.writer = CheckpointWriter(tmp_path, toy.content, 12, 14, TrainConfig())
    toy.writer.save(13)
    toy.writer.finish()
    assert (tmp_path / "checkpoints" / "frozen-0.safetensors").exists()


def test_where_all_checkpoints_need_a_damaged_frozen_part_the_training_begins_again(tmp_path: Path) -> None:
    Toy(tmp_path, keep=2, checkpoint_every=1).train()
    flip(tmp_path / "checkpoints" / "frozen-6.safetensors")
    with pytest.raises(BadInput, match=r"damaged .*; delete step-11\.\*, step-12\.\*, which need it, to begin again$"):
        last_checkpoint(tmp_path)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
