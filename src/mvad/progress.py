"""Progress reports of long jobs: a protocol of three methods, and an implementation that ignores them.

The library prints nothing; ``cli.console`` implements this protocol with rich.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receiver of progress reports."""

    def start(self, label: str, total: int, done: int = 0) -> None:
        """Start a job of ``total`` steps, of which ``done`` were finished earlier."""

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Report finished steps, with figures to display (loss, samples per second)."""

    def say(self, line: str) -> None:
        """Display a message of one line."""


class Silent:
    """Progress that is not displayed."""

    def start(self, label: str, total: int, done: int = 0) -> None:
        """Ignore the report."""

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Ignore the report."""

    def say(self, line: str) -> None:
        """Ignore the report."""
