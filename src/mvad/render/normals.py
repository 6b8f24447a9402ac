"""Area-weighted surface normals from the grid; bridging faces are left out, so none is averaged across a discontinuity."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def grid_normals(vertices: NDArray[np.float32], faces: NDArray[np.int32], rounds: int) -> NDArray[np.float32]:
    """Return (N, 3) float32 unit normals that point to the sensor, which is at the origin.

    Parameters
    ----------
    vertices, faces
        (N, 3) float32 in the sensor's camera frame and (M, 3) int32 without bridging faces.
    rounds
        How often normals are averaged over the faces around a vertex, weighted by area; 1 is the plain
        area-weighted mean, each further round widens the window by one grid step.
    """
    normals: NDArray[np.float32] = _oriented(vertices, _averaged(vertices, faces, max(1, rounds)))
    return normals


@njit(nogil=True, cache=True, error_model="numpy")
def _averaged(vertices, faces, rounds):  # type: ignore[no-untyped-def]
    """Return (N, 3) float64 unit normals, 0 at a vertex without a face."""
    normal = np.zeros((len(vertices), 3), dtype=np.float64)
    for number in range(rounds):
        total = np.zeros((len(vertices), 3), dtype=np.float64)
        for f in range(len(faces)):
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            ux = np.float64(vertices[b, 0]) - vertices[a, 0]
            uy = np.float64(vertices[b, 1]) - vertices[a, 1]
            uz = np.float64(vertices[b, 2]) - vertices[a, 2]
            vx = np.float64(vertices[c, 0]) - vertices[a, 0]
            vy = np.float64(vertices[c, 1]) - vertices[a, 1]
            vz = np.float64(vertices[c, 2]) - vertices[a, 2]
            nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
            if number > 0:
                area = np.sqrt(nx * nx + ny * ny + nz * nz) / 3.0
                nx = area * (normal[a, 0] + normal[b, 0] + normal[c, 0])
                ny = area * (normal[a, 1] + normal[b, 1] + normal[c, 1])
                nz = area * (normal[a, 2] + normal[b, 2] + normal[c, 2])
            for vertex in (a, b, c):
                total[vertex, 0] += nx
                total[vertex, 1] += ny
                total[vertex, 2] += nz
        for i in range(len(total)):
            length = np.sqrt(total[i, 0] ** 2 + total[i, 1] ** 2 + total[i, 2] ** 2)
            scale = 1.0 / length if length > 0.0 else 0.0
            for k in range(3):
                normal[i, k] = total[i, k] * scale
    return normal


@njit(nogil=True, cache=True, error_model="numpy")
def _oriented(vertices, normals):  # type: ignore[no-untyped-def]
    """Return (N, 3) float32 normals flipped towards the sensor; a vertex without one gets the direction to the sensor."""
    out = np.empty((len(vertices), 3), dtype=np.float32)
    for i in range(len(vertices)):
        x, y, z = np.float64(vertices[i, 0]), np.float64(vertices[i, 1]), np.float64(vertices[i, 2])
        nx, ny, nz = normals[i, 0], normals[i, 1], normals[i, 2]
        if nx * nx + ny * ny + nz * nz < 0.25:
            scale = -1.0 / max(np.sqrt(x * x + y * y + z * z), 1e-30)
            nx, ny, nz = x * scale, y * scale, z * scale
        sign = -1.0 if nx * x + ny * y + nz * z > 0.0 else 1.0
        out[i, 0], out[i, 1], out[i, 2] = sign * nx, sign * ny, sign * nz
    return out
