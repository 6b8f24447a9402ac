"""What a watch keeps: whose decisions a journal has, who was told of each, and which errors decide nothing."""

from __future__ import annotations

import json
import subprocess
import threading
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mvad import files
from mvad.errors import BadInput
from mvad.pipeline import telling
from mvad.pipeline import watch as module
from mvad.pipeline.telling import COMMAND, TOLD, WEBHOOK, Teller
from mvad.pipeline.watch import DECISIONS, Candidate, Watch, WatchOptions
from mvad.progress import Silent


class Judge:
    """Decides that every part is good, unless it is told to fail."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def decide(self, sample: str) -> tuple[Any, Any]:
        if self.error is not None:
            raise self.error
        facts = {"sample": sample, "decision": "good", "score": 0.0, "threshold": 1.0, "view": 0, "x": None}
        return SimpleNamespace(to_json=lambda: dict(facts)), None


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Watch]:
    """Return what makes a watch of one folder into another, of the files that lie there."""
    monkeypatch.setattr(module, "write_maps", lambda *given: None)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(telling, "_PAUSES", (0.0, 0.0, 0.0))

    def make(source: Path, error: Exception | None = None, **options: Any) -> Watch:
        def find(decided: set[str]) -> Iterator[Candidate]:
            for path in sorted(source.iterdir()):
                yield Candidate(path.name, (path,), True, lambda path=path: path.name)  # type: ignore[misc]

        chosen = WatchOptions(timeout_s=0, settle_s=0, once=True, **options)
        return Watch(Judge(error), find, tmp_path / "out", chosen, source, lambda line: None, Silent())  # type: ignore[arg-type]

    return make


def parts(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(name)
    return folder


def test_a_journal_is_of_one_folder_and_goes_with_it(watched: Callable[..., Watch], tmp_path: Path) -> None:
    monday, tuesday = parts(tmp_path / "27" / "in", "p1", "p2"), parts(tmp_path / "28" / "in", "p1")
    assert watched(monday).run().decided == 2
    with pytest.raises(BadInput, match=r"has the decisions on the parts in .*27/in; give --out"):
        watched(tuesday).run()
    (tmp_path / "27").rename(tmp_path / "archive")
    assert watched(tmp_path / "archive" / "in").run().decided == 0, "it was moved: its parts are decided"


def test_what_fails_in_telling_is_told_again_and_nothing_else(
    watched: Callable[..., Watch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, ran, posted = parts(tmp_path / "in", "p1"), list[str](), list[str]()
    down = [True]

    def post(address: str, line: dict[str, Any]) -> None:
        if down[0]:
            raise OSError("refused")
        posted.append(line["sample"])

    monkeypatch.setattr(telling, "run_command", lambda command, line: ran.append(line["sample"]))
    monkeypatch.setattr(telling, "post", post)
    both = {"command": "gate", "webhook": "http://x"}
    assert watched(source, **both).run().untold == 1
    assert ran == ["p1"], "the command is not called again because the webhook is down"
    down[0] = False
    assert watched(source, **both).run().untold == 0
    assert (ran, posted) == (["p1"], ["p1"])
    assert [line["what"] for line in files.read_lines(tmp_path / "out" / TOLD)] == [COMMAND, WEBHOOK]


def test_decisions_from_before_anybody_was_to_be_told_are_not_told_later(
    watched: Callable[..., Watch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, ran = parts(tmp_path / "in", "p1"), list[str]()
    monkeypatch.setattr(telling, "run_command", lambda command, line: ran.append(line["sample"]))
    watched(source).run()
    parts(source, "p2")
    watched(source, command="gate").run()
    assert ran == ["p2"]


def test_a_journal_of_an_earlier_version_has_told_all_or_nothing(
    watched: Callable[..., Watch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, ran = parts(tmp_path / "in", "p1", "p2"), list[str]()
    monkeypatch.setattr(telling, "run_command", lambda command, line: ran.append(line["sample"]))
    for number, name in enumerate(("p1", "p2")):
        files.append_line(tmp_path / "out" / DECISIONS, {"sample": name, "decision": "good", "decision_id": str(number)})
    files.append_line(tmp_path / "out" / TOLD, {"decision_id": "0"})
    watched(source, command="gate").run()
    assert ran == ["p2"]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), torch.AcceleratorError("launch failure"), MemoryError()]
)
def test_an_error_of_the_device_decides_nothing(watched: Callable[..., Watch], tmp_path: Path, error: Exception) -> None:
    source = parts(tmp_path / "in", "p1")
    with pytest.raises(type(error)):
        watched(source, error).run()
    assert not (tmp_path / "out" / DECISIONS).exists()
    assert watched(source).run().decided == 1
    assert watched(parts(tmp_path / "in", "p3"), ValueError("odd picture")).run().failed == 1
    assert json.loads((tmp_path / "out" / DECISIONS).read_text().splitlines()[-1])["reason"] == "ValueError: odd picture"


def decided_at(watch: Watch, part: Path, written_for: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the second at which a part is decided that is written, once a second, for so many; 30 seconds are its time."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    watch.options = WatchOptions(timeout_s=30, settle_s=2, once=True)
    for second in range(400):
        now[0] = float(second)
        if second < written_for:
            part.write_text("x" * second)
        if watch._look()[1]:
            return second
    raise AssertionError("it is not decided")


def test_a_part_that_is_being_written_when_its_time_is_out_is_decided_when_it_rests(
    watched: Callable[..., Watch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow copy over the network: "failed" is final, so it must not be said of half a file."""
    source = parts(tmp_path / "in", "p1")
    assert decided_at(watched(source), source / "p1", 60, monkeypatch) in (61, 62), "two seconds after the last write"


def test_a_file_that_is_written_for_ever_is_decided_some_time(
    watched: Callable[..., Watch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = parts(tmp_path / "in", "p1")
    assert decided_at(watched(source), source / "p1", 400, monkeypatch) == 300


def http_error(status: int) -> Exception:
    return urllib.error.HTTPError("http://x", status, "odd", {}, None)  # type: ignore[arg-type]


class Told:
    """A command and a webhook that fail where they are told to, with a folder of decisions."""

    def __init__(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.out, self.now, self.starts = out, 1000.0, 0
        self.ran, self.posted, self.tried, self.said = list[str](), list[str](), list[str](), list[str]()
        self.down: Exception | None = None
        self.cannot_start = False
        self.refused, self.unanswered = set[str](), set[str]()
        monkeypatch.setattr(telling, "run_command", self.run)
        monkeypatch.setattr(telling, "post", self.post)
        monkeypatch.setattr(telling, "_PAUSES", (0.0, 0.0, 0.0))
        monkeypatch.setattr(telling.time, "monotonic", lambda: self.now)

    def run(self, command: str, line: dict[str, Any]) -> None:
        self.starts += 1
        if self.cannot_start:
            raise FileNotFoundError("gate")
        if line["sample"] in self.refused:
            raise subprocess.CalledProcessError(1, "gate")
        self.ran.append(line["sample"])

    def post(self, address: str, line: dict[str, Any]) -> None:
        self.tried.append(line["sample"])
        if self.down is not None:
            raise self.down
        if line["sample"] in self.refused:
            raise http_error(422)
        if line["sample"] in self.unanswered:
            raise TimeoutError
        self.posted.append(line["sample"])

    def teller(self, command: str = "", webhook: str = "http://x") -> Teller:
        return Teller(self.out, command, webhook, self.said.append)

    def decided(self, teller: Teller, *names: str, seconds: float = 0.0) -> None:
        self.now += seconds
        for name in names:
            line = {"sample": name, "decision": "good", "decision_id": name}
            files.append_line(self.out / DECISIONS, line)
            teller.tell(line)
        for _ in range(2):
            for listener in teller._listeners:
                listener.thread.submit(lambda: None).result()
            teller.try_again()


def test_a_webhook_that_answers_again_gets_all_that_it_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is down, some decisions are tried once a minute and no other; nothing but the first failure is said."""
    told = Told(tmp_path, monkeypatch)
    names = [f"p{number}" for number in range(12)]
    with told.teller() as teller:
        teller.begin()
        told.down = OSError("refused")
        told.decided(teller, *names[:10])
        assert told.tried == ["p0"] * 3, "three times, then none of those that wait"
        assert told.said == [
            "notice: p0: webhook failed (OSError: refused); it is tried again every minute, as are later decisions, and at the next start"
        ]
        told.decided(teller, names[10], seconds=61)
        assert len(told.tried) == 3 + 3, "three once a minute"
        told.down = None
        told.decided(teller, names[11], seconds=61)
        assert sorted(told.posted) == sorted(names)
        assert teller.finish() == 0
        told.down = OSError("refused")
        told.decided(teller, "q")
        assert len(told.said) == 2
        assert teller.finish() == 1
    told.down = None
    with told.teller() as teller:
        teller.begin()
        assert teller.finish() == 0
    assert sorted(told.posted) == sorted([*names, "q"]), "each once"


@pytest.mark.parametrize("error", [OSError("refused"), TimeoutError(), http_error(503), http_error(404)])
def test_what_gets_no_answer_is_not_tried_for_each_part(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(tmp_path, monkeypatch)
    told.down = error
    told.cannot_start = True
    with told.teller("gate") as teller:
        teller.begin()
        told.decided(teller, *(f"p{number}" for number in range(30)))
        assert (len(told.tried), told.starts) == (3, 3)
        assert len(told.said) == 2
        assert teller.finish() == 30
        assert (len(told.tried), told.starts) == (6, 6)


def test_a_command_does_not_wait_for_a_webhook_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, goes_on = Told(tmp_path, monkeypatch), threading.Event()
    monkeypatch.setattr(telling, "post", lambda address, line: goes_on.wait(20))
    with told.teller("gate") as teller:
        teller.begin()
        for name in ("p1", "p2"):
            teller.tell({"sample": name, "decision": "good", "decision_id": name})
        teller._listeners[0].thread.submit(lambda: None).result()
        assert told.ran == ["p1", "p2"]
        goes_on.set()


def test_a_decision_that_is_refused_does_not_keep_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command fails on p1 and the server takes it for a wrong request; all others are told, now and after a restart."""
    told = Told(tmp_path, monkeypatch)
    told.refused = {"p1"}
    with told.teller("gate") as teller:
        teller.begin()
        told.decided(teller, "p1", "p2")
        told.decided(teller, "p3", seconds=61)
        assert (told.ran, told.posted) == (["p2", "p3"], ["p2", "p3"])
        assert sorted(line.split()[2] for line in told.said) == ["exec", "webhook"]
        assert told.tried.count("p1") == 3, "a refused one is told again at the next start, not every minute"
        assert teller.finish() == 1
    with told.teller("gate") as teller:
        teller.begin()
        told.decided(teller, "p4")
        assert teller.finish() == 1
    told.refused = set()
    with told.teller("gate") as teller:
        teller.begin()
        assert teller.finish() == 0
    assert (told.ran, told.posted) == (["p2", "p3", "p4", "p1"], ["p2", "p3", "p4", "p1"])


def test_decisions_that_alone_get_no_answer_do_not_keep_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(tmp_path, monkeypatch)
    told.unanswered = {"p1", "p2", "p3", "p4"}
    with told.teller() as teller:
        teller.begin()
        told.decided(teller, "p1", "p2", "p3", "p4", "p5", "p6")
        for minute in range(4):
            told.decided(teller, f"q{minute}", seconds=61)
        assert set(told.posted) == {"p5", "p6", "q0", "q1", "q2", "q3"}
        assert teller.finish() == 4


def test_what_was_told_and_could_not_be_noted_is_not_told_three_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(tmp_path, monkeypatch)
    append = files.append_line

    def full(path: Path, value: Any) -> None:
        if path.name == TOLD:
            raise BadInput("told.jsonl: no space")
        append(path, value)

    with told.teller(webhook="http://x", command="gate") as teller:
        teller.begin()
        monkeypatch.setattr(files, "append_line", full)
        told.decided(teller, "p1")
        assert (told.ran, told.posted) == (["p1"], ["p1"])
        assert len(told.said) == 2
        assert teller.finish() == 0


def test_an_interruption_does_not_wait_for_what_could_not_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(tmp_path, monkeypatch)
    for number in range(50):
        files.append_line(tmp_path / DECISIONS, {"sample": f"p{number}", "decision": "good", "decision_id": f"p{number}"})
    begun, goes_on = threading.Event(), threading.Event()

    def slow(address: str, line: dict[str, Any]) -> None:
        begun.set()
        goes_on.wait(20)
        told.posted.append(line["sample"])

    monkeypatch.setattr(telling, "post", slow)
    with told.teller() as teller:
        teller.begin()
        begun.wait(20)
        shutdown = teller._listeners[0].thread.shutdown
        monkeypatch.setattr(teller._listeners[0].thread, "shutdown", lambda **given: (goes_on.set(), shutdown(**given)))
    assert told.posted == ["p0"], "the call that was under way"


@pytest.mark.parametrize(("maps", "written"), [("all", ["bad", "p1"]), ("anomalous", ["bad"]), ("none", [])])
def test_maps_are_written_of_the_parts_that_were_asked_for(
    maps: str, written: list[str], watched: Callable[..., Watch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []
    monkeypatch.setattr(module, "write_maps", lambda folder, key, scored: found.append(key))
    watch = watched(parts(tmp_path / "in", "p1", "bad"), maps=maps)
    decide = watch.judge.decide

    def one_is_bad(sample: Any) -> Any:
        prediction, scored = decide(sample)
        facts = prediction.to_json() | ({"decision": "anomalous"} if sample == "bad" else {})
        return SimpleNamespace(to_json=lambda: dict(facts)), scored

    monkeypatch.setattr(watch.judge, "decide", one_is_bad)
    assert watch.run().decided == 2
    assert found == written
