"""Compiled loops over the organised grid, for ``render.clean``."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def heights_above(xyz, valid, normal, offset):  # type: ignore[no-untyped-def]  # numba infers the types
    """Return heights above a plane, (H, W) float64 metres, minus infinity where there is no valid point."""
    h, w = valid.shape
    height = np.full((h, w), -np.inf)
    for row in range(h):
        for column in range(w):
            if valid[row, column]:
                x, y, z = xyz[row, column, 0], xyz[row, column, 1], xyz[row, column, 2]
                height[row, column] = x * normal[0] + y * normal[1] + z * normal[2] + offset
    return height


@njit(nogil=True, cache=True)
def measure_pieces(labels, count, height, xyz):  # type: ignore[no-untyped-def]
    """Return each label's size (K,), greatest height (K,), mean point (K, 3) and bounding box (K, 2, 3), K = count + 1."""
    boxes = np.empty((count + 1, 2, 3))
    boxes[:, 0], boxes[:, 1] = np.inf, -np.inf
    sizes = np.zeros(count + 1)
    peaks = np.full(count + 1, -np.inf)
    centres = np.zeros((count + 1, 3))
    for row in range(labels.shape[0]):
        for column in range(labels.shape[1]):
            label = labels[row, column]
            if label == 0:
                continue
            sizes[label] += 1
            peaks[label] = max(peaks[label], height[row, column])
            for k in range(3):
                value = np.float64(xyz[row, column, k])
                centres[label, k] += value
                boxes[label, 0, k] = min(boxes[label, 0, k], value)
                boxes[label, 1, k] = max(boxes[label, 1, k], value)
    for label in range(1, count + 1):
        for k in range(3):
            centres[label, k] /= sizes[label]
    return sizes, peaks, centres, boxes


@njit(nogil=True, cache=True)
def radius_of(labels, label, xyz, centre):  # type: ignore[no-untyped-def]
    """Return the largest distance of a label's points from ``centre``."""
    squared = 0.0
    for row in range(labels.shape[0]):
        for column in range(labels.shape[1]):
            if labels[row, column] == label:
                x, y, z = (xyz[row, column, 0] - centre[0], xyz[row, column, 1] - centre[1], xyz[row, column, 2] - centre[2])
                squared = max(squared, x * x + y * y + z * z)
    return np.sqrt(squared)


@njit(nogil=True, cache=True)
def step_shares(labels, count, height, step):  # type: ignore[no-untyped-def]
    """Return, for each label, the share of its outline (against lower points) that drops by ``step`` within two grid points."""
    h, w = labels.shape
    outline, stepped = np.zeros(count + 1), np.zeros(count + 1)
    for row in range(1, h - 1):
        for column in range(1, w - 1):
            label = labels[row, column]
            if label == 0:
                continue
            at_outline = False
            for i in range(-1, 2):
                for j in range(-1, 2):
                    if labels[row + i, column + j] == 0:
                        outside = height[row + i, column + j]
                        at_outline |= outside > -np.inf and outside < height[row, column]
            if not at_outline:
                continue
            low, high = np.inf, -np.inf
            for i in range(max(row - 2, 0), min(row + 3, h)):
                for j in range(max(column - 2, 0), min(column + 3, w)):
                    if height[i, j] > -np.inf:
                        low, high = min(low, height[i, j]), max(high, height[i, j])
            outline[label] += 1
            stepped[label] += high - low > step
    return stepped / np.maximum(outline, 1)


@njit(nogil=True, cache=True)
def pieces_touching(labels, other, count):  # type: ignore[no-untyped-def]
    """Return, for each label, whether one of its 8-neighbours is in ``other``: (count + 1,) bool."""
    h, w = labels.shape
    touching = np.zeros(count + 1, dtype=np.bool_)
    for row in range(h):
        for column in range(w):
            label = labels[row, column]
            if label == 0 or touching[label]:
                continue
            for i in range(max(row - 1, 0), min(row + 2, h)):
                for j in range(max(column - 1, 0), min(column + 2, w)):
                    touching[label] |= other[i, j]
    return touching


@njit(nogil=True, cache=True)
def interpolate_holes(xyz, known, wanted):  # type: ignore[no-untyped-def]
    """Interpolate points of ``xyz`` (H, W, 3) in place where ``wanted``, linearly in ray and depth, from ``known`` points.

    Along the row and along the column, between the nearest known points; the shorter line counts more (weight 1 / length).
    A plane is reproduced exactly.
    """
    h, w = known.shape
    for row in range(h):
        for column in range(w):
            if not wanted[row, column]:
                continue
            x, y, z, total = 0.0, 0.0, 0.0, 0.0
            for axis in range(2):
                di, dj = (0, 1) if axis == 0 else (1, 0)
                back, ahead = 1, 1
                while row - back * di >= 0 and column - back * dj >= 0 and not known[row - back * di, column - back * dj]:
                    back += 1
                while row + ahead * di < h and column + ahead * dj < w and not known[row + ahead * di, column + ahead * dj]:
                    ahead += 1
                if row - back * di < 0 or column - back * dj < 0 or row + ahead * di >= h or column + ahead * dj >= w:
                    continue
                p, q = xyz[row - back * di, column - back * dj], xyz[row + ahead * di, column + ahead * dj]
                share, weight = back / (back + ahead), 1.0 / (back + ahead)
                x += weight * ((1 - share) * p[0] / p[2] + share * q[0] / q[2])
                y += weight * ((1 - share) * p[1] / p[2] + share * q[1] / q[2])
                z += weight * ((1 - share) * p[2] + share * q[2])
                total += weight
            # An enclosed hole has known points on all four sides, so total > 0.
            xyz[row, column, 0], xyz[row, column, 1] = x * z / (total * total), y * z / (total * total)
            xyz[row, column, 2] = z / total
