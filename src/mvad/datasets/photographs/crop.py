"""Find the object in a photograph with a plain background, and one window per view that holds it in all pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_BORDER = 0.02
"""Width of the frame along a picture's border that shows background, as a share of its shorter side."""
_LEAST_DIFFERENCE = 14.0
"""Least difference of an object's colour from the background's, in levels of 255 (the greatest over the channels)."""
_SPREADS = 8.0
"""The same in robust standard deviations of the background."""
_PLAIN = 0.8
"""Least share of the border that must look like its median colour for the background to count as plain."""
_LEAST_PIECE = 0.002
"""Least area of a piece of the object, as a share of the picture."""
_MARGIN = 0.04
"""Margin around the object, as a share of the longer side of its box."""
_LEAST_FOUND = 0.9
"""Least share of the pictures of a view in which the object must be found."""
_WORTH = 0.9
"""Greatest side of a window, as a share of that of the whole picture, that is worth cropping to."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels; right and bottom are exclusive."""


def object_box(picture: NDArray[np.uint8]) -> Box | None:
    """Return the box of what differs from the background; None where the background is not plain, or nothing differs.

    The background's colour is the median along the border. What differs from it by more than 14 levels, and by more than
    eight robust standard deviations, is object; pieces of less than 0.2 % of the picture are dropped.

    Parameters
    ----------
    picture
        (H, W, 3) uint8.

    Examples
    --------
    >>> picture = np.full((60, 80, 3), 200, np.uint8)
    >>> picture[20:40, 30:60] = 20
    >>> object_box(picture)
    (30.0, 20.0, 60.0, 40.0)
    """
    height, width = picture.shape[:2]
    wide = max(1, round(_BORDER * min(height, width)))
    frame = np.ones((height, width), bool)
    frame[wide:-wide, wide:-wide] = False
    border = picture[frame].astype(np.float64)
    middle = np.median(border, axis=0)
    spread = 1.4826 * np.median(np.abs(border - middle).max(axis=1))
    limit = max(_LEAST_DIFFERENCE, _SPREADS * spread)
    difference = np.abs(picture.astype(np.float64) - middle).max(axis=2)
    if (difference[frame] <= limit).mean() < _PLAIN:
        return None
    pieces, count = ndimage.label(ndimage.binary_opening(difference > limit))
    if not count:
        return None
    areas = np.bincount(pieces.ravel(), minlength=count + 1)
    areas[0] = 0
    rows, columns = np.nonzero((areas >= _LEAST_PIECE * height * width)[pieces])
    if not len(rows):
        return None
    return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)


def window_of(boxes: Sequence[Box | None], width: int, height: int) -> tuple[Box | None, str]:
    """Return one square window that holds the object in all pictures of a view, or None and why there is none.

    Parameters
    ----------
    boxes
        Box of the object in each of some pictures, None where none was found.
    width, height
        Size of the pictures, pixels.

    Returns
    -------
    tuple
        Square window, which may reach beyond the picture; and "" or the reason why the view keeps its whole picture.

    Examples
    --------
    >>> window_of([(30.0, 20.0, 60.0, 40.0), (32.0, 22.0, 62.0, 40.0)], 160, 120)
    ((28.72, 12.72, 63.28, 47.28), '')
    """
    found = [box for box in boxes if box is not None]
    if not found or len(found) < _LEAST_FOUND * len(boxes):
        return None, f"an object on a plain background was found in {len(found)} of {len(boxes)} pictures"
    left, top = (min(box[k] for box in found) for k in (0, 1))
    right, bottom = (max(box[k] for box in found) for k in (2, 3))
    side = (1 + 2 * _MARGIN) * max(right - left, bottom - top)
    if side >= _WORTH * max(width, height):
        return None, "the object fills the picture"
    x, y = (left + right) / 2, (top + bottom) / 2
    window = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
    return tuple(round(place, 3) for place in window), ""  # type: ignore[return-value]
