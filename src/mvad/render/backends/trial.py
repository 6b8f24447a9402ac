"""A trial picture: what a GL context must draw exactly before it is accepted.

Its two faces need all that views need: an integer framebuffer, the first corner as the provoking one, faces seen from behind,
the bridges' numbers, the depth test.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = 4
"""Side of the picture in samples."""

_CORNERS = np.array([[-1, -1, 0], [0.8, -1, 0], [-1, 0.8, 0], [-0.9, -1, 0.5], [1, -1, 0.5], [1, 0.9, 0.5]], dtype=np.float32)
"""(6, 3) float32 corners in clip space; no edge runs through the centre of a sample."""

_FACES = np.array([[1, 2, 0], [5, 4, 3]], dtype=np.uint32)
"""(2, 3) uint32: a face, and behind it a bridge that is turned the other way round."""

EXPECTED = np.array([[1, 1, 1, -7], [1, 1, -7, -7], [1, -1, -1, -7], [-1, -1, -1, -1]], dtype=np.int32)
"""(4, 4) int32: 1 is the face's first corner, -7 = -2 - 5 that of the bridge, -1 nothing."""


def try_picture(renderer: Any) -> None:
    """Draw the trial picture with the corner renderer, whose context is current, and compare what is read back.

    Raises
    ------
    RuntimeError
        If it is not exactly the expected picture; errors of GL and of PyOpenGL pass through.
    """
    from pyrender import Mesh, Primitive, Scene

    scene, primitive = Scene(), Primitive(positions=_CORNERS, indices=_FACES)
    scene.add(Mesh([primitive]))
    renderer.viewport_width = renderer.viewport_height = SIZE
    drawn: NDArray[np.int32] = renderer.corners_at(scene, primitive, 1, 1, np.eye(4, dtype=np.float32))
    wrong = int((drawn != EXPECTED).sum())
    if wrong:
        raise RuntimeError(f"{wrong} of the {EXPECTED.size} samples of a trial picture are wrong")
