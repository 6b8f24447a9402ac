"""Compiled loops of pose estimation: points of a scan, polar sums, sums of a template, one robust registration.

Points are rows (x, y, height, grey, kind, weight): metres on the support, metres above it, grey value 0..1, 1 on the object and
0 on the support, and the number of points for which the row stands. A turn, a shift and a flip map them to a template: ``R(turn) (flip * x, y) + shift``.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_TRUSTED = 0.05
"""Least known share of a template's cell that is compared."""
_CONVERGED = 1e-8
_LEAST_DAMPING, _GREATEST_DAMPING = 1e-6, 1e3


@njit(nogil=True, cache=True, error_model="numpy")
def gather(xyz, rgb, keep, removed_as, rows, columns, stride, thinning, to_support, offset):  # type: ignore[no-untyped-def]
    """Return points (N, 6) float64 of every ``stride``-th row and column of a part of a scan: the object and its support.

    Also returns the normals (N, 3) of the object's points in the same axes, 0 where a neighbour is missing.

    Of the support only every ``thinning``-th of these rows and columns is taken. ``to_support`` (3, 3) turns the sensor's camera
    frame so that z points into the support; height = offset - z.
    """
    points = np.empty((((rows[1] - rows[0]) // stride + 1) * ((columns[1] - columns[0]) // stride + 1), 6))
    normals = np.zeros((len(points), 3))
    h, w = keep.shape
    reach = max(stride, 2)
    a, b = np.empty(3), np.empty(3)
    count = 0
    for row in range(rows[0], rows[1], stride):
        for column in range(columns[0], columns[1], stride):
            on_object = keep[row, column]
            if not on_object:
                skipped = ((row - rows[0]) // stride) % thinning or ((column - columns[0]) // stride) % thinning
                if skipped or removed_as[row, column] != 1:
                    continue
            x, y, z = np.float64(xyz[row, column, 0]), np.float64(xyz[row, column, 1]), np.float64(xyz[row, column, 2])
            points[count, 0] = to_support[0, 0] * x + to_support[0, 1] * y + to_support[0, 2] * z
            points[count, 1] = to_support[1, 0] * x + to_support[1, 1] * y + to_support[1, 2] * z
            if on_object:
                points[count, 2] = offset - (to_support[2, 0] * x + to_support[2, 1] * y + to_support[2, 2] * z)
                grey = 0.299 * rgb[row, column, 0] + 0.587 * rgb[row, column, 1] + 0.114 * rgb[row, column, 2]
                points[count, 3] = grey / 255.0
                points[count, 4] = points[count, 5] = 1.0
                if reach <= row < h - reach and reach <= column < w - reach:
                    around = keep[row - reach, column] and keep[row + reach, column]
                    if around and keep[row, column - reach] and keep[row, column + reach]:
                        for k in range(3):
                            a[k] = np.float64(xyz[row, column + reach, k]) - xyz[row, column - reach, k]
                            b[k] = np.float64(xyz[row + reach, column, k]) - xyz[row - reach, column, k]
                        nx, ny, nz = b[1] * a[2] - b[2] * a[1], b[2] * a[0] - b[0] * a[2], b[0] * a[1] - b[1] * a[0]
                        length = np.sqrt(nx * nx + ny * ny + nz * nz)
                        if length > 0:
                            for k in range(3):
                                normals[count, k] = (
                                    to_support[k, 0] * nx + to_support[k, 1] * ny + to_support[k, 2] * nz
                                ) / length
            else:
                points[count, 2:5] = 0.0
                points[count, 5] = thinning * thinning
            count += 1
    return points[:count], normals[:count]


@njit(nogil=True, cache=True, error_model="numpy")
def mean_place(points):  # type: ignore[no-untyped-def]
    """Return the mean (2,) of x and y of the object's points, added up in their order."""
    x, y, count = 0.0, 0.0, 0
    for i in range(len(points)):
        if points[i, 4] > 0:
            x += points[i, 0]
            y += points[i, 1]
            count += 1
    return np.array([x / count, y / count])


@njit(nogil=True, cache=True, error_model="numpy")
def fit_weighted(basis, values, weights, ridge):  # type: ignore[no-untyped-def]
    """Return the fit (N,) of values (N,) by a basis (K, N) under weights (N,), by least squares with a ridge (Cholesky).

    Added up in the order of the points: a library's sums may differ in their last digits from call to call.
    """
    count, size = basis.shape
    gram, right = np.zeros((count, count)), np.zeros(count)
    for i in range(size):
        for a in range(count):
            scaled = weights[i] * basis[a, i]
            right[a] += scaled * values[i]
            for b in range(a + 1):
                gram[a, b] += scaled * basis[b, i]
    for a in range(count):
        gram[a, a] += ridge * size
        for b in range(a + 1):
            rest = gram[a, b]
            for k in range(b):
                rest -= gram[a, k] * gram[b, k]
            gram[a, b] = np.sqrt(max(rest, 1e-30)) if a == b else rest / gram[b, b]
    for a in range(count):
        for k in range(a):
            right[a] -= gram[a, k] * right[k]
        right[a] /= gram[a, a]
    for a in range(count - 1, -1, -1):
        for k in range(a + 1, count):
            right[a] -= gram[k, a] * right[k]
        right[a] /= gram[a, a]
    fitted = np.zeros(size)
    for i in range(size):
        for a in range(count):
            fitted[i] += right[a] * basis[a, i]
    return fitted


@njit(nogil=True, cache=True, error_model="numpy")
def on_top(points, radius, cell):  # type: ignore[no-untyped-def]
    """Return which points (N,) bool are the highest of their surroundings, within a slope of 60 degrees; the support always is.

    A sensor that looks from the side sees overhanging sides, which lie below others in a view from above.
    """
    side = int(2 * radius / cell) + 3
    highest = np.zeros((side, side))
    for i in range(len(points)):
        if points[i, 4] > 0:
            row, column = int((points[i, 1] + radius) / cell) + 1, int((points[i, 0] + radius) / cell) + 1
            if 0 <= row < side and 0 <= column < side:
                highest[row, column] = max(highest[row, column], points[i, 2])
    top = np.ones(len(points), dtype=np.bool_)
    for i in range(len(points)):
        if points[i, 4] > 0:
            row, column = int((points[i, 1] + radius) / cell) + 1, int((points[i, 0] + radius) / cell) + 1
            if 0 <= row < side and 0 <= column < side:
                top[i] = points[i, 2] >= highest[row, column] - 2.4 * cell
    return top


@njit(nogil=True, cache=True, error_model="numpy")
def polar_sums(points, flip, radius, rings, angles):  # type: ignore[no-untyped-def]
    """Return sums (4, rings, angles) over polar cells about their origin: points, object points, heights, grey values of the object.

    A point is shared between the two nearest angles, so that the sums turn smoothly with it.
    """
    sums = np.zeros((4, rings, angles))
    for i in range(len(points)):
        x, y = points[i, 0] * flip, points[i, 1]
        ring = int(np.sqrt(x * x + y * y) / radius * rings)
        if ring >= rings:
            continue
        at = np.arctan2(y, x) / (2 * np.pi) * angles + angles
        first = int(at)
        share = at - first
        for step in range(2):
            cell = (first + step) % angles
            weight = (share if step == 1 else 1.0 - share) * points[i, 5]
            sums[0, ring, cell] += weight
            sums[1, ring, cell] += weight * points[i, 4]
            sums[2, ring, cell] += weight * points[i, 2]
            sums[3, ring, cell] += weight * points[i, 3] * points[i, 4]
    return sums


@njit(nogil=True, cache=True, error_model="numpy")
def add_to_template(points, turn, shift_x, shift_y, flip, cell_m, sums):  # type: ignore[no-untyped-def]
    """Add points to the sums (4, G, G) of a template, bilinearly: points, object points, heights, grey values of the object."""
    cells = sums.shape[1]
    c, s = np.cos(turn), np.sin(turn)
    middle = cells / 2 - 0.5
    for i in range(len(points)):
        px, py = points[i, 0] * flip, points[i, 1]
        x, y = (c * px - s * py + shift_x) / cell_m + middle, (s * px + c * py + shift_y) / cell_m + middle
        if not (0.0 <= x < cells - 1 and 0.0 <= y < cells - 1):
            continue
        column, row = int(x), int(y)
        fx, fy = x - column, y - row
        for corner in range(4):
            down, right = corner // 2, corner % 2
            weight = (fy if down else 1.0 - fy) * (fx if right else 1.0 - fx) * points[i, 5]
            sums[0, row + down, column + right] += weight
            sums[1, row + down, column + right] += weight * points[i, 4]
            sums[2, row + down, column + right] += weight * points[i, 2]
            sums[3, row + down, column + right] += weight * points[i, 3] * points[i, 4]


@njit(nogil=True, cache=True, error_model="numpy")
def overlap(points, turn, shift_x, shift_y, flip, cell_m, body):  # type: ignore[no-untyped-def]
    """Return intersection over union of points and a template's body (G, G) bool, counted over the points alone.

    Cells of the body at which the scan has no point, because the sensor did not see them, do not count.
    """
    cells = body.shape[0]
    c, s = np.cos(turn), np.sin(turn)
    middle = cells / 2 - 0.5
    both, either = 0.0, 0.0
    for i in range(len(points)):
        px, py = points[i, 0] * flip, points[i, 1]
        column = int(np.floor((c * px - s * py + shift_x) / cell_m + middle + 0.5))
        row = int(np.floor((s * px + c * py + shift_y) / cell_m + middle + 0.5))
        inside = 0 <= row < cells and 0 <= column < cells and body[row, column]
        if inside or points[i, 4] > 0:
            either += points[i, 5]
            both += points[i, 5] * (inside and points[i, 4] > 0)
    return both / max(either, 1.0)


@njit(nogil=True, cache=True, error_model="numpy")
def residuals(points, maps, known, cell_m, turn, shift_x, shift_y, flip):  # type: ignore[no-untyped-def]
    """Return differences (N, 2) of height and grey between points and a template; NaN where one of the two is not known."""
    cells = known.shape[0]
    middle = cells / 2 - 0.5
    c, s = np.cos(turn), np.sin(turn)
    found = np.full((len(points), 2), np.nan)
    for i in range(len(points)):
        px, py = points[i, 0] * flip, points[i, 1]
        x, y = (c * px - s * py + shift_x) / cell_m + middle, (s * px + c * py + shift_y) / cell_m + middle
        if not (0.0 <= x < cells - 1 and 0.0 <= y < cells - 1):
            continue
        column, row = int(x), int(y)
        fx, fy = x - column, y - row
        if known[row, column] < _TRUSTED or maps[0, row, column] <= 0.0 or points[i, 4] == 0.0:
            continue
        for channel in range(2):
            upper = (1 - fx) * maps[channel, row, column] + fx * maps[channel, row, column + 1]
            lower = (1 - fx) * maps[channel, row + 1, column] + fx * maps[channel, row + 1, column + 1]
            found[i, channel] = (1 - fy) * upper + fy * lower - points[i, 2 + channel]
    return found


@njit(nogil=True, cache=True, error_model="numpy")
def _compare(points, step, maps, known, cell_m, spreads, flip, at, matrix, vector):  # type: ignore[no-untyped-def]
    """Return the energy at (turn, shift_x, shift_y), and fill in the normal equations' upper triangle (3, 3) and right side (3)."""
    cells = known.shape[0]
    middle = cells / 2 - 0.5
    c, s = np.cos(at[0]), np.sin(at[0])
    matrix[:], vector[:] = 0.0, 0.0
    total, weights = 0.0, 0.0
    for i in range(0, len(points), step):
        px, py = points[i, 0] * flip, points[i, 1]
        qx, qy = c * px - s * py, s * px + c * py
        x, y = (qx + at[1]) / cell_m + middle, (qy + at[2]) / cell_m + middle
        if not (0.0 <= x < cells - 1 and 0.0 <= y < cells - 1):
            if points[i, 4] > 0:  # the template shows nothing there
                total += 0.5 * np.log(1.0 + (points[i, 2] / spreads[0]) ** 2)
                weights += 1.0
            continue
        column, row = int(x), int(y)
        fx, fy = x - column, y - row
        upper = (1 - fx) * known[row, column] + fx * known[row, column + 1]
        trust = (1 - fy) * upper + fy * ((1 - fx) * known[row + 1, column] + fx * known[row + 1, column + 1])
        if trust < _TRUSTED:
            continue
        trust *= points[i, 5]
        for channel in range(2 if points[i, 4] > 0 and maps[0, row, column] > 0 else 1):
            a, b = maps[channel, row, column], maps[channel, row, column + 1]
            d, e = maps[channel, row + 1, column], maps[channel, row + 1, column + 1]
            r = (1 - fy) * ((1 - fx) * a + fx * b) + fy * ((1 - fx) * d + fx * e) - points[i, 2 + channel]
            gx = ((1 - fy) * (b - a) + fy * (e - d)) / cell_m
            gy = ((1 - fx) * (d - a) + fx * (e - b)) / cell_m
            gt = gy * qx - gx * qy
            relative = (r / spreads[channel]) ** 2
            total += trust * 0.5 * np.log(1.0 + relative)
            weights += trust
            weight = trust / (1.0 + relative) / spreads[channel] ** 2
            matrix[0, 0] += weight * gt * gt
            matrix[0, 1] += weight * gt * gx
            matrix[0, 2] += weight * gt * gy
            matrix[1, 1] += weight * gx * gx
            matrix[1, 2] += weight * gx * gy
            matrix[2, 2] += weight * gy * gy
            vector[0] += weight * gt * r
            vector[1] += weight * gx * r
            vector[2] += weight * gy * r
    return total / weights if weights > 0 else np.inf


@njit(nogil=True, cache=True, error_model="numpy")
def register(points, step, maps, known, cell_m, spreads, turn, shift_x, shift_y, flip, rounds, turns):  # type: ignore[no-untyped-def]
    """Refine turn (radians; kept where not ``turns``) and shift (metres) by damped Gauss-Newton steps; return them and the energy.

    The energy is the mean over every ``step``-th point and both channels of log(1 + (residual / spread)^2) / 2 (Cauchy weights), so that
    a defect, however large its residuals, hardly pulls.
    """
    best = np.array([turn, shift_x, shift_y])
    trial = best.copy()
    matrix, vector = np.zeros((3, 3)), np.zeros(3)
    m, v = np.zeros((3, 3)), np.zeros(3)
    energy, damping = np.inf, 1e-3
    for number in range(rounds + 1):
        reached = _compare(points, step, maps, known, cell_m, spreads, flip, trial, matrix, vector)
        if reached < energy:
            converged = energy - reached < _CONVERGED * reached
            energy = reached
            best[:], m[:], v[:] = trial, matrix, vector
            if converged:
                break
            damping = max(damping / 4, _LEAST_DAMPING)
        else:
            damping *= 8
            if damping > _GREATEST_DAMPING:
                break
        if number == rounds:
            break
        a, b, c = m[0, 0] * (1 + damping) + 1e-12, m[1, 1] * (1 + damping) + 1e-12, m[2, 2] * (1 + damping) + 1e-12
        ab, ac, bc = m[0, 1], m[0, 2], m[1, 2]
        if not turns:
            a, ab, ac, v[0] = 1.0, 0.0, 0.0, 0.0
        determinant = a * (b * c - bc * bc) - ab * (ab * c - bc * ac) + ac * (ab * bc - b * ac)
        if not determinant > 0:
            break
        trial[0] = best[0] - ((b * c - bc * bc) * v[0] + (ac * bc - ab * c) * v[1] + (ab * bc - ac * b) * v[2]) / determinant
        trial[1] = best[1] - ((ac * bc - ab * c) * v[0] + (a * c - ac * ac) * v[1] + (ab * ac - a * bc) * v[2]) / determinant
        trial[2] = best[2] - ((ab * bc - ac * b) * v[0] + (ab * ac - a * bc) * v[1] + (a * b - ab * ab) * v[2]) / determinant
    return best[0], best[1], best[2], energy
