"""Surface normals from the grid, area-weighted, never across a discontinuity (bridging faces are left out)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def grid_normals(vertices: NDArray[np.float32], faces: NDArray[np.int32], rounds: int) -> NDArray[np.float32]:
    """Return (N, 3) float32 unit normals turned to the sensor at the origin.

    Parameters
    ----------
    vertices, faces
        (N, 3) float32 in the sensor's camera frame and (M, 3) int32 without bridging faces.
    rounds
        How often normals are averaged over the faces around a vertex, weighted by area; 1 is the plain
        area-weighted mean, each further round widens the window by one grid step.
    """
    corners = vertices[faces].astype(np.float64)
    area_normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(area_normal, axis=1, keepdims=True)
    face_normal = area_normal
    for _ in range(max(1, rounds)):
        vertex_normal = np.stack(
            [np.bincount(faces.ravel(), np.repeat(face_normal[:, axis], 3), len(vertices)) for axis in range(3)], axis=1
        )
        vertex_normal = vertex_normal / np.maximum(np.linalg.norm(vertex_normal, axis=1, keepdims=True), 1e-30)
        face_normal = vertex_normal[faces].mean(axis=1) * area
    lonely = ~(np.linalg.norm(vertex_normal, axis=1) > 0.5)
    sight = vertices.astype(np.float64)
    sight = sight / np.maximum(np.linalg.norm(sight, axis=1, keepdims=True), 1e-30)
    vertex_normal[lonely] = -sight[lonely]
    away = (vertex_normal * sight).sum(axis=1) > 0
    vertex_normal[away] *= -1
    return vertex_normal.astype(np.float32)
