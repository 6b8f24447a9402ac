"""How long work tells where it stands: a protocol of three calls, and the silent one.

The library prints nothing; ``cli.console`` implements this protocol with rich.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Somebody who wants to know how far the work is."""

    def start(self, label: str, total: int, done: int = 0) -> None:
        """Begin a piece of work of ``total`` steps, of which ``done`` were finished earlier."""

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Report finished steps, with figures worth showing (loss, samples per second)."""

    def say(self, line: str) -> None:
        """Show a notice of one line."""


class Silent:
    """Progress for callers who do not want any."""

    def start(self, label: str, total: int, done: int = 0) -> None:
        """Ignore."""

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Ignore."""

    def say(self, line: str) -> None:
        """Ignore."""
