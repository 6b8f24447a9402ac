"""Progress reports on the console: a progress bar in a terminal, else one line every 15 seconds."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

_LINE_EVERY_S = 15.0


class Bars:
    """Implementation of ``mvad.progress.Progress`` with rich."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self._bars = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=28), MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"), TimeRemainingColumn(), console=self.console, transient=False,
            disable=not self.console.is_terminal,
        )  # fmt: skip
        self._task: TaskID | None = None
        self._label, self._total, self._done, self._from = "", 0, 0, 0
        self._began = self._reported = time.monotonic()

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._finish()
        self._bars.stop()

    def start(self, label: str, total: int, done: int = 0) -> None:
        """See ``Progress.start``."""
        self._finish()
        self._label, self._total, self._done, self._from = label, total, done, done
        self._began = self._reported = time.monotonic()
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

    def show(self, table: Table) -> None:
        """Print a table."""
        self._finish()
        self.console.print(table)

    def _finish(self) -> None:
        if self._label and not self.console.is_terminal:
            seconds = time.monotonic() - self._began
            line, self._label = f"{self._label}: {self._done}/{self._total} in {seconds:.1f} s", ""
            self.say(line)
        self._label = ""
