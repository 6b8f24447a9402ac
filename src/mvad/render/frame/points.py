"""The points of a scan from which the pose of its object is estimated."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mvad.datasets.scan import Scan
from mvad.render.clean import Cleaned
from mvad.render.frame.kernels import fit_weighted, gather, mean_place, on_top

_POINTS = 2200
"""Points of the object that are looked at, about; more do not make the pose more exact."""
_AROUND = 0.15
"""Width of the border around the object, as a share of its box, whose support is looked at as well."""
_SUPPORT = 0.6
"""Points of the support that are looked at for one of the object, about; each counts for those that it stands for."""
_TOP_CELL = 0.06
"""Side of the cells in which the highest points are found, in radii."""
_SHADING_ROUNDS, _RIDGE, _DARK = 3, 1e-4, 0.25
_STEEP = 0.35
"""Least cosine between the support's normal and that of a surface that is not steep."""
_FLAT_SHARE = 0.1
_FAR = 0.98
"""Quantile of the distances from the centre that is the object's radius."""


@dataclass(frozen=True)
class ScanPoints:
    """Points of a scan's object and of the support around it, on the support.

    Attributes
    ----------
    points
        (N, 6) float64: x, y relative to ``center`` and height above the support, metres; grey value without
        shading; 1 on the object, 0 on the support; how many points it stands for. Where the sensor saw nothing there is none, and
        of points above one another only the upper.
    flat
        (N,) bool, points of the support, and of surfaces that are not steep. A sensor that looks from the side sees steep ones on
        one side only, so that they tell where the sensor stands before they tell how the object lies.
    center
        (2,) float64, mean of the object's points on the support, metres.
    to_support
        (3, 3) float64, rotation from the sensor's camera frame; x is the sensor's x axis on the support, z points into it.
    offset
        Height above the support is ``offset`` minus z, metres.
    radius_m
        Distance from the center within which the object lies, except for 2 % of its points.
    """

    points: NDArray[np.float64]
    flat: NDArray[np.bool_]
    center: NDArray[np.float64]
    to_support: NDArray[np.float64]
    offset: float
    radius_m: float

    def flattened(self) -> ScanPoints:
        """Return the flat points alone; all of them where hardly a point of the object is flat."""
        on_object = self.points[:, 4] > 0
        if np.count_nonzero(on_object & self.flat) < _FLAT_SHARE * np.count_nonzero(on_object):
            return self
        return replace(self, points=self.points[self.flat], flat=self.flat[self.flat])


def scan_points(scan: Scan, cleaned: Cleaned) -> ScanPoints:
    """Return the points of a cleaned scan; a defect changes few of them."""
    to_support = support_axes(cleaned.plane[:3])
    rows, columns = (np.flatnonzero(cleaned.keep.any(axis=axis)) for axis in (1, 0))
    spans = []
    for found, length in zip((rows, columns), cleaned.keep.shape, strict=True):
        first, last = int(found[0]), int(found[-1]) + 1
        border = round(_AROUND * (last - first)) + 2
        spans.append(np.array([max(first - border, 0), min(last + border, length)]))
    box = (slice(*spans[0]), slice(*spans[1]))
    objects, supports = np.count_nonzero(cleaned.keep[box]), np.count_nonzero(cleaned.removed_as[box] == 1)
    stride = max(1, round((objects / _POINTS) ** 0.5))
    thinning = max(1, round((supports / (_SUPPORT * objects)) ** 0.5))

    def gathered(stride: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        found: tuple[NDArray[np.float64], NDArray[np.float64]] = gather(
            cleaned.xyz, scan.rgb, cleaned.keep, cleaned.removed_as, spans[0], spans[1], stride, thinning, to_support,
            float(cleaned.plane[3]),
        )  # fmt: skip
        return found

    points, normals = gathered(stride)
    if not points[:, 4].any():  # an object of a few points, all between the strides
        points, normals = gathered(1)
    on_object = points[:, 4] > 0
    center = mean_place(points)
    points[:, :2] -= center
    points[on_object, 3] = without_shading(points[on_object, 3], normals[on_object])
    distance = np.hypot(points[:, 0], points[:, 1])
    radius = max(float(np.quantile(distance[on_object], _FAR)), 1e-9)
    near = distance < (1 + 2 * _AROUND) * radius
    points, facing = points[near], np.abs(normals[near, 2]) > _STEEP
    top = on_top(points, (1 + 2 * _AROUND) * radius, _TOP_CELL * radius)
    flat = facing[top] | (points[top, 4] == 0)
    return ScanPoints(points[top], flat, center, to_support, float(cleaned.plane[3]), radius)


def without_shading(grey: NDArray[np.float64], normals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what is left of grey values (N,) when the part that their normals (N, 3) explain is taken away.

    Light falls from a fixed direction, so shading turns with the sensor and not with the object. Of a diffuse surface it is a
    polynomial of second degree in the normal, to 98 % (Basri and Jacobs, PAMI 2003), times the surface's reflectance: what is
    returned is grey value over shading, minus 1. Fitted robustly, so that marks stay.
    """
    x, y, z = normals.T
    basis = np.stack([np.ones(len(grey)), x, y, z, x * y, x * z, y * z, x * x - y * y, 3 * z * z - 1])
    weight = np.ones(len(grey))
    shading = np.full(len(grey), np.median(grey))
    for _ in range(_SHADING_ROUNDS):
        shading = fit_weighted(basis, grey, weight, _RIDGE)
        rest = np.abs(grey - shading)
        weight = 1 / (1 + (rest / (2 * 1.4826 * float(np.median(rest)) + 1e-3)) ** 2)
    ratio = grey / np.maximum(shading, _DARK * float(np.median(grey)) + 1e-3)
    return np.asarray(np.clip(ratio / max(float(np.median(ratio)), 1e-3) - 1, -1, 2))


def support_axes(normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotation (3, 3) from the sensor's camera frame to axes on a support with this normal (3,) towards the sensor."""
    z = -normal
    axis = np.array([1.0, 0.0, 0.0]) if abs(z[0]) < 0.9 else np.array([0.0, 1.0, 0.0])
    x = axis - (axis @ z) * z
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])
