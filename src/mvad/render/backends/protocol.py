"""The rasteriser interface: which face each sample of a pixel sees. Shared code computes everything else from that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mvad.render.backends.triangles import project
from mvad.render.rig import Rig
from mvad.render.surface import Surface

Finish = Callable[[int, NDArray[np.float64], NDArray[np.int32]], None]
"""Called with a view's number, its projected vertices (``project``) and its visible faces (``Rasteriser.views``)."""


class Rasteriser(Protocol):
    """Find the nearest face at each sample of a view.

    Attributes
    ----------
    name
        Name of the backend: ``cpu`` or ``egl``.
    device
        Name of the device that renders, for the records.
    refused
        The devices that were tried before it in vain, each with the reason, one line each.
    """

    name: str
    device: str
    refused: tuple[str, ...]

    def views(self, surface: Surface, rig: Rig, samples: int, finish: Finish) -> None:
        """Draw every view of a rig and hand each to ``finish``.

        Parameters
        ----------
        surface
            In canonical order. ``Surface.drawn_in`` decides in which views bridging faces are drawn.
        rig, samples
            The cameras; ``samples`` x ``samples`` samples per pixel.
        finish
            Called with (size * samples, size * samples) int32 indices into ``surface.faces``, -1 where a sample
            sees nothing; on another thread where the rasteriser has threads.
        """

    def close(self) -> None:
        """Free the threads and the device's memory."""


def projected(surface: Surface, rig: Rig, view: int, samples: int) -> NDArray[np.float64]:
    """Project a surface's vertices onto a view's grid of samples: (N, 3) float64; see ``project``."""
    k = rig.intrinsics[view] * samples
    screen: NDArray[np.float64] = project(surface.vertices, rig.poses[view], k[0, 0], k[1, 1], k[0, 2], k[1, 2])
    return screen
