"""Watch a folder: decide on each part when its pictures, or its scan, are complete; exactly once, whenever it is killed.

The journal ``decisions.jsonl`` is the truth: a part is decided when its line is written and flushed. Its picture and maps are
written before; the command and the webhook are called after, and each that was called is noted in ``told.jsonl``, so that after a
crash it is called again rather than never: it may see a part twice, with the same ``decision_id``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
from mvad.pipeline.telling import DECISIONS, Teller
from mvad.pipeline.workspace import Workspace
from mvad.progress import Progress

SOURCE = "watched.json"
OF_WHICH = ("all", "anomalous", "none")
FAILED = "failed"
"""Decision on a part that could not be read; a person has to look."""
_NOT_THE_PARTS = (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)
"""Errors that say nothing about the part that is decided on: the next start decides on it."""
_WRITTEN_FOR = 10
"""Timeouts for which a part's files may still be written."""
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
    maps
        Of which parts maps and pictures are written: ``all``, ``anomalous`` or ``none``.
    """

    timeout_s: float = 30.0
    settle_s: float = 0.3
    poll_s: float = 0.2
    command: str = ""
    webhook: str = ""
    once: bool = False
    maps: str = "all"


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
    _said: set[str] = field(default_factory=set)
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
        with files.locked(self.out), Teller(self.out, self.options.command, self.options.webhook, self.progress.say) as teller:
            self._claim()
            for line in files.read_lines(self.out / DECISIONS):
                self.decided.add(line["sample"])
                self._stems.setdefault(file_stem(line["sample"]), line["sample"])
            teller.begin()
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
                teller.try_again()
                spent = time.monotonic() - began
                if not ready:
                    time.sleep(max(self.options.poll_s, min(4 * spent, 5.0)))
            untold = teller.finish()
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

    def _decide(self, candidate: Candidate, teller: Teller) -> str:
        """Decide on a part and tell of it; return the decision, "" where it is put off."""
        try:
            check_stem(candidate.key, self._stems)
            prediction, scored = self.judge.decide(candidate.sample())
            line = prediction.to_json()
            if self.options.maps == "all" or (self.options.maps == "anomalous" and line["decision"] == "anomalous"):
                write_maps(self.out / MAPS, candidate.key, scored)
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
        teller.tell(line)
        return str(line["decision"])


def describe(line: dict[str, Any]) -> str:
    """Return a decision in one line: the part, the decision, score and threshold, and what caused it."""
    if line["decision"] == FAILED:
        return f"{line['sample']}: {FAILED}: {line['reason']}"
    place = f" at ({line['x']}, {line['y']})" if line.get("x") is not None else ""
    view = line["view_name"] if line.get("view_name") else f"view {line['view']}"
    lacks = f"; without {', '.join(line['missing'])}" if line.get("missing") else ""
    sign = ">" if line["decision"] == "anomalous" else "<="
    return f"{line['sample']}: {line['decision']}, {line['score']:.4g} {sign} {line['threshold']:.4g}, highest in {view}{place}{lacks}"


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
