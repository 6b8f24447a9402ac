"""The command line as a user starts it, away from the surroundings' settings."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from warm import Started, request

ROOT = Path(__file__).parents[1]
MVAD = [sys.executable, "-m", "mvad.cli.main"]
HIDDEN = ("MVAD_TEXTURES", "MVAD_WORKSPACE", "MVAD_TEACHER_WEIGHTS", "MVAD_REAL_DATA")


def surroundings(**more: str) -> dict[str, str]:
    """Return the variables that a command of the tests gets: this checkout's code and none of the user's settings."""
    kept = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    return kept | {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200"} | more


@functools.cache
def warm_socket() -> str:
    """Start this test process's server of warm commands (see ``warm``) at the first call; returns its socket."""
    folder = tempfile.mkdtemp(prefix="mvad-warm-")
    place = f"{folder}/socket"
    environment = surroundings(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "warm.py"), "serve", place],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True,
    )  # fmt: skip

    def stop() -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.communicate(timeout=10)
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n", "the server of warm commands did not start"
    return place


def start(
    module: str | None,
    *arguments: str,
    out: Path,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    code: str = "",
    session: bool = False,
    file_bytes: int | None = None,
) -> Started:
    """Start ``python -m module arguments``, or ``-c code``, in a forked child; it writes into ``out.stdout`` and ``out.stderr``."""
    files = [open(os.devnull), out.with_suffix(".stdout").open("w"), out.with_suffix(".stderr").open("w")]  # noqa: SIM115
    try:
        return request(
            warm_socket(), module, arguments, str(cwd or Path.cwd()), surroundings() if environment is None else environment,
            [file.fileno() for file in files], code, session, file_bytes,
        )  # fmt: skip
    finally:
        for file in files:
            file.close()


def said(out: Path) -> tuple[str, str]:
    """Return what a started process has written to its standard output and error."""
    return out.with_suffix(".stdout").read_text(), out.with_suffix(".stderr").read_text()


def python(
    module: str | None,
    *arguments: str,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    code: str = "",
    timeout_s: float = 400,
) -> subprocess.CompletedProcess[str]:
    """Do what ``subprocess.run`` of this interpreter does, without its start."""
    with tempfile.TemporaryDirectory(prefix="mvad-said-") as folder:
        out = Path(folder) / "said"
        process = start(module, *arguments, out=out, cwd=cwd, environment=environment, code=code)
        returncode = process.wait(timeout_s)
        words = [sys.executable, *(["-c", code] if module is None else ["-m", module]), *arguments]
        return subprocess.CompletedProcess(words, returncode, *said(out))


def mvad(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of mvad to its end."""
    return python("mvad.cli.main", *arguments, cwd=cwd)
