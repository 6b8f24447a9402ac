"""Many items on one process, on threads, on local workers and on workers of a scheduler: the same results."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, small_options

from mvad.datasets.synth.generate import SynthOptions, generate
from mvad.errors import BadInput, MissingComponent
from mvad.progress import Silent
from mvad.render.backends.choose import worker_number
from mvad.render.engine import Run, Workers, started
from mvad.render.job import render_categories, render_category


def work(item: tuple[str, str]) -> str:
    """Do what an item says; importable by workers."""
    kind, folder = item
    if kind == "bad":
        raise BadInput("this scan is bad")
    if kind == "broken":
        raise RuntimeError("a fault of ours")
    if kind == "missing":
        raise MissingComponent("no driver")
    if kind == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "slow":
        time.sleep(0.4)
    if kind == "flaky":
        tried = Path(folder) / "tried"
        if not tried.exists():
            tried.write_text("once")
            raise OSError(5, "the network file system hiccups")
    if kind == "read":
        tried = Path(folder) / "read"
        if not tried.exists():
            tried.write_text("once")
            raise BadInput("is damaged; download it again") from OSError(5, "the network file system hiccups")
    if kind == "gone":
        raise BadInput("is not there") from FileNotFoundError(2, "no such file")
    return f"{kind} done as worker {worker_number()} by {os.getpid()}"


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A scheduler and two worker processes on loopback, started as docs/cluster.md says."""
    folder = tmp_path_factory.mktemp("cluster")
    # Workers find this module; elsewhere they need mvad alone.
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests"), str(ROOT / "tests" / "render")])
    }
    address = folder / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    commands = [[*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(address)]]
    commands += [[*dask, "worker", "--scheduler-file", str(address), "--nthreads", "1", "--no-dashboard"]] * 2
    processes = []
    try:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        for command in commands:
            processes.append(subprocess.Popen(command, env=environment, cwd=folder, **quiet))  # type: ignore[call-overload]
        deadline = time.monotonic() + 60
        place = ""
        while not place and time.monotonic() < deadline:
            time.sleep(0.05)
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):  # not there, or not written to its end
                place = json.loads(address.read_text())["address"]
        yield place
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=30)


@pytest.fixture(scope="module")
def local() -> Iterator[Run]:
    """Two worker processes of this machine, which tests share that leave them as they were."""
    with started(Workers(2), 8) as run_all:
        yield run_all


@contextlib.contextmanager
def place_of(name: str, request: pytest.FixtureRequest) -> Iterator[Run]:
    """What runs functions: here, on threads, on the shared local workers, or on those of a scheduler."""
    if name == "workers":
        yield request.getfixturevalue("local")
        return
    workers = Workers(scheduler=request.getfixturevalue("scheduler")) if name == "scheduler" else PLACES[name]
    with started(workers, 8) as run_all:
        yield run_all


def run(run_all: Run, kinds: list[str], folder: Path) -> dict[str, object]:
    return {item[0]: result for item, result in run_all(work, [(kind, str(folder)) for kind in kinds])}


PLACES = {"here": Workers(1), "threads": Workers(1, threads=3)}


@pytest.mark.parametrize("place", [*PLACES, "workers", pytest.param("scheduler", marks=pytest.mark.thorough(4))])
def test_a_failure_belongs_to_its_item_alone(place: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with place_of(place, request) as run_all:
        results = run(run_all, ["a", "bad", "b", "broken", "c"], tmp_path)
    assert sorted(results) == ["a", "b", "bad", "broken", "c"]
    assert isinstance(results["bad"], BadInput)
    assert isinstance(results["broken"], RuntimeError)
    assert all(str(results[kind]).startswith(f"{kind} done") for kind in "abc")
    elsewhere = {str(results[kind]).split()[-1] for kind in "abc"} - {str(os.getpid())}
    assert bool(elsewhere) == (place in ("workers", "scheduler"))


@pytest.mark.thorough(4)
def test_an_item_that_kills_its_workers_is_given_up_and_the_others_finish(local: Run, tmp_path: Path) -> None:
    results = run(local, ["slow", "poison", *"abcdef"], tmp_path)
    assert type(results["poison"]).__name__ == "KilledWorker"
    assert all(str(results[kind]).startswith(f"{kind} done") for kind in ("slow", *"abcdef"))


def test_a_transient_error_is_tried_again_on_workers(local: Run, tmp_path: Path) -> None:
    results = run(local, ["a", "flaky", "read", "gone"], tmp_path)
    assert str(results["flaky"]).startswith("flaky done")
    assert str(results["read"]).startswith("read done"), "a reader's error that comes from the file system, too"
    assert isinstance(results["gone"], BadInput)


def test_workers_are_as_many_as_the_items_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvad.render.engine.usable_cores", lambda: 16)
    assert [Workers(0).jobs_for(items) for items in (0, 12, 39, 40, 300)] == [1, 1, 1, 16, 16]
    assert [Workers(16).jobs_for(items) for items in (1, 12, 300)] == [1, 12, 16]
    assert Workers(4, scheduler="tcp://127.0.0.1:1").jobs_for(300) == 1


@pytest.mark.thorough(4)
def test_workers_are_started_anew_for_a_larger_category(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    @contextlib.contextmanager
    def here(workers: Workers, items: int) -> Iterator[Run]:
        asked.append(items)
        with started(Workers(1), items) as run_all:
            yield run_all

    monkeypatch.setattr("mvad.render.job.started", here)
    sizes = {"gear": (2, 1), "plate": (3, 2), "dome": (2, 1)}
    (tmp_path / "raw").mkdir()
    for name, (train, good) in sizes.items():
        options = SynthOptions(train=train, validation=0, good=good, per_defect=0, size=128)
        generate("mvtec3d", tmp_path / name, [name], options, Silent())
        shutil.move(tmp_path / name / name, tmp_path / "raw" / name)

    def render(target: str, workers: Workers) -> list[int]:
        done = render_categories(
            "mvtec3d", sizes, tmp_path / "raw", tmp_path / target, small_options(), ("train", "test"), workers, False, Silent()
        )
        return [one.rendered for one in done]

    assert render("two", Workers(2)) == [3, 5, 3]
    assert asked == [3], "two workers are enough for all"
    assert render("four", Workers(4)) == [3, 5, 3]
    assert asked == [3, 3, 5]


def number_in(text: str) -> int:
    return int(text.split("as worker ")[1].split()[0])


def test_local_workers_are_numbered_from_0_on(local: Run, tmp_path: Path) -> None:
    found: set[int] = set()
    for _ in range(20):  # one that another test has killed may still be starting
        found |= {number_in(str(result)) for _, result in local(work, [("slow", str(tmp_path))] * 4)}
        if len(found) > 1:
            break
    assert found == {0, 1}
    assert worker_number() == 0


@pytest.mark.thorough(4)
def test_workers_of_a_scheduler_have_no_numbers(scheduler: str, tmp_path: Path) -> None:
    with started(Workers(scheduler=scheduler), 4) as run_all:
        texts = [str(result) for _, result in run_all(work, [("slow", str(tmp_path))] * 4)]
    assert {number_in(text) for text in texts} == {0}


@pytest.mark.thorough(8)
def test_workers_that_grow_old_are_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    items = [(f"item{k}", str(tmp_path)) for k in range(10)]
    with started(Workers(2, recycle=3), len(items)) as run_all:
        results = {item[0]: str(result) for item, result in run_all(work, items)}
    assert sorted(results) == sorted(kind for kind, _ in items)
    assert all(text.startswith(f"{kind} done") for kind, text in results.items()), results
    assert len({text.split()[-1] for text in results.values()}) > 2
    assert {number_in(text) for text in results.values()} == {0, 1}, "a new process has the number of the one before it"


@pytest.mark.parametrize("place", [*PLACES, "workers"])
def test_what_is_missing_for_one_is_missing_for_all(place: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with place_of(place, request) as run_all, pytest.raises(MissingComponent, match="no driver"):
        run(run_all, ["missing"] * 4, tmp_path)


def interrupted(item: tuple[str, str]) -> str:
    """What a library makes of Ctrl-C that meets it in compiled code."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as error:
        raise SystemError("returned a result with an exception set") from error


@pytest.mark.parametrize("place", ["here", "threads"])
def test_an_interruption_that_a_library_wrapped_is_no_failure_of_a_scan(place: str) -> None:
    with pytest.raises(KeyboardInterrupt), started(PLACES[place], 1) as run_all:
        list(run_all(interrupted, [("a", "")]))


def test_no_scheduler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import distributed

    client = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda address, timeout: client(address, timeout="1s"))  # not 5
    with pytest.raises(BadInput, match="no Dask scheduler answers"), started(Workers(scheduler="tcp://127.0.0.1:9"), 1):
        pass


@pytest.mark.thorough(8)
def test_a_scheduler_on_loopback_renders_the_same_bytes(scheduler: str, workspace: Path, tmp_path: Path) -> None:
    done = render_category(
        "mvtec3d", "gear", workspace / "raw" / "mvtec3d", tmp_path, small_options(), ("train", "validation", "test"),
        Workers(scheduler=scheduler), False, Silent(),
    )  # fmt: skip
    assert (done.rendered, done.failed) == (14, 0)
    there = workspace / "renders" / "mvtec3d" / "gear"
    compared = 0
    for path in sorted(there.glob("*/*/*/*")):
        assert (done.folder / path.relative_to(there)).read_bytes() == path.read_bytes(), path
        compared += 1
    assert compared == 14 * 26
