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
from mvad.errors import BadInput

DECISIONS = "decisions.jsonl"
TOLD = "told.jsonl"
COMMAND, WEBHOOK = WHATS = ("exec", "webhook")
_PAUSES = (0.0, 1.0, 2.0)
"""Seconds before each attempt to tell of a new decision."""
_IN_A_ROW = 3
"""Decisions without an answer after which no other is tried for a minute."""
_WRONG_REQUEST = (400, 409, 413, 415, 422)
"""Status of a request that the server will not take, whatever comes later."""
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
        self._ends, self._lock = threading.Event(), threading.Lock()
        asked = ((COMMAND, run_command, command), (WEBHOOK, post, webhook))
        self._listeners = [
            Listener(what, partial(tell, how), self._note, out, say, self._ends) for what, tell, how in asked if how
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
        if not self._listeners:
            return
        told: dict[str, set[str]] = {}
        for line in files.read_lines(self._out / TOLD):  # an earlier version told all or nothing, and did not say what
            told.setdefault(line["decision_id"], set()).update([line["what"]] if "what" in line else WHATS)
        decided = [line["decision_id"] for line in files.read_lines(self._out / DECISIONS)]
        for listener in self._listeners:
            listener.begin({one for one in decided if listener.what not in told.get(one, ())})

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


class Listener:
    """The command or the webhook, with what it could not be told.

    A call that fails is tried twice more. What then could not be told is of one of two kinds:

    - A decision that was refused: the command ends with an error, or the server calls the request wrong. It is told again at the next
      start, and the others now.
    - No answer: the program is missing or hangs, the server is not reached or busy. No other decision is tried until there is an answer;
      once a minute up to three are, and all follow as soon as one call succeeds. Their lines are read from the journal then, so that no
      number of them takes memory.
    """

    def __init__(
        self, what: str, call: Callable[[dict[str, Any]], None], note: Callable[[str, str], None], out: Path,
        say: Callable[[str], None], ends: threading.Event,
    ) -> None:  # fmt: skip
        self.what, self.thread = what, ThreadPoolExecutor(1, f"mvad-{what}")
        self._call, self._note, self._out, self._say, self._ends = call, note, out, say, ends
        self._untold: set[str] = set()
        self._refused: set[str] = set()
        self._last = ""
        self._is_down, self._fails, self._is_trying, self._has_more, self._tried = False, False, False, False, 0.0

    def begin(self, untold: set[str]) -> None:
        """Tell the decisions of earlier starts that were not told."""
        self._untold = untold
        self._again()

    def tell(self, line: dict[str, Any]) -> None:
        """Tell of a new decision."""
        self.thread.submit(self._tell_new, line)

    def try_again(self) -> None:
        """Tell what could not be told, if there is an answer again or a minute is over."""
        if (self._has_more and not self._is_down) or time.monotonic() - self._tried > _AGAIN_SECONDS:
            self._again()

    def finish(self) -> set[str]:
        """Wait until all was tried; return the decisions that could not be told."""
        left = -1
        while len(self._untold) != left:
            self.thread.submit(lambda: None).result()
            left = len(self._untold)
            self._again()
            self.thread.submit(lambda: None).result()
        return self._untold | self._refused

    def _again(self) -> None:
        if self._untold and not self._is_trying:
            self._is_trying = True
            self.thread.submit(self._tell_untold)

    def _tell_new(self, line: dict[str, Any]) -> None:
        fault: Exception | None = None
        for pause in (0.0,) if self._fails else _PAUSES:
            if self._is_down or self._ends.wait(pause):
                self._untold.add(line["decision_id"])
                self._has_more = True
                return
            fault = self._told_of(line)
            if fault is None:
                return
        assert fault is not None
        self._failed(line, fault)
        self._is_down = not _refuses(fault)

    def _tell_untold(self) -> None:
        """Try what could not be told, first what stands behind the last failure: one decision must not keep the others."""
        self._has_more, failed, succeeded = False, 0, False
        try:
            lines = [line for line in files.read_lines(self._out / DECISIONS) if line["decision_id"] in self._untold]
            first = next((k + 1 for k, line in enumerate(lines) if line["decision_id"] == self._last), 0)
            for line in lines[first:] + lines[:first]:
                if self._ends.is_set() or failed == _IN_A_ROW:
                    break
                fault = self._told_of(line)
                if fault is not None:
                    self._failed(line, fault)
                failed = failed + 1 if fault is not None and not _refuses(fault) else 0
                succeeded = succeeded or fault is None
            if failed == _IN_A_ROW or succeeded:  # fewer may be decisions that alone get no answer
                self._is_down = failed == _IN_A_ROW
        finally:
            self._tried, self._is_trying = time.monotonic(), False

    def _told_of(self, line: dict[str, Any]) -> Exception | None:
        """Call the command or the webhook with a decision, and note it; return the error of the call."""
        try:
            self._call(line)
        except Exception as error:  # whatever a command or a server does, the watch goes on
            return error
        self._untold.discard(line["decision_id"])
        self._fails = False
        try:
            self._note(self.what, line["decision_id"])
        except BadInput as error:  # it was told, and must not be told again now
            self._say(f"notice: {error}; {line['sample']} was told and is told again at the next start")
        return None

    def _failed(self, line: dict[str, Any], fault: Exception) -> None:
        """Keep a decision that could not be told, and say so, unless another was said since the last success."""
        identity, refuses = line["decision_id"], _refuses(fault)
        (self._refused if refuses else self._untold).add(identity)
        if refuses:
            self._untold.discard(identity)
        if not self._fails:
            when = "at the next start" if refuses else "every minute, as are later decisions, and at the next start"
            self._say(f"notice: {line['sample']}: {self.what} failed ({type(fault).__name__}: {fault}); it is tried again {when}")
        self._fails, self._last, self._tried = True, identity, time.monotonic()


def _refuses(fault: Exception) -> bool:
    """Return whether a failure is one of the decision that was told, so that others may succeed."""
    if isinstance(fault, urllib.error.HTTPError):
        return fault.code in _WRONG_REQUEST
    return isinstance(fault, subprocess.CalledProcessError)


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
