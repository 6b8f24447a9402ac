"""The numba rasteriser: the default where there is no hardware OpenGL.

It uses a thread pool of its own: the kernels release the GIL, so views run in parallel without numba's threading layers,
whose choice is global and whose TBB layer warns where TBB is old.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from mvad.render.backends.protocol import Finish, projected
from mvad.render.backends.triangles import warm_up, z_buffer
from mvad.render.rig import Rig
from mvad.render.surface import Surface


class CpuRasteriser:
    """Compiled z-buffer; ``threads`` threads process the views of a scan."""

    name = "cpu"

    def __init__(self, threads: int = 1) -> None:
        warm_up()
        self.device = "numba"
        self.refused: tuple[str, ...] = ()
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def views(self, surface: Surface, rig: Rig, samples: int, finish: Finish) -> None:
        """See ``Rasteriser.views``."""

        def draw(view: int) -> tuple[int, NDArray[np.float64], NDArray[np.int32]]:
            screen = projected(surface, rig, view, samples)
            return view, screen, z_buffer(screen, surface.faces, surface.drawn_in(rig.poses[view]), rig.size * samples)

        if self._pool is None:
            for view in range(rig.views):
                finish(*draw(view))
            return
        # Two tasks per view, so that two threads share five views evenly.
        pool = self._pool
        tasks = [
            pool.submit(lambda view=view: pool.submit(finish, *draw(view)))  # type: ignore[misc]
            for view in range(rig.views)
        ]
        for task in tasks:
            task.result().result()

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.shutdown()
