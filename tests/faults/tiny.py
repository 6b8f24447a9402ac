"""A small render and a small pack, and ways to disturb them: in this process, or in one of their own that may be killed."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from command import ROOT, start, surroundings

from mvad import files
from mvad.datasets.shards.pack import PackOptions, pack_renders
from mvad.errors import BadInput, MvadError
from mvad.progress import Silent
from mvad.render.engine import Workers
from mvad.render.job import render_category
from mvad.render.options import RenderOptions, RigOptions

DATASET, CATEGORY = "mvtec3d", "gear"
OPTIONS = RenderOptions(backend="cpu", rig=RigOptions(size=64, views=2))
PACKING = PackOptions(shard_mb=0.2)
LOGS = {".lock", "timings.jsonl"}
"""Files whose content depends on when, not only on what."""


class CrashError(BaseException):
    """Ends everything past all handlers of ``Exception``, as a kill would."""


def small_raw(workspace: Path, target: Path) -> Path:
    """One training scan and one test scan of a generated category."""
    shutil.copytree(workspace / "raw" / DATASET, target)
    for path in sorted((target / CATEGORY / "test").iterdir()):
        if path.name != "dent":
            shutil.rmtree(path)
    shutil.rmtree(target / CATEGORY / "validation")
    for kind in ("xyz", "rgb"):
        for path in sorted((target / CATEGORY / "train" / "good" / kind).iterdir())[1:]:
            path.unlink()
    return target


def run(raw: Path, out: Path) -> int:
    """Render and pack; returns the number of scans that failed.

    Raises
    ------
    BadInput
        As the command line would end in one line.
    """
    done = render_category(DATASET, CATEGORY, raw, out / "renders", OPTIONS, ("train", "test"), Workers(), False, Silent())
    if not done.failed:
        pack_renders(out / "renders", DATASET, CATEGORY, out / "shards", PACKING, Silent())
    return done.failed


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file but the logs; leftovers of interrupted work are among them."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in LOGS}


@contextmanager
def hooked(hook: Callable[[str], None]) -> Iterator[None]:
    """Install a step hook for a while."""
    before, files.step_hook = files.step_hook, hook
    try:
        yield
    finally:
        files.step_hook = before


def steps_of(action: Callable[[], Any]) -> list[str]:
    """Return the names of an action's I/O steps."""
    steps: list[str] = []
    with hooked(steps.append):
        action()
    return steps


def at(number: int, act: Callable[[str], None]) -> Callable[[str], None]:
    """Return a hook that acts before step ``number``, once."""
    count = -1

    def hook(step: str) -> None:
        nonlocal count
        count += 1
        if count == number:
            act(step)

    return hook


def ended(
    raw: Path, out: Path, kill_at_step: int | None = None, kill_after_s: float | None = None, file_bytes: int | None = None
) -> int:
    """Do the job in a process of its own under a fault; returns its exit code, or minus the signal."""
    code = "import sys; from faults.tiny import job; sys.exit(job(*sys.argv[1:]))"
    step = "" if kill_at_step is None else str(kill_at_step)
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    process = start(
        None, str(raw), str(out), step, code=code, out=out.with_name(f"{out.name}.said"), file_bytes=file_bytes,
        environment=surroundings(PYTHONPATH=paths),
    )  # fmt: skip
    if kill_after_s is None:
        return process.wait(60)
    return process.killed_after(kill_after_s)


def job(raw: str, out: str, kill_at_step: str) -> int:
    """Render and pack in this process, which kills itself before a step, and return what the command line would."""
    if kill_at_step:
        files.step_hook = at(int(kill_at_step), lambda step: os.kill(os.getpid(), signal.SIGKILL))
    try:
        return 6 if run(Path(raw), Path(out)) else 0
    except MvadError as error:
        return error.exit_code


def ends_in_one_line(action: Callable[[], Any]) -> str:
    """Return the message that an action ends in.

    Raises
    ------
    AssertionError
        If it ends well, or the message is not one line.
    """
    try:
        action()
    except BadInput as error:
        message = str(error)
    else:
        raise AssertionError("went through as if nothing were")
    assert "\n" not in message
    return message
