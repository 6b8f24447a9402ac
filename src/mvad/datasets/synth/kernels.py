"""Compiled search along rays for where they meet a height field."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True, error_model="numpy")
def _height_above(height, side, cell, origin, direction, distance):  # type: ignore[no-untyped-def]  # numba infers the types
    """Return how far the point at ``distance`` along a ray lies above the field, bilinear between cells."""
    x = origin[0] + distance * direction[0]
    y = origin[1] + distance * direction[1]
    z = origin[2] + distance * direction[2]
    row = min(max((y + side / 2) / cell - 0.5, 0.0), height.shape[0] - 1.001)
    column = min(max((x + side / 2) / cell - 0.5, 0.0), height.shape[1] - 1.001)
    r, c = int(row), int(column)
    fr, fc = row - r, column - c
    upper = height[r, c] * (1 - fc) + height[r, c + 1] * fc
    lower = height[r + 1, c] * (1 - fc) + height[r + 1, c + 1] * fc
    return z - (upper * (1 - fr) + lower * fr)


@njit(nogil=True, cache=True, error_model="numpy")
def first_below(height, side, cell, origin, direction, start, stop, shares, bisections):  # type: ignore[no-untyped-def]
    """Return the distances (R,) float64 at which rays meet a height field from above.

    Each ray is marched from ``start`` to ``stop`` in steps, and the first step that ends below the field is bisected.

    Parameters
    ----------
    height
        (cells, cells) float64, metres.
    side, cell
        Side of the field and of a cell, metres; the field's middle is at the origin.
    origin, direction
        (3,) and (R, 3) float64, in the field's frame.
    start, stop
        (R,) float64, distances along the rays.
    shares
        (K,) float64 from 0 to 1: where the steps end.
    bisections
        Number of bisections.
    """
    found = np.empty(len(direction))
    for i in range(len(direction)):
        high = start[i] + (stop[i] - start[i]) * shares[0]
        for share in shares:
            low, high = high, start[i] + (stop[i] - start[i]) * share
            if _height_above(height, side, cell, origin, direction[i], high) <= 0:
                break
        for _ in range(bisections):
            middle = (low + high) / 2
            if _height_above(height, side, cell, origin, direction[i], middle) <= 0:
                high = middle
            else:
                low = middle
        found[i] = high
    return found
