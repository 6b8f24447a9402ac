"""Any stop, then the same command again: the bytes of an uninterrupted run, for every I/O step of a render and a pack."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from command import python
from conftest import Sampled

from faults.tiny import CrashError, at, ended, hooked, run, small_raw, steps_of, tree
from mvad import files
from mvad.datasets.verify import verify_tree
from mvad.errors import BadInput
from mvad.progress import Silent

KILLED_STEPS = 20
RANDOM_KILLS = 20


@pytest.fixture(scope="module")
def raw(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_raw(workspace, tmp_path_factory.mktemp("raw") / "raw")


@pytest.fixture(scope="module")
def whole(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], list[str]]:
    """The tree of an undisturbed run, and its steps."""
    out = tmp_path_factory.mktemp("whole")
    steps = steps_of(lambda: run(raw, out))
    made = tree(out)
    assert len([name for name in made if name.endswith(".h5")]) == 2
    assert verify_tree([out], Silent())[1] == []
    return made, steps


def half_files(out: Path) -> list[str]:
    """Return what is under its final name and not what it says it is."""
    return [fault.text for fault in verify_tree([out], Silent())[1]] if out.exists() else []


def walk(raw: Path, whole: dict[str, bytes], numbers: Sequence[int], folder: Path, act: Callable[[str], None]) -> int:
    """Disturb one step after the other, each in a fresh folder, and run again: nothing half, and the same bytes."""
    for number in numbers:
        out = folder / "out"
        out.mkdir()
        with hooked(at(number, act)), contextlib.suppress(CrashError, BadInput):
            run(raw, out)
        assert half_files(out) == [], f"after step {number}"
        run(raw, out)
        assert tree(out) == whole, f"after step {number}"
        shutil.rmtree(out)
    return len(numbers)


def crash(step: str) -> None:
    raise CrashError(step)


def input_output_error(step: str) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_crash_before_every_single_step(
    raw: Path, whole: tuple[dict[str, bytes], list[str]], tmp_path: Path, tell: Callable[[str], None], sampled: Sampled
) -> None:
    made, steps = whole
    assert len(steps) >= 60
    walked = walk(raw, made, sampled(range(len(steps)), 8), tmp_path, crash)
    tell(f"{walked} of {len(steps)} steps: 0 lost, 0 half")


def test_an_input_output_error_at_steps(
    raw: Path, whole: tuple[dict[str, bytes], list[str]], tmp_path: Path, tell: Callable[[str], None], sampled: Sampled
) -> None:
    made, steps = whole
    walked = walk(raw, made, sampled(range(0, len(steps), 2), 6), tmp_path, input_output_error)
    tell(f"EIO at {walked} of {len(steps)} steps: 0 lost, 0 half, one line or a listed scan each")


def test_a_full_device_at_steps(raw: Path, whole: tuple[dict[str, bytes], list[str]], tmp_path: Path, sampled: Sampled) -> None:
    made, steps = whole

    def full(step: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    walk(raw, made, sampled(range(1, len(steps), 6), 4), tmp_path, full)


def test_a_kill_before_sampled_steps(
    raw: Path, whole: tuple[dict[str, bytes], list[str]], tmp_path: Path, tell: Callable[[str], None], sampled: Sampled
) -> None:
    made, steps = whole
    chosen = sorted(np.random.default_rng(0).choice(len(steps), KILLED_STEPS, replace=False).tolist())
    chosen = sampled(chosen, 4)
    for number in chosen:
        out = tmp_path / f"{number}"
        assert ended(raw, out, kill_at_step=number) == -signal.SIGKILL
        assert half_files(out) == []
        run(raw, out)
        assert tree(out) == made, f"killed before step {number}: {steps[number]}"
    tell(f"SIGKILL before {len(chosen)} of {len(steps)} steps: 0 lost")


def test_kills_at_random_moments(
    raw: Path, whole: tuple[dict[str, bytes], list[str]], tmp_path: Path, tell: Callable[[str], None], sampled: Sampled
) -> None:
    """One folder is killed again and again until it is complete, then the next. Moments lie within what a run takes."""
    made, _ = whole
    began = time.monotonic()
    assert ended(raw, tmp_path / "whole") == 0
    longest_s = time.monotonic() - began
    random, kills, folders = np.random.default_rng(1), 0, 0
    out = tmp_path / "0"
    while kills < len(sampled(range(RANDOM_KILLS), 3)):
        how = ended(raw, out, kill_after_s=float(random.uniform(0.02, longest_s)))
        assert how in (0, -signal.SIGKILL)
        kills += how != 0
        assert half_files(out) == []
        if how == 0:
            assert tree(out) == made
            folders += 1
            out = tmp_path / str(folders)
    assert ended(raw, out) == 0
    assert tree(out) == made
    tell(f"{kills} SIGKILL at random moments over {folders + 1} folders: 0 lost")


def test_a_file_that_may_not_grow_at_every_size_that_is_written(
    raw: Path, whole: tuple[dict[str, bytes], list[str]], tmp_path: Path, tell: Callable[[str], None], sampled: Sampled
) -> None:
    """RLIMIT_FSIZE cuts a write in its middle, as a full disk does: one line or a listed scan, never a signal."""
    made, _ = whole
    sizes = sampled(sorted({len(content) - 1 for content in made.values()} | {0, 1, 4095})[::3], 2)
    codes = []
    for size in sizes:
        out = tmp_path / str(size)
        codes.append(ended(raw, out, file_bytes=size))
        assert codes[-1] in (3, 6), f"files of at most {size} bytes"
        assert half_files(out) == []
        run(raw, out)
        assert tree(out) == made, f"files of at most {size} bytes"
    assert {3, 6} >= set(codes)
    tell(f"full at {len(sizes)} sizes: {codes.count(3)} end in a line, {codes.count(6)} list scans, 0 lost")


def test_a_full_file_system(raw: Path, whole: tuple[dict[str, bytes], list[str]], tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "mvad-test", str(place)], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root and the right to mount")
    try:
        assert ended(raw, place / "out") in (3, 6)
        assert half_files(place / "out") == []
        subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True, capture_output=True)
        run(raw, place / "out")
        assert tree(place / "out") == whole[0]
    finally:
        subprocess.run(["umount", str(place)], capture_output=True)


def test_short_writes_change_nothing(
    raw: Path, whole: tuple[dict[str, bytes], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = os.write, []

    def some(handle: int, data: memoryview) -> int:
        calls.append(len(data))
        return write(handle, data[: max(1, len(data) // 2)])

    monkeypatch.setattr(os, "write", some)
    run(raw, tmp_path)
    monkeypatch.undo()
    assert len(calls) > 300
    assert tree(tmp_path) == whole[0]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("verb", ["render", "pack"])
def test_an_interruption_in_the_middle_of_a_verb(
    verb: str, number: int, code: int, raw: Path, workspace: Path, tmp_path: Path
) -> None:
    """The signal comes before a write in the middle; no traceback, and running it again gives what an idle run does."""
    if (verb, number) == ("render", signal.SIGTERM):
        return  # as with SIGINT; tests/cli has both for a render, by the clock
    lines = {
        "render": ["render", "mvtec3d", "--raw", str(raw), "--size", "64", "--views", "2", "--jobs", "1", "--backend", "cpu"],
        "pack": ["pack", "--shard-mb", "0.2"],
    }
    if verb == "pack":
        run(raw, tmp_path / "ws")
        shutil.rmtree(tmp_path / "ws" / "shards")
    code_text = (
        "import os, sys\nfrom mvad import files\nsteps = []\n"
        "def hook(step):\n"
        "    steps.append(step)\n"
        f"    if len(steps) == 12: os.kill(os.getpid(), {int(number)})\n"
        "files.step_hook = hook\nfrom mvad.cli.main import run\nrun()\n"
    )
    done = python(None, *lines[verb], "--workspace", str(tmp_path / "ws"), code=code_text, timeout_s=120)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "mvad: " not in done.stderr
    assert half_files(tmp_path / "ws") == []
    run(raw, tmp_path / "ws")
    run(raw, tmp_path / "idle")
    assert tree(tmp_path / "ws") == tree(tmp_path / "idle")


# Each protection taken away once: the group must fail without it.


def in_place(path: Path, data: bytes) -> None:
    """A writer without a second name: the step comes when half is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(bytes(data)[: len(data) // 2])
        file.flush()
        files.step_hook("in the middle")
        file.write(bytes(data)[len(data) // 2 :])


def test_without_the_rename_the_walk_fails(
    raw: Path, whole: tuple[dict[str, bytes], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "write_bytes", in_place)
    with pytest.raises((AssertionError, BadInput)):
        walk(raw, whole[0], range(len(whole[1])), tmp_path, crash)


def test_without_removing_leftovers_the_walk_fails(
    raw: Path, whole: tuple[dict[str, bytes], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mvad.render.job._remove_leftovers", lambda folder: None)
    monkeypatch.setattr(files, "remove_unfinished", lambda path: None)
    with pytest.raises(AssertionError):
        walk(raw, whole[0], range(len(whole[1])), tmp_path, crash)


def test_without_noticing_short_writes_the_disk_group_fails(
    raw: Path, whole: tuple[dict[str, bytes], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(path: Path, data: bytes) -> None:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(handle, data[: len(data) // 2])
        os.close(handle)

    monkeypatch.setattr(files, "write_new", careless)
    with contextlib.suppress(BadInput):
        run(raw, tmp_path)
    monkeypatch.undo()
    assert half_files(tmp_path) != []
