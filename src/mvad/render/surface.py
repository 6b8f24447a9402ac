"""The cleaned scan as a triangle mesh over its own grid."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mvad.datasets.scan import Scan
from mvad.errors import BadInput
from mvad.render.clean import Cleaned
from mvad.render.normals import grid_normals
from mvad.render.options import SurfaceOptions

_SPARSER = 2.0
"""How many times the distance of points in a row that of rows must be to count instead; square grids of tilted parts are not."""
_MIN_AXIS_COSINE = 0.9998
"""Cosine of 1 degree: a view tilted less than this against the sensor's axis counts as looking along it."""


_LEAST_PIECE = 0.05
"""Least size of a piece that cameras are fitted to, as a share of the largest one's."""


@dataclass(frozen=True)
class Surface:
    """A triangle mesh whose every vertex is a scan point, or a corner of one face of a mesh.

    Attributes
    ----------
    vertices
        (N, 3) float32, metres, sensor camera frame.
    faces
        (M, 3) int32; the last ``bridges`` of them span a depth discontinuity. They are drawn only in a view
        that looks along the sensor's axis, where they close the seam between two sides; a pixel on a
        bridge takes all its values from the nearest vertex, so that nothing is blended across the jump.
    bridges
        Number of bridging faces.
    normals
        (N, 3) float32 unit vectors, towards the sensor.
    colors
        (N, 3) uint8.
    source
        (N,) int32, ``row * W + column`` of the scan; of a mesh the number of the vertex's face.
    spacing_m
        Median distance of neighbours in a row of the grid, metres.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    bridges: int
    normals: NDArray[np.float32]
    colors: NDArray[np.uint8]
    source: NDArray[np.int32]
    spacing_m: float

    @property
    def body(self) -> NDArray[np.float32]:
        """(K, 3) float32, metres: the vertices of pieces that have at least a twentieth of the largest piece's; the rest are strays.

        Pieces are joined by faces that do not span a depth discontinuity.
        """
        solid = self.faces[: len(self.faces) - self.bridges]
        return np.asarray(self.vertices[_in_large_pieces(solid, len(self.vertices), _LEAST_PIECE)])

    def drawn_in(self, pose: NDArray[np.float64]) -> int:
        """Return how many of the faces, from the first, a camera of this pose (4, 4) draws; bridges only along the axis."""
        return len(self.faces) if pose[2, 2] > _MIN_AXIS_COSINE else len(self.faces) - self.bridges

    def canonical(self) -> Surface:
        """Return the same mesh with vertices by ascending source, and faces ordered by their corners.

        A face begins with its lowest corner and keeps its winding; solid and bridging faces stay apart. The
        result of ``build_surface`` is in this order already and is returned as it is.
        """
        solid = len(self.faces) - self.bridges
        if _in_order(self.source, self.faces, solid):
            return self
        by_source = np.argsort(self.source, kind="stable")
        number = np.empty(len(by_source), dtype=np.int32)
        number[by_source] = np.arange(len(by_source), dtype=np.int32)
        faces = number[self.faces]
        lowest = faces.argmin(axis=1)[:, None]
        faces = np.take_along_axis(faces, (lowest + np.arange(3)) % 3, axis=1)
        parts = [part[np.lexsort(part.T[::-1])] for part in (faces[:solid], faces[solid:])]
        return replace(
            self, vertices=self.vertices[by_source], faces=np.concatenate(parts), normals=self.normals[by_source],
            colors=self.colors[by_source], source=self.source[by_source],
        )  # fmt: skip


def build_surface(scan: Scan, cleaned: Cleaned, options: SurfaceOptions) -> Surface:
    """Join grid neighbours: two triangles per cell, split along its shorter diagonal, or one where a corner is missing.

    Raises
    ------
    BadInput
        If no three neighbouring points remain, or all triangles bridge a depth discontinuity.
    """
    source = np.flatnonzero(cleaned.keep).astype(np.int32)
    vertices = cleaned.xyz.reshape(-1, 3)[source]
    spacing = _spacing(cleaned)
    faces, solid = _join(cleaned.keep, cleaned.xyz, options.max_edge * spacing, options.min_cosine)
    if len(faces) == 0:
        raise BadInput("no three neighbouring points are left of the object; the scan cannot be meshed")
    if solid == 0:
        raise BadInput("every triangle of the object bridges a depth jump; the scan cannot be meshed")
    if scan.normals is not None:
        normals = scan.normals.reshape(-1, 3)[source]
        lacking = (normals == 0).all(axis=1)  # points that were filled in
        if lacking.any():
            normals = np.where(lacking[:, None], grid_normals(vertices, faces[:solid], options.normal_rounds), normals)
    else:
        normals = grid_normals(vertices, faces[:solid], options.normal_rounds)
    colors = scan.rgb.reshape(-1, 3)[source]
    return Surface(vertices, faces, len(faces) - solid, normals, colors, source, spacing)


def _spacing(cleaned: Cleaned) -> float:
    """Return the distance of neighbouring points, metres: along rows, but where columns are much sparser, as of a line scanner, theirs."""
    along, across = _steps(cleaned.keep, cleaned.xyz, 0, 1), _steps(cleaned.keep, cleaned.xyz, 1, 0)
    spacings = [float(np.median(steps)) if len(steps) else 0.0 for steps in (along, across)]
    spacing = spacings[1] if spacings[1] > _SPARSER * spacings[0] else spacings[0]
    return spacing or 1e-3


@njit(nogil=True, cache=True, error_model="numpy")
def _steps(keep, xyz, down, right):  # type: ignore[no-untyped-def]  # numba infers the types
    """Return the distances (K,) float32 of kept points to those some rows down and columns to the right."""
    h, w = keep.shape
    steps = np.empty(h * w, dtype=np.float32)
    count = 0
    for row in range(h - down):
        for column in range(w - right):
            if keep[row, column] and keep[row + down, column + right]:
                dx = xyz[row + down, column + right, 0] - xyz[row, column, 0]
                dy = xyz[row + down, column + right, 1] - xyz[row, column, 1]
                dz = xyz[row + down, column + right, 2] - xyz[row, column, 2]
                steps[count] = np.sqrt(dx * dx + dy * dy + dz * dz)
                count += 1
    return steps[:count]


@njit(nogil=True, cache=True, error_model="numpy")
def _bridges(xyz, a, b, c, longest, min_cosine):  # type: ignore[no-untyped-def]
    """Return whether a triangle of three grid points (row, column) spans a depth discontinuity."""
    ax, ay, az = (np.float64(xyz[a[0], a[1], 0]), np.float64(xyz[a[0], a[1], 1]), np.float64(xyz[a[0], a[1], 2]))
    bx, by, bz = (np.float64(xyz[b[0], b[1], 0]), np.float64(xyz[b[0], b[1], 1]), np.float64(xyz[b[0], b[1], 2]))
    cx, cy, cz = (np.float64(xyz[c[0], c[1], 0]), np.float64(xyz[c[0], c[1], 1]), np.float64(xyz[c[0], c[1], 2]))
    ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az
    wx, wy, wz = cx - bx, cy - by, cz - bz
    edge = max(ux * ux + uy * uy + uz * uz, vx * vx + vy * vy + vz * vz, wx * wx + wy * wy + wz * wz)
    if edge > longest * longest:
        return True
    nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    mx, my, mz = ax + bx + cx, ay + by + cy, az + bz + cz
    along = nx * mx + ny * my + nz * mz
    return along * along < min_cosine * min_cosine * (nx * nx + ny * ny + nz * nz) * (mx * mx + my * my + mz * mz)


@njit(nogil=True, cache=True, error_model="numpy")
def _join(keep, xyz, longest, min_cosine):  # type: ignore[no-untyped-def]
    """Return faces (M, 3) int32 between kept points, solid ones first, and the number of solid ones.

    Points are numbered along the rows of the grid. A cell has the corners a, b in its upper row and d, c in its lower row. A
    face begins with its lowest corner, and its normal, (second - first) x (third - first), points away from the sensor. For
    canonical order the faces that begin with a point are listed as: a-b-c or a-b-d of the cell in which the point is a, b-c-d
    of the cell to the left, in which the point is b, and a-c-d of the first cell.
    """
    h, w = keep.shape
    number = np.empty((h, w), dtype=np.int32)
    count = 0
    for row in range(h):
        for column in range(w):
            number[row, column] = count
            count += keep[row, column]
    faces = np.empty((2 * count, 3), dtype=np.int32)
    bridging = np.empty((2 * count, 3), dtype=np.int32)
    solid, bridges = 0, 0
    for row in range(h - 1):
        for column in range(w):
            if not keep[row, column]:
                continue
            for kind in range(3):
                left = column - 1 if kind == 1 else column
                if left < 0 or left + 1 >= w:
                    continue
                right = left + 1
                ka, kb, kc, kd = keep[row, left], keep[row, right], keep[row + 1, right], keep[row + 1, left]
                along = ka and kc
                if ka and kb and kc and kd:
                    along = abs(xyz[row, left, 2] - xyz[row + 1, right, 2]) <= abs(xyz[row, right, 2] - xyz[row + 1, left, 2])
                a, b, c, d = (row, left), (row, right), (row + 1, right), (row + 1, left)
                if kind == 0 and along and kb:
                    p, q, r = a, b, c
                elif kind == 0 and not along and kb and kd:
                    p, q, r = a, b, d
                elif kind == 1 and not along and kc and kd:
                    p, q, r = b, c, d
                elif kind == 2 and along and kd:
                    p, q, r = a, c, d
                else:
                    continue
                if _bridges(xyz, p, q, r, longest, min_cosine):
                    bridging[bridges, 0], bridging[bridges, 1], bridging[bridges, 2] = number[p], number[q], number[r]
                    bridges += 1
                else:
                    faces[solid, 0], faces[solid, 1], faces[solid, 2] = number[p], number[q], number[r]
                    solid += 1
    return np.concatenate((faces[:solid], bridging[:bridges])), solid


@njit(nogil=True, cache=True)
def _in_order(source, faces, solid):  # type: ignore[no-untyped-def]
    """Return whether a mesh is in canonical order (``Surface.canonical``)."""
    for i in range(1, len(source)):
        if source[i] < source[i - 1]:
            return False
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        if a > b or a > c:
            return False
        if f in (0, solid):
            continue
        p, q, r = faces[f - 1, 0], faces[f - 1, 1], faces[f - 1, 2]
        if a < p or (a == p and (b < q or (b == q and c < r))):
            return False
    return True


@njit(nogil=True, cache=True)
def _in_large_pieces(faces, vertices, share):  # type: ignore[no-untyped-def]
    """Return which vertices (N,) bool belong to a piece of at least a share of the largest one's vertices (union-find)."""
    parent = np.arange(vertices)
    for f in range(len(faces)):
        for k in range(2):
            a, b = faces[f, k], faces[f, k + 1]
            while parent[a] != a:
                parent[a] = parent[parent[a]]
                a = parent[a]
            while parent[b] != b:
                parent[b] = parent[parent[b]]
                b = parent[b]
            if a < b:
                parent[b] = a
            elif b < a:
                parent[a] = b
    sizes = np.zeros(vertices, dtype=np.int64)
    for v in range(vertices):
        root = v
        while parent[root] != root:
            root = parent[root]
        parent[v] = root
        sizes[root] += 1
    largest = sizes.max()
    large = np.zeros(vertices, dtype=np.bool_)
    for v in range(vertices):
        large[v] = sizes[parent[v]] > 1 and sizes[parent[v]] >= share * largest
    return large
