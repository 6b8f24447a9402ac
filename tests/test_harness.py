"""The tests' own tools: which part of the long proofs is run, and that a forked command is as good as a started one."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
import warm
from command import MVAD, mvad, python, said, start, surroundings, warm_socket
from conftest import have_turns, one_in


def test_the_parts_of_a_proof_are_all_of_it_and_none_is_empty() -> None:
    shares = [("a", 3), ("a", 1), ("b", 3), ("a", 3), ("a", 3), ("a", 2), ("b", 3), ("b", 3), ("a", 3)]
    for number in range(6, 12):
        turns = have_turns(shares, number)
        assert turns[1], "what is not shared out is always run"
        assert sum(turns[k] for k in (0, 3, 4)) == sum(turns[k] for k in (2, 6, 7)) == 1
    assert any_of(have_turns(shares, number) for number in range(6)) == [True] * len(shares)
    cases = list(range(70))
    assert sorted(case for number in range(80, 88) for case in one_in(cases, 8, number)) == cases
    assert all(len(one_in(cases, 8, number)) in (8, 9) for number in range(8))


def any_of(rows: Iterable[list[bool]]) -> list[bool]:
    return [any(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("words", [["--version"], ["rendre"], ["render", "mvtec3d", "--raw", "nowhere"], ["train", "--help"]])
def test_a_forked_command_says_and_returns_what_a_started_one_does(words: list[str], tmp_path: Path) -> None:
    cold = subprocess.run([*MVAD, *words], capture_output=True, text=True, cwd=tmp_path, env=surroundings())
    warm = mvad(*words, cwd=tmp_path)
    assert (warm.args, warm.returncode, warm.stdout, warm.stderr) == (cold.args, cold.returncode, cold.stdout, cold.stderr)


def test_what_the_server_loads_in_advance_exists() -> None:
    """It passes over what is not installed; a module of ours that was renamed would cost each command its import."""
    ours = [name for name in warm.LIBRARIES if name.startswith("mvad.")]
    assert len(ours) > 10
    assert not [name for name in ours if importlib.util.find_spec(name) is None]


ENDINGS = {
    "exit": ("raise SystemExit(7)", 7, ""),
    "message": ("raise SystemExit('no')", 1, "no"),
    "error": ("1 / 0", 1, "ZeroDivisionError: division by zero"),
    "killed": ("import os; os.kill(os.getpid(), 9)", -9, ""),
    "interrupted": ("raise KeyboardInterrupt", -2, "KeyboardInterrupt"),
    "at exit": ("import atexit; atexit.register(print, 'last'); print('first')", 0, ""),
    "thread": ("import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print('last'))).start()", 0, ""),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_forked_process_ends_as_python_does(name: str) -> None:
    code, returncode, last = ENDINGS[name]
    cold = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=surroundings())
    warm = python(None, code=code)
    assert warm.returncode == cold.returncode == returncode
    assert warm.stdout == cold.stdout
    assert warm.stderr.splitlines()[-1:] == cold.stderr.splitlines()[-1:] == [last] * bool(last)


def test_forked_processes_run_side_by_side_in_surroundings_of_their_own(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; Path(sys.argv[1]).touch()\n"
        "while not Path(sys.argv[2]).exists(): time.sleep(0.01)\n"
        "print(os.getcwd(), os.environ.get('OURS'), os.getsid(0) == os.getpid())"
    )
    one = start(None, "a", "b", code=code, cwd=tmp_path, out=tmp_path / "one", environment={"OURS": "1"}, session=True)
    other = start(None, "b", "a", code=code, cwd=tmp_path, out=tmp_path / "other", environment={})
    assert (one.wait(60), other.wait(60)) == (0, 0)
    assert said(tmp_path / "one")[0] == f"{tmp_path} 1 True\n"
    assert said(tmp_path / "other")[0] == f"{tmp_path} None False\n"


def test_a_process_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    code = "import os, time; from pathlib import Path; Path('id').write_text(str(os.getpid())); time.sleep(60)"
    with pytest.raises(TimeoutError):
        python(None, code=code, cwd=tmp_path, timeout_s=1)
    process = int((tmp_path / "id").read_text())
    deadline = time.monotonic() + 30
    while Path(f"/proc/{process}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{process}").exists()


def test_a_shell_gets_the_output_and_the_exit_code_of_its_command(tmp_path: Path) -> None:
    client = f"{sys.executable} -IS {Path(__file__).with_name('warm.py')} {warm_socket()} mvad.cli.main"
    done = subprocess.run(
        ["bash", "-c", f"{client} --version | tr m M; {client} rendre"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout == mvad("--version").stdout.replace("m", "M")
    assert done.returncode == 2
    assert "rendre" in done.stderr
