"""Compiled loops: z-buffer over triangles, and the pixel values that follow from the visible faces.

All arithmetic is float64 in the view's camera frame; a pixel's centre lies at +0.5.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(nogil=True, cache=True)
def to_camera(vertices, pose):  # type: ignore[no-untyped-def]  # numba compiles it for the arrays it is given
    """Return (N, 3) float64 points in the frame of a camera whose pose (4, 4) maps camera to world."""
    out = np.empty((len(vertices), 3), dtype=np.float64)
    for i in range(len(vertices)):
        x = vertices[i, 0] - pose[0, 3]
        y = vertices[i, 1] - pose[1, 3]
        z = vertices[i, 2] - pose[2, 3]
        for k in range(3):
            out[i, k] = pose[0, k] * x + pose[1, k] * y + pose[2, k] * z
    return out


@njit(nogil=True, cache=True)
def z_buffer(points, faces, count, focal, centre_x, centre_y, size):  # type: ignore[no-untyped-def]
    """Return (H, W) int32: the nearest of the first ``count`` faces at each pixel's centre, -1 for none.

    Depth is compared as 1/z, which is linear over the screen. Equal depths go to the lower face index.
    """
    nearest = np.zeros((size, size), dtype=np.float64)
    face_at = np.full((size, size), -1, dtype=np.int32)
    n = len(points)
    px = np.empty(n)
    py = np.empty(n)
    iz = np.empty(n)
    for i in range(n):
        z = points[i, 2]
        iz[i] = 1.0 / z if z > 1e-9 else -1.0
        px[i] = focal * points[i, 0] * iz[i] + centre_x
        py[i] = focal * points[i, 1] * iz[i] + centre_y
    for f in range(count):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        if iz[a] <= 0 or iz[b] <= 0 or iz[c] <= 0:
            continue
        ax, ay, bx, by, cx, cy = px[a], py[a], px[b], py[b], px[c], py[c]
        left = max(0, int(np.ceil(min(ax, bx, cx) - 0.5)))
        right = min(size - 1, int(np.floor(max(ax, bx, cx) - 0.5)))
        if left > right:
            continue
        top = max(0, int(np.ceil(min(ay, by, cy) - 0.5)))
        bottom = min(size - 1, int(np.floor(max(ay, by, cy) - 0.5)))
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0.0:
            continue
        inverse = 1.0 / area
        for row in range(top, bottom + 1):
            y = row + 0.5
            for column in range(left, right + 1):
                x = column + 0.5
                wb = ((x - ax) * (cy - ay) - (y - ay) * (cx - ax)) * inverse
                wc = ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) * inverse
                wa = 1.0 - wb - wc
                if wa < 0.0 or wb < 0.0 or wc < 0.0:
                    continue
                depth = wa * iz[a] + wb * iz[b] + wc * iz[c]
                if depth > nearest[row, column]:
                    nearest[row, column] = depth
                    face_at[row, column] = f
    return face_at


@njit(nogil=True, cache=True)
def shade(  # type: ignore[no-untyped-def]
    face_at, points, faces, solid, colors, focal, centre_x, centre_y, tolerance
):
    """Return depth (H, W) float32, vertex (H, W) int32 (-1: none) and rgb (H, W, 3) uint8 of a view.

    Depth is where the ray through the pixel's centre meets the face's plane. The vertex is the one with the
    largest barycentric weight. Colour is the mean of the colour at the centre and those of all visible
    vertices inside the pixel, so that a fine scan in a coarse view is averaged, not sampled. A face from
    ``solid`` on is a bridge: all comes from its nearest vertex.
    """
    h, w = face_at.shape
    depth_at = np.zeros((h, w), dtype=np.float32)
    vertex_at = np.full((h, w), -1, dtype=np.int32)
    total = np.zeros((h, w, 3), dtype=np.float64)
    samples = np.zeros((h, w), dtype=np.int32)
    for row in range(h):
        dy = (row + 0.5 - centre_y) / focal
        for column in range(w):
            f = face_at[row, column]
            if f < 0:
                continue
            dx = (column + 0.5 - centre_x) / focal
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            e1x, e1y, e1z = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1], points[b, 2] - points[a, 2]
            e2x, e2y, e2z = points[c, 0] - points[a, 0], points[c, 1] - points[a, 1], points[c, 2] - points[a, 2]
            nx, ny, nz = e1y * e2z - e1z * e2y, e1z * e2x - e1x * e2z, e1x * e2y - e1y * e2x
            facing = nx * dx + ny * dy + nz
            squared = nx * nx + ny * ny + nz * nz
            if facing * facing < 1e-20 * squared or squared == 0.0:
                wb, wc, depth = 0.0, 0.0, points[a, 2]
            else:
                depth = (nx * points[a, 0] + ny * points[a, 1] + nz * points[a, 2]) / facing
                x, y, z = depth * dx - points[a, 0], depth * dy - points[a, 1], depth - points[a, 2]
                wb = ((y * e2z - z * e2y) * nx + (z * e2x - x * e2z) * ny + (x * e2y - y * e2x) * nz) / squared
                wc = ((e1y * z - e1z * y) * nx + (e1z * x - e1x * z) * ny + (e1x * y - e1y * x) * nz) / squared
            wb = min(max(wb, 0.0), 1.0)
            wc = min(max(wc, 0.0), 1.0 - wb)
            wa = 1.0 - wb - wc
            vertex = a
            if wb > wa and wb >= wc:
                vertex = b
            elif wc > wa:
                vertex = c
            vertex_at[row, column] = vertex
            samples[row, column] = 1
            if f >= solid:
                depth_at[row, column] = points[vertex, 2]
                for k in range(3):
                    total[row, column, k] = colors[vertex, k]
            else:
                depth_at[row, column] = depth
                for k in range(3):
                    total[row, column, k] = wa * colors[a, k] + wb * colors[b, k] + wc * colors[c, k]
    for i in range(len(points)):
        z = points[i, 2]
        if z <= 1e-9:
            continue
        column = int(np.floor(focal * points[i, 0] / z + centre_x))
        row = int(np.floor(focal * points[i, 1] / z + centre_y))
        if row < 0 or column < 0 or row >= h or column >= w or samples[row, column] == 0:
            continue
        if z - depth_at[row, column] < tolerance:
            samples[row, column] += 1
            for k in range(3):
                total[row, column, k] += colors[i, k]
    rgb = np.zeros((h, w, 3), dtype=np.uint8)
    for row in range(h):
        for column in range(w):
            if samples[row, column] > 0:
                for k in range(3):
                    rgb[row, column, k] = np.uint8(total[row, column, k] / samples[row, column] + 0.5)
    return depth_at, vertex_at, rgb


def warm_up() -> None:
    """Load or compile the kernels before the first scan, so that timings do not contain it."""
    points: NDArray[np.float64] = to_camera(np.zeros((3, 3), np.float32), np.eye(4))
    faces = np.zeros((1, 3), np.int32)
    face_at = z_buffer(points, faces, 1, 1.0, 0.0, 0.0, 2)
    shade(face_at, points, faces, 1, np.zeros((3, 3), np.uint8), 1.0, 0.0, 0.0, 0.0)
