"""A rasteriser says which face each pixel's centre sees. Everything else follows from that, once for all."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mvad.render.rig import Rig
from mvad.render.surface import Surface


class Rasteriser(Protocol):
    """Finds the nearest face behind each pixel's centre."""

    name: str
    device: str

    def visible_faces(self, surface: Surface, rig: Rig) -> NDArray[np.int32]:
        """Return (V, H, W) int32 indices into ``surface.faces``, -1 where nothing is seen.

        Bridging faces are drawn in view 0 only.
        """

    def close(self) -> None:
        """Give back what the device holds."""
