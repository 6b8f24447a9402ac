"""The rendered views of one scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ViewSet:
    """V views of one scan; all outputs are rendered from the same geometry.

    Attributes
    ----------
    rgb
        (V, H, W, 3) uint8, the sensor's colours, without shading, antialiased; black where nothing is seen.
    depth
        (V, H, W) float32, metres along the optical axis, 0 where nothing is seen.
    normal
        (V, H, W, 3) float32 unit vectors in the view's frame, 0 where nothing is seen.
    mask
        (V, H, W) bool, ground truth of the scan point ``source``, false where nothing is seen.
    source
        (V, H, W) int32, ``row * W + column`` of the scan, -1 where nothing is seen.
    """

    rgb: NDArray[np.uint8]
    depth: NDArray[np.float32]
    normal: NDArray[np.float32]
    mask: NDArray[np.bool_]
    source: NDArray[np.int32]

    def mirrored(self) -> ViewSet:
        """Return the views of the mirrored object: each picture flipped from left to right, and the normals' x with it."""
        normal = np.ascontiguousarray(self.normal[:, :, ::-1])
        normal[..., 0] *= -1
        others = (np.ascontiguousarray(planes[:, :, ::-1]) for planes in (self.mask, self.source))
        return ViewSet(np.ascontiguousarray(self.rgb[:, :, ::-1]), np.ascontiguousarray(self.depth[:, :, ::-1]), normal, *others)  # type: ignore[arg-type]


def empty_views(views: int, size: int) -> ViewSet:
    """Return V views of ``size`` x ``size`` pixels that show nothing, to be filled in."""
    shape = (views, size, size)
    return ViewSet(
        np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.float32), np.zeros((*shape, 3), np.float32),
        np.zeros(shape, np.bool_), np.full(shape, -1, np.int32),
    )  # fmt: skip
