"""A mesh as a ``Scan``: its faces on a grid, its corners in the sensor's frame, normals that are smooth but at creases."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mvad.datasets.own.mesh_files import MeshFile
from mvad.datasets.scan import Mesh, Scan

COLUMNS = 4096
"""Columns of the grid of a mesh's faces: face f is at row f // 4096, column f % 4096."""
GREY = 128
"""Grey value of parts without colours."""
NO_COLORS = "has no colours and is drawn in mid grey; train on --modalities depth,normal"
NOT_CLOSED = "the mesh is not closed; where the inside of its faces is seen, normals point away from the camera"
INSIDE_OUT = "the faces of the closed mesh are wound inwards; normals are turned outwards"


def scan_of_mesh(mesh: MeshFile, metres: float, crease_deg: float, gt: NDArray[np.bool_] | None) -> Scan:
    """Return a mesh as a scan; ``metres`` is the length of the file's unit, ``gt`` (F,) marks faces, or None."""
    points = (mesh.vertices * metres * [1, -1, -1]).astype(np.float32)
    corners = points[mesh.faces]
    normals, notes = corner_normals(corners, crease_deg)
    if mesh.colors is None:
        notes += (NO_COLORS,)
        colors = np.full(corners.shape, GREY, np.uint8)
    elif mesh.are_face_colors:
        colors = np.repeat(mesh.colors[:, None], 3, axis=1)
    else:
        colors = mesh.colors[mesh.faces]
    shape = grid_of(len(corners))
    valid = on_grid(np.ones(len(corners), np.bool_), shape)
    return Scan(
        on_grid(corners.mean(axis=1, dtype=np.float64).astype(np.float32), shape),
        valid,
        on_grid(colors.mean(axis=1).astype(np.uint8), shape),
        None if gt is None else on_grid(gt, shape),
        notes=(*mesh.notes, *notes),
        mesh=Mesh(corners, normals, colors),
    )


def grid_of(faces: int) -> tuple[int, int]:
    """Return (H, W) of the grid of so many faces.

    Examples
    --------
    >>> grid_of(12), grid_of(4097)
    ((1, 4096), (2, 4096))
    """
    return -(-faces // COLUMNS), COLUMNS


def on_grid(values: NDArray[np.generic], shape: tuple[int, int]) -> NDArray:  # type: ignore[type-arg]
    """Return values of faces (F, ...) on their grid (H, W, ...); 0 where there is no face."""
    grid = np.zeros((shape[0] * shape[1], *values.shape[1:]), values.dtype)
    grid[: len(values)] = values
    return grid.reshape(*shape, *values.shape[1:])


def weld(corners: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the number (F, 3) of each corner's position; corners (F, 3, 3) at one position have one number."""
    x, y, z = np.ascontiguousarray(corners.reshape(-1, 3).T)
    order = np.lexsort((z, y, x))
    changes = np.zeros(len(order), np.bool_)
    for axis in (x, y, z):
        along = axis[order]
        changes[1:] |= along[1:] != along[:-1]  # -0 and 0 are one
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.cumsum(changes)
    return numbers.reshape(-1, 3)


def corner_normals(corners: NDArray[np.float32], crease_deg: float) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Return the normals (F, 3, 3) at the corners of faces (F, 3, 3), outwards, and notes.

    Neighbouring faces whose normals differ by at most ``crease_deg`` share the normals of the corners of their common edge: the mean
    of the normals of all faces that are joined in this way around a corner, weighted by their angles there. A face without area has
    (0, 0, 1); no ray meets it.
    """
    points = corners.astype(np.float64)
    faces = np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
    twice = np.linalg.norm(faces, axis=1, keepdims=True)
    faces = np.divide(faces, twice, out=np.zeros_like(faces), where=twice > 0)
    numbers = weld(corners)
    first, second, closed = neighbours(numbers)
    notes: tuple[str, ...] = ()
    if not closed:
        notes = (NOT_CLOSED,)
    elif np.einsum("ij,ij->", points[:, 0], np.cross(points[:, 1], points[:, 2])) < 0:
        faces, notes = -faces, (INSIDE_OUT,)
    smooth = np.einsum("ij,ij->i", faces[first[:, 0] // 3], faces[second[:, 0] // 3]) >= np.cos(np.radians(crease_deg)) - 1e-12
    ends = np.concatenate([first[smooth], second[smooth]], axis=1)[:, [0, 2, 1, 3]].reshape(-1, 2)
    count = numbers.size
    links = coo_array((np.ones(len(ends), np.bool_), (ends[:, 0], ends[:, 1])), shape=(count, count))
    group = connected_components(links, directed=False)[1]
    weighted = (faces[:, None] * _angles(points)[..., None]).reshape(-1, 3)
    sums = np.stack([np.bincount(group, weighted[:, axis]) for axis in range(3)], axis=1)[group]
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    own = np.repeat(faces, 3, axis=0)
    normals = np.where(length > 1e-6, sums / np.maximum(length, 1e-6), own)
    normals[~normals.any(axis=1)] = (0, 0, 1)
    return normals.reshape(-1, 3, 3).astype(np.float32), notes


def neighbours(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], bool]:
    """Return the corners at the ends of each edge that faces share, and whether every edge is shared by two of opposite directions.

    Parameters
    ----------
    numbers
        (F, 3) positions of the corners (``weld``).

    Returns
    -------
    tuple
        (K, 2) corners ``3 f + k`` of one face and of another at the ends of a common edge, in the same order of positions; and
        whether the mesh is closed.
    """
    corner = np.arange(numbers.size).reshape(-1, 3)
    start, end = corner.reshape(-1), np.roll(corner, -1, axis=1).reshape(-1)
    low, high = numbers.reshape(-1)[start], numbers.reshape(-1)[end]
    forward = low < high
    a, b = np.where(forward, start, end), np.where(forward, end, start)
    edge = np.stack([np.minimum(low, high), np.maximum(low, high)], axis=1)
    order = np.lexsort((edge[:, 1], edge[:, 0]))
    edge, ends, forward = edge[order], np.stack([a, b], axis=1)[order], forward[order]
    same = (edge[1:] == edge[:-1]).all(axis=1) & (edge[1:, 0] != edge[1:, 1])
    starts = np.flatnonzero(np.concatenate([[True], ~same]))
    runs = np.diff(np.concatenate([starts, [len(edge)]]))
    real = edge[starts, 0] != edge[starts, 1]
    balance = np.add.reduceat(np.where(forward, 1, -1), starts)
    return ends[:-1][same], ends[1:][same], bool((runs[real] % 2 == 0).all() and (balance[real] == 0).all())


def _angles(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the angles (F, 3) of faces (F, 3, 3) at their corners, radians."""
    forward, back = np.roll(points, -1, axis=1) - points, np.roll(points, 1, axis=1) - points
    cross = np.linalg.norm(np.cross(forward, back), axis=2)
    return np.asarray(np.arctan2(cross, np.einsum("fki,fki->fk", forward, back)))
