"""Compiled loops: projection, z-buffer over triangles, and pixel values from the visible faces.

All arithmetic is float64. Vertices and faces come in canonical order (``Surface.canonical``: a face begins with its
lowest corner), so the result does not depend on how a mesh was stored. An edge is evaluated from its lower corner to
its higher, so the two faces that share it get the same number and no ray passes between them; at equal depth the first face
is taken.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

_NEAREST_M = 1e-9
"""Least depth, metres, at which a point counts as in front of the camera."""


@njit(nogil=True, cache=True, error_model="numpy")
def project(vertices, pose, focal_x, focal_y, centre_x, centre_y):  # type: ignore[no-untyped-def]  # numba infers the types
    """Return (N, 3) float64: x, y on the grid of samples and 1/depth; NaN where a vertex is not in front.

    ``vertices`` (N, 3) float32 in the sensor's frame; ``pose`` (4, 4) maps the camera to that frame; focal length
    and principal point in samples; a sample's centre lies at +0.5.
    """
    screen = np.empty((len(vertices), 3), dtype=np.float64)
    r00, r10, r20 = pose[0, 0], pose[1, 0], pose[2, 0]
    r01, r11, r21 = pose[0, 1], pose[1, 1], pose[2, 1]
    r02, r12, r22 = pose[0, 2], pose[1, 2], pose[2, 2]
    t0, t1, t2 = pose[0, 3], pose[1, 3], pose[2, 3]
    for i in range(len(vertices)):
        x, y, z = vertices[i, 0] - t0, vertices[i, 1] - t1, vertices[i, 2] - t2
        depth = r02 * x + r12 * y + r22 * z
        inverse = 1.0 / depth if depth > _NEAREST_M else np.nan
        screen[i, 0] = focal_x * (r00 * x + r10 * y + r20 * z) * inverse + centre_x
        screen[i, 1] = focal_y * (r01 * x + r11 * y + r21 * z) * inverse + centre_y
        screen[i, 2] = inverse
    return screen


@njit(nogil=True, cache=True, error_model="numpy")
def z_buffer(screen, faces, count, side):  # type: ignore[no-untyped-def]
    """Return which of the first ``count`` faces each sample sees: (side, side) int32, -1 for none.

    Depth is compared as 1/depth, which is linear over the screen. Most faces of a fine scan lie between the
    samples and are skipped by their bounding box.
    """
    limit = side - 1.0
    nearest = np.zeros((side, side), dtype=np.float64)
    face_at = np.full((side, side), -1, dtype=np.int32)
    for f in range(count):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, bx, cx = screen[a, 0], screen[b, 0], screen[c, 0]
        left = max(np.ceil(min(ax, bx, cx) - 0.5), 0.0)
        right = min(np.floor(max(ax, bx, cx) - 0.5), limit)
        if not left <= right:
            continue
        ay, by, cy = screen[a, 1], screen[b, 1], screen[c, 1]
        top = max(np.ceil(min(ay, by, cy) - 0.5), 0.0)
        bottom = min(np.floor(max(ay, by, cy) - 0.5), limit)
        if not top <= bottom:
            continue
        if b > c:
            b, c, bx, cx, by, cy = c, b, cx, bx, cy, by
        a_inverse, b_inverse, c_inverse = screen[a, 2], screen[b, 2], screen[c, 2]
        if not (a_inverse > 0.0 and b_inverse > 0.0 and c_inverse > 0.0):
            continue
        abx, aby, acx, acy, bcx, bcy = bx - ax, by - ay, cx - ax, cy - ay, cx - bx, cy - by
        for row in range(int(top), int(bottom) + 1):
            y = row + 0.5
            for column in range(int(left), int(right) + 1):
                x = column + 0.5
                wa = bcx * (y - by) - bcy * (x - bx)
                wb = acy * (x - ax) - acx * (y - ay)
                wc = abx * (y - ay) - aby * (x - ax)
                if min(wa, wb, wc) < 0.0 and max(wa, wb, wc) > 0.0:
                    continue
                # A face seen edge-on has no area: 0 / 0 is NaN, and comparisons with NaN are false.
                inverse = (wa * a_inverse + wb * b_inverse + wc * c_inverse) / (wa + wb + wc)
                if inverse > nearest[row, column]:
                    nearest[row, column] = inverse
                    face_at[row, column] = f
    return face_at


@njit(nogil=True, cache=True)
def faces_by_corner(faces, solid, vertices):  # type: ignore[no-untyped-def]
    """Return the offsets (2, vertices + 1) int32 of faces by first corner, solid faces in row 0 and bridges in row 1.

    Faces [row, v] to [row, v + 1] (exclusive) are those whose first corner is v.
    """
    offsets = np.zeros((2, vertices + 1), dtype=np.int32)
    for f in range(len(faces)):
        offsets[0 if f < solid else 1, faces[f, 0] + 1] += 1
    offsets[1, 0] = solid
    for v in range(vertices):
        offsets[0, v + 1] += offsets[0, v]
        offsets[1, v + 1] += offsets[1, v]
    return offsets


@njit(nogil=True, cache=True, error_model="numpy")
def resolve(corner_at, screen, faces, offsets):  # type: ignore[no-untyped-def]
    """Return the visible faces (H, W) int32, given their first corners (v of a solid face, -2 - v of a bridge, -1: none).

    Of the faces with that first corner, the nearest that contains the sample is taken, by the rules of ``z_buffer``; where
    the device's rounding put the sample just outside of all of them, the face to which it is nearest.
    """
    face_at = np.full(corner_at.shape, -1, dtype=np.int32)
    for row in range(corner_at.shape[0]):
        y = row + 0.5
        for column in range(corner_at.shape[1]):
            v = corner_at[row, column]
            if v == -1:
                continue
            part = 0 if v >= 0 else 1
            v = v if v >= 0 else -2 - v
            x = column + 0.5
            best, best_inside, best_inverse = -1, -np.inf, 0.0
            for f in range(offsets[part, v], offsets[part, v + 1]):
                a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
                if b > c:
                    b, c = c, b
                ax, ay, bx, by, cx, cy = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1], screen[c, 0], screen[c, 1]
                wa = (cx - bx) * (y - by) - (cy - by) * (x - bx)
                wb = (cy - ay) * (x - ax) - (cx - ax) * (y - ay)
                wc = (bx - ax) * (y - ay) - (by - ay) * (x - ax)
                area = wa + wb + wc
                inside = min(wa / area, wb / area, wc / area, 0.0)
                inverse = (wa * screen[a, 2] + wb * screen[b, 2] + wc * screen[c, 2]) / area
                if inside > best_inside or (inside == best_inside and inverse > best_inverse):
                    best, best_inside, best_inverse = f, inside, inverse
            face_at[row, column] = best
    return face_at


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _weights(screen, a, b, c, x, y):  # type: ignore[no-untyped-def]
    """Return the perspective-correct weights of three corners at a screen point, and 1/depth there.

    Up to rounding the point lies in the face, so negative weights are set to 0.
    """
    ax, ay = screen[a, 0], screen[a, 1]
    bx, by, cx, cy = screen[b, 0] - ax, screen[b, 1] - ay, screen[c, 0] - ax, screen[c, 1] - ay
    x, y = x - ax, y - ay
    area = bx * cy - by * cx
    sign = 1.0 if area > 0.0 else -1.0
    wb, wc = sign * (x * cy - y * cx), sign * (bx * y - by * x)
    wa = max(sign * area - wb - wc, 0.0)
    wb, wc = max(wb, 0.0), max(wc, 0.0)
    total = wa + wb + wc
    wa, wb, wc = wa * screen[a, 2], wb * screen[b, 2], wc * screen[c, 2]
    weighted = wa + wb + wc
    if not weighted > 0.0:
        return 1.0, 0.0, 0.0, screen[a, 2]
    scale = 1.0 / weighted
    return wa * scale, wb * scale, wc * scale, weighted / total


@njit(nogil=True, cache=True, error_model="numpy")
def shade(  # type: ignore[no-untyped-def]
    screen, faces, solid, colors, normals, source, gt, rotation, face_at, samples, rgb, depth_at, normal_at, mask_at, source_at
):
    """Write a view's pixel values where a face is visible; the last five arguments are the view's slices of a ``ViewSet``.

    Depth, normal, mask and source are those of the pixel's centre, its middle sample: depth where the ray meets the face, the
    others from the corner with the largest weight. Colour is the mean over the pixel's samples that see a face, so that a
    fine scan in a coarse view is averaged; with one sample it is that corner's.
    A face from ``solid`` on is a bridge and takes everything from its nearest corner. ``gt`` is flat over the scan,
    empty where there is none; ``rotation`` (3, 3) maps the camera's frame to that of ``normals``.
    """
    size, middle = len(face_at) // samples, samples // 2
    for row in range(size):
        for column in range(size):
            if face_at[row * samples + middle, column * samples + middle] < 0:
                continue
            red, green, blue, seen = 0.0, 0.0, 0.0, 0.0
            for i in range(row * samples, (row + 1) * samples):
                for j in range(column * samples, (column + 1) * samples):
                    f = face_at[i, j]
                    if f < 0:
                        continue
                    a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
                    wa, wb, wc, inverse = _weights(screen, a, b, c, j + 0.5, i + 0.5)
                    is_middle = i == row * samples + middle and j == column * samples + middle
                    if is_middle or f >= solid:
                        vertex = a
                        if wb > wa and wb >= wc:
                            vertex = b
                        elif wc > wa:
                            vertex = c
                        if is_middle:
                            depth_at[row, column] = 1.0 / (inverse if f < solid else screen[vertex, 2])
                            source_at[row, column] = source[vertex]
                            if len(gt) > 0:
                                mask_at[row, column] = gt[source[vertex]]
                            x, y, z = (
                                np.float64(normals[vertex, 0]),
                                np.float64(normals[vertex, 1]),
                                np.float64(normals[vertex, 2]),
                            )
                            for k in range(3):
                                normal_at[row, column, k] = rotation[0, k] * x + rotation[1, k] * y + rotation[2, k] * z
                        if f >= solid or samples == 1:
                            a, b, c, wa, wb, wc = vertex, vertex, vertex, 1.0, 0.0, 0.0
                    red += wa * colors[a, 0] + wb * colors[b, 0] + wc * colors[c, 0]
                    green += wa * colors[a, 1] + wb * colors[b, 1] + wc * colors[c, 1]
                    blue += wa * colors[a, 2] + wb * colors[b, 2] + wc * colors[c, 2]
                    seen += 1.0
            rgb[row, column, 0] = np.uint8(red / seen + 0.5)
            rgb[row, column, 1] = np.uint8(green / seen + 0.5)
            rgb[row, column, 2] = np.uint8(blue / seen + 0.5)


def warm_up() -> None:
    """Load or compile the kernels before the first scan, so that timings do not include it."""
    points, one = np.zeros((3, 3), np.float32), np.zeros((1, 3), np.int32)
    screen: NDArray[np.float64] = project(points, np.eye(4), 1.0, 1.0, 0.0, 0.0)
    face_at, bytes_, flags = z_buffer(screen, one, 1, 2), np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), bool)
    depth, normal, source = np.zeros((2, 2), np.float32), np.zeros((2, 2, 3), np.float32), np.zeros((2, 2), np.int32)
    shade(
        screen, one, 1, bytes_[0], points, one[0], flags[0], np.eye(3), face_at, 1, bytes_, depth, normal, flags, source
    )  # fmt: skip
