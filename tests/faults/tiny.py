"""A small render and a small pack, and ways to corrupted them. Also run as a program that forks one corrupted process after another.

``python tiny.py`` reads a JSON object a line, forks a child that does the job under the fault it names, waits, and
answers with how the child ended: importing everything once makes a real SIGKILL cheap enough for dozens.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


class Forker:
    """The program of this module in a process of its own."""

    def __init__(self) -> None:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip

    def ended(self, raw: Path, out: Path, **fault: float) -> int:
        """Do the job under a fault and return the exit code, or minus the signal."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"raw": str(raw), "out": str(out), **fault}) + "\n")
        self.process.stdin.flush()
        return int(json.loads(self.process.stdout.readline())["ended"])

    def close(self) -> None:
        """End the process."""
        self.process.communicate(timeout=30)


def _child(order: dict[str, Any]) -> int:
    if "kill_at_step" in order:
        files.step_hook = at(int(order["kill_at_step"]), lambda step: os.kill(os.getpid(), signal.SIGKILL))
    if "file_bytes" in order:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(order["file_bytes"]), resource.RLIM_INFINITY))
    try:
        return 6 if run(Path(order["raw"]), Path(order["out"])) else 0
    except MvadError as error:
        return error.exit_code


def main() -> None:
    """Serve orders."""
    import open3d  # noqa: F401  # what a job loads late is loaded once, before the forks

    from mvad.render.backends.triangles import warm_up

    warm_up()
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 70
            try:
                code = _child(order)
            finally:
                os._exit(code)
        if "kill_after_s" in order:
            time.sleep(float(order["kill_after_s"]))
            os.kill(child, signal.SIGKILL)
        print(json.dumps({"ended": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}), flush=True)


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


if __name__ == "__main__":
    main()
