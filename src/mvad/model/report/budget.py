"""How many bytes the page may still take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Budget:
    """Bytes that pictures and clouds may still take, so that the page stays within its size whatever it shows."""

    left: int

    def take(self, size: int) -> bool:
        """Take so many bytes if there are as many."""
        if size > self.left:
            return False
        self.left -= size
        return True
