"""Watch a folder: decide on each part when its pictures, or its scan, are complete; exactly once, whenever it is killed.

The journal ``decisions.jsonl`` is the truth: a part is decided when its line is written and flushed. Its picture and maps are
written before; the command and the webhook are called after, and each that was called is noted in ``told.jsonl``, so that after a
crash it is called again rather than never: it may see a part twice, with the same ``decision_id``.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mvad import files
from mvad.datasets.photographs.arriving import find_new
from mvad.datasets.registry import find_reader
from mvad.errors import BadInput
from mvad.model.evaluation.decide import NewSample
from mvad.model.evaluation.evaluate import check_stem, file_stem
from mvad.model.evaluation.predict import MAPS, write_maps
from mvad.pipeline.judge import Judge
from mvad.pipeline.photographs import new_part, photographs_of, place_of
from mvad.pipeline.predict import cameras_of, new_scan
from mvad.pipeline.workspace import Workspace
from mvad.progress import Progress

DECISIONS = "decisions.jsonl"
TOLD = "told.jsonl"
SOURCE = "watched.json"
COMMAND, WEBHOOK = WHATS = ("exec", "webhook")
FAILED = "failed"
"""Decision on a part that could not be read; a person has to look."""
_NOT_THE_PARTS = (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)
"""Errors that say nothing about the part that is decided on: the next start decides on it."""
_WRITTEN_FOR = 10
"""Timeouts for which a part's files may still be written."""
_TRIES = 3
_CALL_SECONDS = 60.0
_WEBHOOK_SECONDS = 10.0
_ALONE_SECONDS = 2.0
"""Time for which a scan without a picture of its colours must rest: it may have its own, or they may still come."""


@dataclass(frozen=True)
class WatchOptions:
    """How a folder is watched.

    Attributes
    ----------
    timeout_s
        Seconds after which a part is decided with the views that came.
    settle_s
        Seconds for which a file must not have changed.
    poll_s
        Seconds between two looks at the folder.
    command, webhook
        Command that gets each decision as JSON on its standard input; address that it is sent to by POST. "": none.
    once
        Whether to stop when every part in the folder is decided.
    """

    timeout_s: float = 30.0
    settle_s: float = 0.3
    poll_s: float = 0.2
    command: str = ""
    webhook: str = ""
    once: bool = False


@dataclass(frozen=True)
class Candidate:
    """A part in the folder that is not decided yet.

    Attributes
    ----------
    key
        Its name.
    paths
        Its files.
    complete
        Whether all its views are there.
    rest_s
        Seconds for which its files must rest beyond ``WatchOptions.settle_s``, since more may come that cannot be named.
    sample
        Returns it to be scored.
    """

    key: str
    paths: tuple[Path, ...]
    complete: bool
    sample: Callable[[], NewSample]
    rest_s: float = 0.0


@dataclass(frozen=True)
class Watched:
    """What a watch did: parts decided, those of them that failed, and decisions that could not be told."""

    decided: int
    failed: int
    untold: int


@contextlib.contextmanager
def _teller() -> Iterator[ThreadPoolExecutor]:
    """Yield the thread that calls commands and webhooks; interrupted, it ends after the call that is under way."""
    teller = ThreadPoolExecutor(1, "mvad-tell")
    try:
        yield teller
    finally:
        teller.shutdown(cancel_futures=True)


@dataclass
class _Waiting:
    """What is known of a part that is not decided yet: since when, and its files as they were last seen changing."""

    since: float
    state: tuple[tuple[int, int], ...] = ()
    changed: float = 0.0


def candidates_of(
    judge: Judge, folder: Path, workspace: Workspace, progress: Progress
) -> Callable[[set[str]], Iterator[Candidate]]:  # fmt: skip
    """Return the function that finds the undecided parts of a folder that a run can decide on; pictures of no part are told once.

    Raises
    ------
    BadInput
        If the run is of data that are neither photographs of a folder nor scans, or its cameras are not at hand.
    """
    if judge.run.record.pictures is not None:
        return _photographs_in(judge, folder, progress)
    return _scans_in(judge, folder, workspace)


def _photographs_in(judge: Judge, folder: Path, progress: Progress) -> Callable[[set[str]], Iterator[Candidate]]:
    photographs = photographs_of(judge.run)
    views, told, known = photographs.framing.views, set[str](), dict[str, int]()

    def find(decided: set[str]) -> Iterator[Candidate]:
        listing = find_new(folder, photographs.category, photographs.dataset, photographs.layout, views, decided, known)
        for problem in listing.problems:
            if problem not in told:
                progress.say(f"notice: {problem}")
                told.add(problem)
        for ref in listing.samples:
            complete = {view.camera for view in ref.views} >= set(views)
            yield Candidate(ref.id, ref.paths, complete, lambda ref=ref: new_part(ref, photographs, str(place_of(ref))))  # type: ignore[misc]

    return find


def _scans_in(judge: Judge, folder: Path, workspace: Workspace) -> Callable[[set[str]], Iterator[Candidate]]:
    record = judge.run.record
    reader = find_reader(record.dataset)
    if reader is None:
        raise BadInput(
            f"{judge.run.path}: runs on {record.dataset} cannot watch a folder; give one on own photographs or on scans"
        )
    options, rig = cameras_of(judge.run, workspace)

    def find(decided: set[str]) -> Iterator[Candidate]:
        for ref in reader.new_refs(folder, record.category, options.reading):
            if ref.id not in decided:
                paths = tuple(path for path in ref.paths.values() if path.exists())
                complete = not ref.fault and len(paths) == len(ref.paths)
                rest = 0.0 if "rgb" in ref.paths and "gt" not in ref.paths else _ALONE_SECONDS
                yield Candidate(ref.id, paths, complete, lambda ref=ref: new_scan(ref, options, rig), rest)  # type: ignore[misc]

    return find


@dataclass
class Watch:
    """A folder that is watched; ``run`` goes on until it is interrupted, or all is decided where ``options.once``.

    Attributes
    ----------
    judge, find, out, options
        The loaded run; the function that finds undecided parts; the folder for journal, pictures and maps; how to watch.
    source
        The folder that is watched: a journal is of one folder, since parts of the same name in another are other parts.
    say
        Receives one line per decision.
    progress
        Receives notices.
    """

    judge: Judge
    find: Callable[[set[str]], Iterator[Candidate]]
    out: Path
    options: WatchOptions
    source: Path
    say: Callable[[str], None]
    progress: Progress
    decided: set[str] = field(default_factory=set)
    _waiting: dict[str, _Waiting] = field(default_factory=dict)
    _calls: list[Future[bool]] = field(default_factory=list)
    _said: set[str] = field(default_factory=set)
    _fails: bool = False
    _told: dict[str, set[str]] = field(default_factory=dict)
    _stems: dict[str, str] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)

    def run(self) -> Watched:
        """Watch until interrupted, or until all is decided where ``options.once``.

        Raises
        ------
        BadInput
            If another process watches into the same folder, it cannot be written, or it has the decisions on another folder's parts.
        MemoryError, RuntimeError
            If the device fails or its memory does not suffice: no part is decided for that.
        """
        count, failed = 0, 0
        with files.locked(self.out), _teller() as teller:
            self._claim()
            earlier = files.read_lines(self.out / DECISIONS)
            self.decided = {line["sample"] for line in earlier}
            for line in earlier:
                self._stems.setdefault(file_stem(line["sample"]), line["sample"])
            for line in files.read_lines(self.out / TOLD):  # an earlier version told all or nothing, and did not say what
                self._told.setdefault(line["decision_id"], set()).update([line["what"]] if "what" in line else WHATS)
            for line in earlier:
                self._tell(teller, line)
            while True:
                began = time.monotonic()
                pending, ready = self._look()
                for candidate in ready:
                    decision = self._decide(candidate, teller)
                    if decision:
                        count += 1
                        failed += decision == FAILED
                        pending -= 1
                if self.options.once and not pending:
                    break
                spent = time.monotonic() - began
                if not ready:
                    time.sleep(max(self.options.poll_s, min(4 * spent, 5.0)))
            untold = sum(not call.result() for call in self._calls)
        return Watched(count, failed, untold)

    def _claim(self) -> None:
        """Note whose decisions the journal has; refuse one of another folder, unless that was moved here."""
        path, mine = self.out / SOURCE, str(self.source.resolve())
        before = files.read_json(path)["watched"] if path.exists() else mine
        if before != mine and Path(before).is_dir():
            raise BadInput(
                f"{self.out}: has the decisions on the parts in {before}; give --out another folder for those in {mine}"
            )
        files.write_json(path, {"watched": mine})

    def _look(self) -> tuple[int, list[Candidate]]:
        """Return the number of undecided parts, and those to decide now: complete or timed out, with files that rest."""
        now, ready, seen = time.monotonic(), list[Candidate](), set[str]()
        try:
            found = list(self.find(self.decided))
        except (OSError, BadInput) as error:
            # A folder may be renamed or removed while it is looked at, or a file stand in the way of all.
            if self.options.once and now - self._began > self.options.timeout_s:
                raise
            if str(error) not in self._said:
                self.progress.say(f"notice: {error}")
                self._said.add(str(error))
            return 1, []
        for candidate in found:
            if candidate.key in self.decided or candidate.key in seen:
                continue
            seen.add(candidate.key)
            waiting = self._waiting.setdefault(candidate.key, _Waiting(now))
            state = _state_of(candidate.paths)
            if state != waiting.state:
                waiting.state, waiting.changed = state, now
            rests = bool(state) and now - waiting.changed >= max(self.options.settle_s, candidate.rest_s)
            waited = (now - waiting.since) / max(self.options.timeout_s, 1e-9)
            is_written = bool(state) and not rests  # what is being copied has time, unless it never ends
            if (rests and candidate.complete) or waited >= (_WRITTEN_FOR if is_written else 1):
                ready.append(candidate)
        for gone in set(self._waiting) - seen:
            del self._waiting[gone]
        return len(seen), ready

    def _decide(self, candidate: Candidate, teller: ThreadPoolExecutor) -> str:
        """Decide on a part and tell of it; return the decision, "" where it is put off."""
        try:
            check_stem(candidate.key, self._stems)
            prediction, scored = self.judge.decide(candidate.sample())
            write_maps(self.out / MAPS, candidate.key, scored)
            line = prediction.to_json()
        except Exception as error:
            if getattr(error, "is_general", False) or isinstance(error, _NOT_THE_PARTS):
                raise
            if time.monotonic() - self._waiting[candidate.key].since < self.options.timeout_s:
                self._waiting[candidate.key].state = ()  # it may still be written: wait until it changes, or the time is out
                return ""
            reason = str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}"
            line = {"sample": candidate.key, "decision": FAILED, "reason": reason}
        line |= {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "decision_id": os.urandom(8).hex()}
        files.append_line(self.out / DECISIONS, line)
        files.flush(self.out / DECISIONS)
        self.decided.add(candidate.key)
        self._waiting.pop(candidate.key, None)
        self.say(describe(line))
        # Who is told from a later start on is not told of what was decided before.
        for what in set(WHATS) - self._listeners().keys():
            self._note(line, what)
        self._tell(teller, line)
        return str(line["decision"])

    def _listeners(self) -> dict[str, Callable[[dict[str, Any]], None]]:
        """Return what tells the command and the webhook of a decision, of those that were asked for."""
        asked = ((COMMAND, run_command, self.options.command), (WEBHOOK, post, self.options.webhook))
        return {what: partial(tell, how) for what, tell, how in asked if how}

    def _tell(self, teller: ThreadPoolExecutor, line: dict[str, Any]) -> None:
        if self._listeners().keys() - self._told.get(line["decision_id"], set()):
            self._calls = [call for call in self._calls if not call.done() or not call.result()]
            self._calls.append(teller.submit(self._call, line))

    def _call(self, line: dict[str, Any]) -> bool:
        """Call command and webhook with a decision, and note it; return whether that succeeded.

        A call that fails three times (once, after another that failed) is said, and tried again at the next start.
        """
        fault = ""
        for attempt in range(1 if self._fails else _TRIES):
            try:
                for what, tell in self._listeners().items():
                    if what not in self._told.get(line["decision_id"], ()):
                        tell(line)
                        self._note(line, what)
                self._fails = False
                return True
            except Exception as error:  # whatever a command or a server does, the line goes on
                fault = f"{type(error).__name__}: {error}"
                time.sleep(attempt)
        self._fails = True
        self.progress.say(f"notice: {line['sample']}: could not be told ({fault}); it is told at the next start")
        return False

    def _note(self, line: dict[str, Any], what: str) -> None:
        """Note that the command or the webhook needs not be told of a decision any more."""
        files.append_line(self.out / TOLD, {"decision_id": line["decision_id"], "what": what})
        self._told.setdefault(line["decision_id"], set()).add(what)


def describe(line: dict[str, Any]) -> str:
    """Return a decision in one line: the part, the decision, score and threshold, and what caused it."""
    if line["decision"] == FAILED:
        return f"{line['sample']}: {FAILED}: {line['reason']}"
    place = f" at ({line['x']}, {line['y']})" if line.get("x") is not None else ""
    view = line["view_name"] if line.get("view_name") else f"view {line['view']}"
    lacks = f"; without {', '.join(line['missing'])}" if line.get("missing") else ""
    sign = ">" if line["decision"] == "anomalous" else "<="
    return f"{line['sample']}: {line['decision']}, {line['score']:.4g} {sign} {line['threshold']:.4g}, highest in {view}{place}{lacks}"


def run_command(command: str, line: dict[str, Any]) -> None:
    """Run a command with a decision as JSON on its standard input, and MVAD_PART, MVAD_DECISION, MVAD_SCORE in its environment.

    Raises
    ------
    OSError, subprocess.SubprocessError
        If it cannot be started, fails, or takes more than a minute.
    """
    more = {"MVAD_PART": str(line["sample"]), "MVAD_DECISION": str(line["decision"]), "MVAD_SCORE": str(line.get("score", ""))}
    subprocess.run(
        shlex.split(command), input=json.dumps(line).encode(), env=os.environ | more, check=True, timeout=_CALL_SECONDS
    )


def post(address: str, line: dict[str, Any]) -> None:
    """Send a decision as JSON by POST.

    Raises
    ------
    OSError
        If the address does not answer with success within ten seconds.
    """
    request = urllib.request.Request(address, json.dumps(line).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=_WEBHOOK_SECONDS):
        pass


def _state_of(paths: tuple[Path, ...]) -> tuple[tuple[int, int], ...]:
    """Return size and time of change of files; () where one is gone."""
    found = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            return ()
        found.append((status.st_size, status.st_mtime_ns))
    return tuple(found)
