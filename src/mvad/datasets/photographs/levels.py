"""Levels of 16-bit cameras as 8 bits, and pictures turned upright."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ORIENTATION = 274
"""Number of the tag of the orientation (EXIF 2.32, TIFF 6.0)."""
TRANSPOSED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""

_WHITES = (255, 1023, 4095, 16383, 65535)
"""Greatest levels of cameras of 8, 10, 12, 14 and 16 bits."""


def white_of(greatest: int) -> int:
    """Return the greatest level of the camera whose pictures have this greatest level.

    Examples
    --------
    >>> white_of(3900), white_of(4096)
    (4095, 16383)
    """
    return next(white for white in _WHITES if greatest <= white)


def scaled(values: NDArray[np.uint16], white: int | None) -> NDArray[np.uint8]:
    """Return levels of 16 bits as 8 bits, ``white`` as 255, rounded; greater ones are clipped. None: see ``read_picture``."""
    top = white or white_of(int(values.max(initial=0)))
    levels = np.minimum(values, np.uint16(top)).astype(np.uint32)
    return ((levels * 510 + top) // (2 * top)).astype(np.uint8)


def orientation_of_page(page: Any) -> int:
    """Return the orientation of a page of a TIFF (``tifffile.TiffPage``), 1 where it says none."""
    tag = page.tags.get(ORIENTATION)
    return 1 if tag is None else int(tag.value)


def upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn an array (H, W, ...) as an EXIF orientation of 1 to 8 says (EXIF 2.32, tag 274)."""
    if orientation in TRANSPOSED:
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values
