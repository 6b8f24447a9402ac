"""Budget of bytes for the pictures of a page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Budget:
    """Number of bytes left for pictures and clouds, which bounds the size of the page."""

    left: int

    def take(self, size: int) -> bool:
        """Subtract ``size`` bytes and return True, or return False if fewer are left."""
        if size > self.left:
            return False
        self.left -= size
        return True
