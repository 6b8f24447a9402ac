"""Ray casting against a part on its plane, for cameras above it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mvad.datasets.synth.kernels import first_below
from mvad.datasets.synth.shapes import CELL_M, CELLS, SIDE_M, Grid, Part

_STEPS = 56
_REFINE = 7


@dataclass(frozen=True)
class Hits:
    """First intersections of R rays, in the part's frame (z up from the support, metres).

    Attributes
    ----------
    distance
        (R,) float64 along the unnormalised ray; infinite where the ray does not reach z = 0.
    point, normal
        (R, 3) float64.
    albedo
        (R, 3) float64; 0 on the support, which the caller fills in.
    on_part, gt
        (R,) bool.
    """

    distance: Grid
    point: Grid
    normal: Grid
    albedo: Grid
    on_part: NDArray[np.bool_]
    gt: NDArray[np.bool_]


def cast(part: Part, origin: Grid, direction: Grid) -> Hits:
    """Intersect rays (origin (3,), direction (R, 3), part frame) with the part and the plane z = 0.

    Rays are marched through the height field from its highest level down in steps of about a cell, then bisected.
    """
    rays = len(direction)
    down = direction[:, 2] < -1e-6
    slope = np.where(down, direction[:, 2], -1.0)
    floor = np.where(down, -origin[2] / slope, np.inf)
    top = (part.height.max() + 1e-4 - origin[2]) / slope
    enter, leave = origin + top[:, None] * direction, origin + np.where(down, floor, 0)[:, None] * direction
    half = SIDE_M / 2 - CELL_M
    near = down & (np.minimum(enter, leave)[:, :2] < half).all(axis=1) & (np.maximum(enter, leave)[:, :2] > -half).all(axis=1)
    index = np.flatnonzero(near)
    distance = floor.copy()
    distance[index] = first_below(
        part.height, SIDE_M, CELL_M, origin, direction[index], top[index], floor[index], np.linspace(0, 1, _STEPS), _REFINE
    )
    point = origin + np.where(np.isfinite(distance), distance, 0)[:, None] * direction
    cells = _cells(point[:, 0], point[:, 1])
    nearest = tuple(np.clip(np.rint(at).astype(int), 0, CELLS - 1) for at in cells)
    on_part = np.zeros(rays, dtype=bool)
    on_part[index] = (point[index, 2] > 1.5e-4) & part.body[nearest[0][index], nearest[1][index]]
    gy, gx = (np.asarray(slope) for slope in np.gradient(part.height, CELL_M))
    normal = np.zeros((rays, 3))
    normal[:, 2] = 1
    normal[on_part, 0] = -_sample(gx, cells, on_part) - part.roughness[nearest[0][on_part], nearest[1][on_part], 0]
    normal[on_part, 1] = -_sample(gy, cells, on_part) - part.roughness[nearest[0][on_part], nearest[1][on_part], 1]
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    albedo = np.zeros((rays, 3))
    for channel in range(3):
        albedo[on_part, channel] = _sample(part.albedo[..., channel], cells, on_part)
    gt = on_part & part.gt[nearest]
    return Hits(distance, point, normal, albedo, on_part, gt)


def _cells(x: Grid, y: Grid) -> tuple[Grid, Grid]:
    return (y + SIDE_M / 2) / CELL_M - 0.5, (x + SIDE_M / 2) / CELL_M - 0.5


def _sample(grid: Grid, cells: tuple[Grid, Grid], where: NDArray[np.bool_]) -> Grid:
    return np.asarray(ndimage.map_coordinates(grid, [cells[0][where], cells[1][where]], order=1, mode="nearest"))
