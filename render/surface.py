"""The cleaned scan as a triangle mesh over its own grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvad.datasets.scan import Scan
from mvad.errors import BadInput
from mvad.render.clean import Cleaned
from mvad.render.normals import grid_normals
from mvad.render.options import SurfaceOptions


@dataclass(frozen=True)
class Surface:
    """A triangle mesh whose every vertex is a scan point.

    Attributes
    ----------
    vertices
        (N, 3) float32, metres, sensor camera frame.
    faces
        (M, 3) int32; the last ``bridges`` of them span a depth discontinuity. They are drawn only in a view
        that looks along the sensor's axis, where they close the seam between two sides, and a pixel on one
        takes everything from its nearest vertex, so that nothing is blended across the jump.
    bridges
        Number of bridging faces.
    normals
        (N, 3) float32, unit, turned to the sensor.
    colors
        (N, 3) uint8.
    source
        (N,) int32, ``row * W + column`` of the scan.
    spacing_m
        Median distance of grid neighbours, metres.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    bridges: int
    normals: NDArray[np.float32]
    colors: NDArray[np.uint8]
    source: NDArray[np.int32]
    spacing_m: float


def build_surface(scan: Scan, cleaned: Cleaned, options: SurfaceOptions) -> Surface:
    """Join grid neighbours: two triangles a cell along its shorter diagonal, one where a corner is missing.

    Raises
    ------
    BadInput
        If no three neighbouring points remain.
    """
    h, w = cleaned.keep.shape
    index = np.full(h * w, -1, dtype=np.int32)
    source = np.flatnonzero(cleaned.keep).astype(np.int32)
    index[source] = np.arange(len(source), dtype=np.int32)
    vertices = cleaned.xyz.reshape(-1, 3)[source]
    faces = index[_grid_triangles(cleaned)]
    if len(faces) == 0:
        raise BadInput("no three neighbouring points are left of the object; the scan cannot be meshed")
    spacing = _spacing(cleaned)
    bridging = _bridging(vertices, faces, spacing, options)
    faces = np.concatenate([faces[~bridging], faces[bridging]])
    if bridging.all():
        raise BadInput("every triangle of the object bridges a depth jump; the scan cannot be meshed")
    if scan.normals is not None:
        normals = scan.normals.reshape(-1, 3)[source]
    else:
        normals = grid_normals(vertices, faces[: len(faces) - int(bridging.sum())], options.normal_rounds)
    colors = scan.rgb.reshape(-1, 3)[source]
    return Surface(vertices, faces, int(bridging.sum()), normals, colors, source, spacing)


def _grid_triangles(cleaned: Cleaned) -> NDArray[np.int32]:
    """Return (M, 3) flat grid indices, wound so that (b - a) x (c - a) points away from the sensor."""
    h, w = cleaned.keep.shape
    flat = np.arange(h * w, dtype=np.int32).reshape(h, w)
    a, b, c, d = flat[:-1, :-1], flat[:-1, 1:], flat[1:, 1:], flat[1:, :-1]
    keep = cleaned.keep
    ka, kb, kc, kd = keep[:-1, :-1], keep[:-1, 1:], keep[1:, 1:], keep[1:, :-1]
    z = cleaned.xyz[..., 2]
    along_ac = np.abs(z[:-1, :-1] - z[1:, 1:]) <= np.abs(z[:-1, 1:] - z[1:, :-1])
    use_ac = np.where(ka & kb & kc & kd, along_ac, ka & kc)
    corners = (
        (use_ac & ka & kb & kc, (a, b, c)),
        (use_ac & ka & kc & kd, (a, c, d)),
        (~use_ac & ka & kb & kd, (a, b, d)),
        (~use_ac & kb & kc & kd, (b, c, d)),
    )
    return np.concatenate([np.stack([corner[at] for corner in three], axis=1) for at, three in corners])


def _spacing(cleaned: Cleaned) -> float:
    both = cleaned.keep[:, 1:] & cleaned.keep[:, :-1]
    steps = np.linalg.norm((cleaned.xyz[:, 1:] - cleaned.xyz[:, :-1])[both], axis=1)
    return float(np.median(steps)) if len(steps) else 1e-3


def _bridging(
    vertices: NDArray[np.float32], faces: NDArray[np.int32], spacing: float, options: SurfaceOptions
) -> NDArray[np.bool_]:
    corners = vertices[faces].astype(np.float64)
    edges = corners - np.roll(corners, -1, axis=1)
    longest = np.sqrt((edges**2).sum(axis=2).max(axis=1))
    normal = np.cross(edges[:, 0], edges[:, 1])
    middle = corners.mean(axis=1)
    size = np.linalg.norm(normal, axis=1) * np.linalg.norm(middle, axis=1)
    cosine = np.abs((normal * middle).sum(axis=1)) / np.maximum(size, 1e-30)
    return np.asarray((longest > options.max_edge * spacing) | (cosine < options.min_cosine))
