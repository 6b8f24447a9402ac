"""Tell a command and a webhook of each decision of a watched folder, at least once, and again where that failed."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
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
_TRIES = 3
_AGAIN_SECONDS = 60.0
_CALL_SECONDS = 60.0
_WEBHOOK_SECONDS = 10.0


class Teller:
    """Calls the command and the webhook with each decision, in order, on a thread of its own.

    Each that was called is noted in ``told.jsonl``. A decision that could not be told is told again a minute later, as soon as another
    could be told, and at the next start; its line is read from the journal then, so that no number of them takes memory. Who is told
    from a later start on is not told of what was decided before.

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
        self._out, self._say = out, say
        asked = ((COMMAND, run_command, command), (WEBHOOK, post, webhook))
        self._listeners: dict[str, Callable[[dict[str, Any]], None]] = {
            what: partial(tell, how) for what, tell, how in asked if how
        }
        self._told: dict[str, set[str]] = {}
        self._untold: set[str] = set()
        self._fails, self._is_trying, self._tried = False, False, 0.0
        self._thread = ThreadPoolExecutor(1, "mvad-tell")

    def __enter__(self) -> Teller:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Interrupted, end after the call that is under way."""
        self._thread.shutdown(cancel_futures=True)

    def begin(self) -> None:
        """Read who was told of what, and tell the decisions of earlier starts that were not told."""
        for line in files.read_lines(self._out / TOLD):  # an earlier version told all or nothing, and did not say what
            self._told.setdefault(line["decision_id"], set()).update([line["what"]] if "what" in line else WHATS)
        if self._listeners:
            ids = (line["decision_id"] for line in files.read_lines(self._out / DECISIONS))
            self._untold = {one for one in ids if self._listeners.keys() - self._told.get(one, set())}
            self._again()

    def tell(self, line: dict[str, Any]) -> None:
        """Tell of a new decision, a line of ``decisions.jsonl``."""
        for what in set(WHATS) - self._listeners.keys():
            self._note(line, what)
        if self._listeners and self._fails:
            self._untold.add(line["decision_id"])  # a server that does not answer would take ten seconds for each
        elif self._listeners:
            self._thread.submit(self._call, line)

    def try_again(self) -> None:
        """Tell again what could not be told, where that is due; call it now and then."""
        if not self._fails or time.monotonic() - self._tried > _AGAIN_SECONDS:
            self._again()

    def finish(self) -> int:
        """Wait until all was tried; return how many decisions could not be told."""
        self._again()
        self._thread.submit(lambda: None).result()
        return len(self._untold)

    def _again(self) -> None:
        if self._untold and not self._is_trying:
            self._is_trying = True
            self._thread.submit(self._tell_untold)

    def _tell_untold(self) -> None:
        try:
            for line in files.read_lines(self._out / DECISIONS):
                if line["decision_id"] in self._untold and not self._call(line):
                    return  # the others would fail, too
        finally:
            self._tried, self._is_trying = time.monotonic(), False

    def _call(self, line: dict[str, Any]) -> bool:
        """Call command and webhook with a decision, and note it; return whether that succeeded.

        The first call that fails three times is said; it and all decisions from then on are tried again later.
        """
        fault, identity = "", line["decision_id"]
        for attempt in range(1 if self._fails else _TRIES):
            try:
                for what, tell in self._listeners.items():
                    if what not in self._told.get(identity, ()):
                        tell(line)
                        self._note(line, what)
                self._fails = False
                self._untold.discard(identity)
                return True
            except Exception as error:  # whatever a command or a server does, the watch goes on
                fault = f"{type(error).__name__}: {error}"
                time.sleep(attempt)
        if not self._fails:
            again = "it and later decisions are tried again every minute, and at the next start"
            self._say(f"notice: {line['sample']}: could not be told ({fault}); {again}")
        self._fails, self._tried = True, time.monotonic()
        self._untold.add(identity)
        return False

    def _note(self, line: dict[str, Any], what: str) -> None:
        """Note that the command or the webhook needs not be told of a decision any more."""
        files.append_line(self._out / TOLD, {"decision_id": line["decision_id"], "what": what})
        self._told.setdefault(line["decision_id"], set()).add(what)


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
