"""Memory of freed tensors is used again while it is kept, and given back afterwards."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from command import surroundings

from mvad.model import memory
from mvad.model.memory import kept_memory

CPU = torch.device("cpu")
glibc = pytest.mark.skipif(memory._glibc() is None, reason="needs glibc, whose malloc is set")
SIDE = 4096  # of a tensor of 64 MiB


def faults() -> int:
    """Pages that were touched for the first time while a large tensor is made and freed ten times."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(SIDE, SIDE)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_mb() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 20


PROOF = """
import sys; sys.path[:0] = [{tests!r}, {tests!r} + '/..']
from test_memory import CPU, faults, kept_memory, resident_mb
import torch
torch.ones(8)
plain, before = faults(), resident_mb()
with kept_memory(CPU):
    faults()
    kept = faults()
    with kept_memory(CPU):
        pass
    still = faults()
    inside = resident_mb()
print(plain, kept, still, inside - before, resident_mb() - before)
"""


@pytest.mark.thorough(2)
@glibc
def test_a_freed_tensors_memory_is_used_again_and_given_back_at_the_end() -> None:
    proof = PROOF.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", proof], capture_output=True, text=True, env=surroundings(OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr
    plain, kept, still, inside_mb, after_mb = map(int, done.stdout.split())
    assert plain > 10 * 64, "each time the system gives new pages: of 4 KiB, or huge ones"
    assert kept < plain / 50
    assert still < plain / 50, "the inner use has ended, the outer one has not"
    assert inside_mb > 50
    assert after_mb < 30


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the C library is told, in order."""
    words: list[str] = []

    class Library:
        def mallopt(self, name: int, value: int) -> int:
            words.append(f"{name}={value}")
            return 1

        def malloc_trim(self, pad: int) -> int:
            words.append("trim")
            return 1

    monkeypatch.setattr(memory, "_glibc", Library)
    return words


def test_the_last_that_leaves_gives_back(told: list[str]) -> None:
    entered, may_leave = threading.Event(), threading.Event()

    def other() -> None:
        with kept_memory(CPU):
            entered.set()
            may_leave.wait(10)

    thread = threading.Thread(target=other)

    def fails() -> None:
        with kept_memory(CPU):
            thread.start()
            assert entered.wait(10)
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    first = list(told)
    assert first == ["-4=0", "-1=-1"], "the other one is still inside"
    may_leave.set()
    thread.join()
    assert told[: len(first)] == first
    assert told[-1] == "trim"
    assert "-4=65536" in told


def test_nothing_is_set_for_a_gpu(told: list[str]) -> None:
    with kept_memory(torch.device("cuda")):
        pass
    assert not told
