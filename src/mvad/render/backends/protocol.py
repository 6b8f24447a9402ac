"""A rasteriser says which face each sample of a pixel sees. Everything else follows from that, once for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mvad.render.backends.triangles import project
from mvad.render.rig import Rig
from mvad.render.surface import Surface

Finish = Callable[[int, NDArray[np.float64], NDArray[np.int32]], None]
"""Takes a view's number, its projected vertices (``project``) and its faces (``Rasteriser.views``)."""


class Rasteriser(Protocol):
    """Finds the nearest face behind each sample of a view."""

    name: str
    device: str

    def views(self, surface: Surface, rig: Rig, samples: int, finish: Finish) -> None:
        """Draw every view of a rig and hand each to ``finish``.

        Parameters
        ----------
        surface
            In canonical order. Bridging faces are drawn in the views that ``Surface.drawn_in`` says.
        rig, samples
            The cameras; ``samples`` x ``samples`` samples a pixel.
        finish
            Called with (size * samples, size * samples) int32 indices into ``surface.faces``, -1 where a sample
            sees nothing; on another thread where the rasteriser has some.
        """

    def close(self) -> None:
        """Give back what the device holds."""


def projected(surface: Surface, rig: Rig, view: int, samples: int) -> NDArray[np.float64]:
    """Return a surface's vertices on a view's grid of samples, (N, 3) float64; see ``project``."""
    k = rig.intrinsics[view] * samples
    screen: NDArray[np.float64] = project(surface.vertices, rig.poses[view], k[0, 0], k[1, 1], k[0, 2], k[1, 2])
    return screen
