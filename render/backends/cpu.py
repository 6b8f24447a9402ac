"""The numba rasteriser: default where no hardware GL is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from mvad.render.backends.triangles import to_camera, warm_up, z_buffer
from mvad.render.rig import Rig
from mvad.render.surface import Surface


class CpuRasteriser:
    """Compiled z-buffer; the views of a scan run on threads, since the kernels release the GIL."""

    name = "cpu"

    def __init__(self, threads: int = 1) -> None:
        warm_up()
        self.device = f"numba, {threads} thread{'s' if threads > 1 else ''}"
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def visible_faces(self, surface: Surface, rig: Rig) -> NDArray[np.int32]:
        """See ``Rasteriser.visible_faces``."""

        def one(view: int) -> NDArray[np.int32]:
            points = to_camera(surface.vertices, rig.poses[view])
            count = len(surface.faces) if view == 0 else len(surface.faces) - surface.bridges
            camera = rig.intrinsics[view]
            faces: NDArray[np.int32] = z_buffer(points, surface.faces, count, camera[0, 0], camera[0, 2], camera[1, 2], rig.size)
            return faces

        run = map if self._pool is None else self._pool.map
        return np.stack(list(run(one, range(rig.views))))

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.shutdown()
