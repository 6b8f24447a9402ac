"""The console: results on standard output, progress and notices on standard error.

Progress is a bar in a terminal, else one line every 15 seconds. Tables have their full width where the output is piped, and are
printed as one block per row in a terminal that is too narrow for their columns.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from mvad import files
from mvad.records import encode_json

_LINE_EVERY_S = 15.0
_UNLIMITED = 100_000
"""Width where there is no terminal, so that nothing is wrapped or cut."""


class Bars:
    """Implementation of ``mvad.progress.Progress`` with rich; shows the results of a command, too.

    Parameters
    ----------
    json_out
        The option ``--json``. Where it is ``-``, standard output is left to the JSON, and all else goes to standard error.
    """

    def __init__(self, json_out: Path | None = None) -> None:
        self._json_out = json_out
        self.console = console_on_stderr()
        self.results = self.console if str(json_out) == "-" else console_on_stdout()
        self._bars = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=28), MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"), TimeRemainingColumn(), console=self.console, transient=False,
            disable=not self.console.is_terminal,
        )  # fmt: skip
        self._task: TaskID | None = None
        self._label, self._total, self._done, self._from = "", 0, 0, 0
        self._began = self._reported = time.monotonic()

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._finish()

    def start(self, label: str, total: int, done: int = 0) -> None:
        """See ``Progress.start``."""
        self._finish()
        self._label, self._total, self._done, self._from = label, total, done, done
        self._began = self._reported = time.monotonic()
        if self.console.is_terminal:
            self._bars.start()
        self._task = self._bars.add_task(label, total=total, completed=done, figures="")

    def advance(self, steps: int = 1, **figures: float) -> None:
        """See ``Progress.advance``."""
        self._done += steps
        now = time.monotonic()
        rate = (self._done - self._from) / max(now - self._began, 1e-9)
        shown = {"per_s": rate, **figures}
        text = "  ".join(f"{name} {value:.3g}" for name, value in shown.items())
        if self._task is not None:
            self._bars.update(self._task, advance=steps, figures=text)
        if not self.console.is_terminal and now - self._reported > _LINE_EVERY_S:
            self._reported = now
            left = (self._total - self._done) / max(rate, 1e-9)
            self.say(f"{self._label}: {self._done}/{self._total}  {text}  {left:.0f} s left")

    def say(self, line: str) -> None:
        """See ``Progress.say``."""
        if self._done >= self._total:
            self._finish()
        self.console.print(line, soft_wrap=True, markup=False)

    def tell(self, line: str) -> None:
        """Print a line of the result."""
        self._finish()
        self.results.print(line, soft_wrap=True, markup=False)

    def show(self, table: Table) -> None:
        """Print a table of the result."""
        self._finish()
        print_table(self.results, table)

    def write_json(self, value: Any) -> None:
        """Write a result where ``--json`` says, if it was given."""
        self._finish()
        if str(self._json_out) == "-":
            sys.stdout.write(encode_json(value))
        elif self._json_out is not None:
            files.write_json(self._json_out, value)

    def _finish(self) -> None:
        """End the bar, so that what is printed next stands below it."""
        if self._task is not None:
            if self.console.is_terminal:
                self._bars.stop()
            self._bars.remove_task(self._task)
            self._task = None
        if self._label and not self.console.is_terminal:
            seconds = time.monotonic() - self._began
            line, self._label = f"{self._label}: {self._done}/{self._total} in {seconds:.1f} s", ""
            self.say(line)
        self._label = ""


def console_on_stdout() -> Console:
    """Return the console for results."""
    return Console(highlight=False, emoji=False, width=_width(sys.stdout.isatty()))


def console_on_stderr() -> Console:
    """Return the console for progress and notices."""
    return Console(stderr=True, highlight=False, emoji=False, width=_width(sys.stderr.isatty()))


def _width(is_terminal: bool) -> int | None:
    """Return the width of a console; None: that of the terminal, or of ``COLUMNS``."""
    return None if is_terminal or os.environ.get("COLUMNS", "").isdigit() else _UNLIMITED


def print_table(console: Console, table: Table) -> None:
    """Print a table; where its words do not fit side by side into the console, as one block per row."""
    if Measurement.get(console, console.options.update(width=_UNLIMITED), table).minimum <= console.width:
        console.print(table)
        return
    for line in stacked(table):
        console.print(line, soft_wrap=True)


def stacked(table: Table) -> Iterator[Text]:
    """Yield the lines of a table as blocks: for each row its cells below each other, each after the heading of its column."""
    headings = [str(column.header) for column in table.columns]
    width = max(map(len, headings), default=0)
    yield Text(f"\n{table.title or ''}", style="italic")
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        yield Text()
        for heading, cell in zip(headings, cells, strict=True):
            text = " ".join((cell.plain if isinstance(cell, Text) else str(cell)).split())
            if text:
                yield Text(f"  {heading.ljust(width)}  {text}")
    if table.caption:
        yield Text(f"\n{table.caption}")
