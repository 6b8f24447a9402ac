"""Tell a command and a webhook of each decision of a watched folder, at least once, and again where that failed."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from mvad import files

DECISIONS = "decisions.jsonl"
TOLD = "told.jsonl"
COMMAND, WEBHOOK = WHATS = ("exec", "webhook")
_PAUSES = (0.0, 1.0, 2.0)
"""Seconds before the next attempt, after each attempt of a new decision that fails."""
_AGAIN_SECONDS = 60.0
_CALL_SECONDS = 60.0
_WEBHOOK_SECONDS = 10.0


class Teller:
    """Tells the command and the webhook of each decision; each has a thread of its own, so that neither waits for the other.

    Each call that succeeded is noted in ``told.jsonl``. Who is told from a later start on is not told of what was decided before.

    Parameters
    ----------
    out
        Folder of ``decisions.jsonl`` and ``told.jsonl``.
    command, webhook
        Command that gets each decision as JSON on its standard input; address that it is sent to by POST. "": none.
    say
        Receives notices.
    """

    def __init__(self, out: Path, command: str, webhook: str, say: Callable[[str], None]) -> None:
        self._out = out
        self._told: dict[str, set[str]] = {}
        self._ends, self._lock = threading.Event(), threading.Lock()
        asked = ((COMMAND, run_command, command), (WEBHOOK, post, webhook))
        self._listeners = [
            Listener(what, partial(tell, how), out, partial(self._note, what), say, self._ends)
            for what, tell, how in asked
            if how
        ]

    def __enter__(self) -> Teller:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Interrupted, end after the calls that are under way."""
        self._ends.set()
        for listener in self._listeners:
            listener.thread.shutdown(cancel_futures=True)

    def begin(self) -> None:
        """Read who was told of what, and tell the decisions of earlier starts that were not told."""
        for line in files.read_lines(self._out / TOLD):  # an earlier version told all or nothing, and did not say what
            self._told.setdefault(line["decision_id"], set()).update([line["what"]] if "what" in line else WHATS)
        if self._listeners:
            decided = [line["decision_id"] for line in files.read_lines(self._out / DECISIONS)]
            for listener in self._listeners:
                listener.begin({one for one in decided if listener.what not in self._told.get(one, ())})

    def tell(self, line: dict[str, Any]) -> None:
        """Tell of a new decision, a line of ``decisions.jsonl``."""
        for what in set(WHATS) - {listener.what for listener in self._listeners}:
            self._note(what, line["decision_id"])
        for listener in self._listeners:
            listener.tell(line)

    def try_again(self) -> None:
        """Tell again what could not be told, where that is due; call it now and then."""
        for listener in self._listeners:
            listener.try_again()

    def finish(self) -> int:
        """Wait until all was tried; return how many decisions could not be told to all."""
        return len(set[str]().union(*(listener.finish() for listener in self._listeners)))

    def _note(self, what: str, decision_id: str) -> None:
        """Note that the command or the webhook needs not be told of a decision any more."""
        with self._lock:
            files.append_line(self._out / TOLD, {"decision_id": decision_id, "what": what})
            self._told.setdefault(decision_id, set()).add(what)


class Listener:
    """The command or the webhook, with what it could not be told.

    A command that fails on a decision is called with it again at the next start, and with the others now: its failure is one of that
    decision. A webhook that does not answer gets no other decision until it answers again: it is tried once a minute, and gets what it
    missed as soon as one try succeeds. Lines are read from the journal then, so that no number of them takes memory.
    """

    def __init__(
        self, what: str, call: Callable[[dict[str, Any]], None], out: Path, note: Callable[[str], None], say: Callable[[str], None],
        ends: threading.Event,
    ) -> None:  # fmt: skip
        self.what, self.thread = what, ThreadPoolExecutor(1, f"mvad-{what}")
        self._call_with, self._out, self._note, self._say, self._ends = call, out, note, say, ends
        self._untold: set[str] = set()
        self._is_down, self._is_due, self._is_trying, self._tried = False, False, False, 0.0

    def begin(self, untold: set[str]) -> None:
        """Tell the decisions of earlier starts that were not told."""
        self._untold = untold
        self._again()

    def tell(self, line: dict[str, Any]) -> None:
        """Tell of a new decision, later where the webhook does not answer: it would take ten seconds for each."""
        if self._is_down:
            self._untold.add(line["decision_id"])
        else:
            self.thread.submit(self._tell_new, line)

    def try_again(self) -> None:
        """Tell the webhook again what it could not be told, if it answers again or a minute is over."""
        if self.what == WEBHOOK and (self._is_due or time.monotonic() - self._tried > _AGAIN_SECONDS):
            self._again()

    def finish(self) -> set[str]:
        """Wait until all was tried; return the decisions that could not be told."""
        left = -1
        while len(self._untold) != left:
            self.thread.submit(lambda: None).result()
            left = len(self._untold)
            if self.what == WEBHOOK:
                self._again()
                self.thread.submit(lambda: None).result()
        return self._untold

    def _again(self) -> None:
        if self._untold and not self._is_trying:
            self._is_trying = True
            self.thread.submit(self._tell_untold)

    def _tell_new(self, line: dict[str, Any]) -> None:
        for number, pause in enumerate(_PAUSES):
            if self._ends.is_set() or self._told_of(line, final=number == len(_PAUSES) - 1):
                return
            self._ends.wait(pause)

    def _tell_untold(self) -> None:
        self._is_due = False
        try:
            for line in files.read_lines(self._out / DECISIONS) if self._untold else ():
                if line["decision_id"] not in self._untold:
                    continue
                if self._ends.is_set() or (not self._told_of(line, final=True, again=True) and self._is_down):
                    return
        finally:
            self._tried, self._is_trying = time.monotonic(), False

    def _told_of(self, line: dict[str, Any], final: bool, again: bool = False) -> bool:
        """Call the command or the webhook with a decision, and note it; return whether that succeeded.

        ``final``: it is not tried again at once; ``again``: it failed before.
        """
        try:
            self._call_with(line)
            self._note(line["decision_id"])
        except Exception as error:  # whatever a command or a server does, the watch goes on
            self._untold.add(line["decision_id"])
            answers = self.what == COMMAND or isinstance(error, urllib.error.HTTPError)
            if final and (not (again and self.what == WEBHOOK) if answers else not self._is_down):
                when = "at the next start" if self.what == COMMAND else "every minute, and at the next start"
                more = "" if answers else ", as are later decisions"
                self._say(
                    f"notice: {line['sample']}: {self.what} failed ({type(error).__name__}: {error}); it is tried again {when}{more}"
                )
            self._is_down = not answers and (final or self._is_down)
            self._tried = time.monotonic()
            return False
        self._untold.discard(line["decision_id"])
        self._is_due, self._is_down = self._is_due or self._is_down, False
        return True


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
