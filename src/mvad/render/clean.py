"""Take the object out of a scan: support plane or room removed, pieces kept, small holes filled.

Everything happens on the organised grid and on copies; the raw scan is never changed. Pieces are connected components
in the image, which takes milliseconds where clustering the points takes seconds.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from mvad.datasets.scan import Scan
from mvad.errors import BadInput
from mvad.render.options import CleanOptions

BACKGROUND = ("support", "side walls", "back", "fragments")
"""What a removed point belongs to; ``Cleaned.removed_as`` numbers them from 1."""

_SUPPORT, _WALLS, _BACK, _FRAGMENTS = 1, 2, 3, 4
_EIGHT = np.ones((3, 3), dtype=bool)
_MIN_PLANE_POINTS = 50
_RANSAC_POINTS = 3000
_RANSAC_ROUNDS = 300
_FIT_POINTS = 8000
_BEHIND_COUNTS = 10
"""How much more a point behind a plane says against it being the support than a point on it says for it."""

_open3d_seed = threading.Lock()
"""open3d's generator is global: seeding and drawing must not be interrupted by another thread."""


@dataclass(frozen=True)
class Cleaned:
    """The object of a scan.

    Attributes
    ----------
    xyz
        (H, W, 3) float32, metres, camera frame, with filled points where ``filled``.
    keep
        (H, W) bool, the object's grid points, filled ones included.
    filled
        (H, W) bool, points that the sensor did not return and that were interpolated.
    removed_as
        (H, W) uint8, 1 + index into ``BACKGROUND`` of valid points taken away, 0 elsewhere.
    """

    xyz: NDArray[np.float32]
    keep: NDArray[np.bool_]
    filled: NDArray[np.bool_]
    removed_as: NDArray[np.uint8]

    @property
    def removed(self) -> NDArray[np.bool_]:
        """(H, W) bool, valid points taken away as background."""
        return self.removed_as > 0


def clean(scan: Scan, options: CleanOptions) -> Cleaned:
    """Separate the object from its support and fill its small holes.

    A scan with a pose (Eyecandies) stands in a known room; any other lies on a plane that is estimated.

    Raises
    ------
    BadInput
        If no object remains.
    """
    in_room = scan.pose_camera_to_world is not None
    above, removed_as = _above_room(scan, options) if in_room else _above_plane(scan, options)
    if not above.any():
        raise BadInput("nothing is left above the support plane; is this a scan of an object?")
    xyz, filled = _fill(scan, above, options)
    removed_as[above] = 0
    return Cleaned(xyz, above | filled, filled, removed_as)


def support_plane(scan: Scan, options: CleanOptions) -> tuple[NDArray[np.float64], float]:
    """Estimate the plane the object lies on: (normal towards the sensor, offset), n.p + d = height in metres.

    RANSAC (open3d, seeded) on bands along the image's border and on the whole scan. Of the planes found, the one wins
    that most points of the widest band support, less ten times the share of points that lie behind it: nothing lies
    behind a support, so an object that touches the frame does not win. Then least squares over its supporters.

    Raises
    ------
    BadInput
        If the scan has too few points for a plane.
    """
    h, w = scan.valid.shape
    stride = max(1, math.isqrt(h * w // _FIT_POINTS))
    every = scan.xyz[::stride, ::stride][scan.valid[::stride, ::stride]].astype(np.float64)
    if len(every) < _MIN_PLANE_POINTS:
        raise BadInput(f"only {int(scan.valid.sum())} valid points; a support plane needs {_MIN_PLANE_POINTS}")
    samples = [_thinned(every)]
    for share in sorted(options.frames):
        width = max(2, round(share * min(h, w)))
        middle = slice(width, -width)
        strips = [np.s_[:width, :], np.s_[-width:, :], np.s_[middle, :width], np.s_[middle, -width:]]
        border = np.concatenate([scan.xyz[strip][scan.valid[strip]] for strip in strips])
        if len(border) >= _MIN_PLANE_POINTS:
            samples.append(_thinned(border))
    evaluates = samples[-1]
    distance = options.plane_distance_mm / 1000

    def support(plane: tuple[NDArray[np.float64], float]) -> float:
        height = every @ plane[0] + plane[1]
        on = float((np.abs(evaluates @ plane[0] + plane[1]) < distance).mean())
        return on - _BEHIND_COUNTS * float((height < -2 * distance).mean())

    planes = [plane for points in samples if (plane := _ransac(points, distance, options.seed)) is not None]
    if not planes:
        raise BadInput("the scan's points lie on no plane but one line; is this a scan of an object on a support?")
    normal, offset = max(planes, key=support)
    for _ in range(2):
        near = every[np.abs(every @ normal + offset) < distance]
        centre = near.mean(axis=0)
        normal = np.linalg.svd(np.cov((near - centre).T))[0][:, 2]
        normal *= -np.sign(normal[2]) or 1.0
        offset = -float(normal @ centre)
    return normal, offset


def _thinned(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return every n-th of (N, 3) points, enough for a plane: a random choice would need a seed of its own."""
    return np.asarray(points[:: max(1, len(points) // _RANSAC_POINTS)], dtype=np.float64)


def _ransac(points: NDArray[np.float64], distance: float, seed: int) -> tuple[NDArray[np.float64], float] | None:
    import open3d  # 0.8 s and 900 MB: only where it is used

    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))
    with _open3d_seed:
        open3d.utility.random.seed(seed)
        found, _ = cloud.segment_plane(distance, ransac_n=3, num_iterations=_RANSAC_ROUNDS)
    plane = np.asarray(found, dtype=np.float64)
    length = np.linalg.norm(plane[:3])
    if not length > 0:
        return None  # the points lie on one line
    plane /= length
    if plane[2] > 0:
        plane = -plane
    return plane[:3], float(plane[3])


def _above_plane(scan: Scan, options: CleanOptions) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """Return the object (H, W) bool and why points are not of it (H, W) uint8."""
    normal, offset = support_plane(scan, options)
    height = _heights(scan.xyz, scan.valid, normal, offset)
    above = height > options.plane_margin_mm / 1000
    removed_as = np.where(scan.valid, np.where(above, np.uint8(_FRAGMENTS), np.uint8(_SUPPORT)), np.uint8(0))
    labels, count = ndimage.label(above, _EIGHT)
    sizes, tops, middles, boxes = _measure(labels, count, height, scan.xyz)
    tall = tops > options.piece_height_mm / 1000
    tall[0] = False
    if not tall.any():
        return np.zeros_like(above), removed_as
    largest = int(np.argmax(np.where(tall, sizes, 0)))
    centre = boxes[largest].mean(axis=0)
    reach = options.piece_reach * _radius(labels, largest, scan.xyz, centre)
    enough = max(4.0, options.piece_share * sizes[largest])

    def belongs(sizes: NDArray[np.float64], middles: NDArray[np.float64]) -> NDArray[np.bool_]:
        away = middles - centre
        away -= np.outer(away @ normal, normal)  # along the support: a low part may lie beside a tall object
        return np.asarray((sizes >= enough) & (np.linalg.norm(away, axis=1) <= reach))

    kept = tall & belongs(sizes, middles)
    kept[largest] = True
    object_ = kept[labels]
    # Single returns inside a hole of the object are the object's, however small a piece they form.
    object_ |= above & _enclosed(object_)
    # A part lower than the plane's margin ends in a step; the unevenness of a support does not.
    low = (height > options.low_margin_mm / 1000) & ~object_
    labels, count = ndimage.label(low, _EIGHT)
    sizes, _, middles, _ = _measure(labels, count, height, scan.xyz)
    kept = belongs(sizes, middles) & (_stepped(labels, count, height, options.low_step_mm / 1000) >= options.low_step_share)
    kept[0] = False
    return object_ | kept[labels], removed_as


def _above_room(scan: Scan, options: CleanOptions) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """Return the object (H, W) bool and why points are not of it (H, W) uint8."""
    pose = scan.pose_camera_to_world
    assert pose is not None
    world = scan.xyz.astype(np.float64) @ pose[:3, :3].T + pose[:3, 3]
    removed_as = np.full(scan.valid.shape, _FRAGMENTS, dtype=np.uint8)
    removed_as[world[..., 2] <= options.floor_margin] = _SUPPORT
    removed_as[np.abs(world[..., 0]) >= options.wall] = _WALLS
    removed_as[world[..., 1] >= options.back] = _BACK
    removed_as[~scan.valid] = 0
    labels, count = ndimage.label(removed_as == _FRAGMENTS, _EIGHT)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    kept = sizes >= max(4, options.piece_share * sizes[1:].max(initial=0))
    kept[0] = False
    return np.asarray(kept[labels]), removed_as


def _enclosed(object_: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the holes of a mask: what no path of 4-neighbours joins to the image's border."""
    labels, count = ndimage.label(~object_)
    inside = np.ones(count + 1, dtype=bool)
    inside[0] = False
    for line in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        inside[line] = False
    return np.asarray(inside[labels])


def _fill(scan: Scan, above: NDArray[np.bool_], options: CleanOptions) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Fill enclosed holes of missing returns, linear in depth along the sensor's own rays."""
    holes = _enclosed(above) & ~scan.valid
    labels, count = ndimage.label(holes, _EIGHT)
    if count == 0:
        return scan.xyz, holes
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    small = sizes <= options.fill_share * np.count_nonzero(above)
    small[0] = False
    # A hole that touches the support shows the support (a ring's middle): it stays open.
    small[_touching(labels, scan.valid & ~above, count)] = False
    filled = small[labels]
    xyz = scan.xyz.copy()
    _interpolate(xyz, above, filled)
    return xyz, filled


@njit(nogil=True, cache=True)
def _heights(xyz, valid, normal, offset):  # type: ignore[no-untyped-def]  # numba compiles it for the arrays it is given
    """Return heights above a plane (H, W) float64, minus infinity where there is no point."""
    h, w = valid.shape
    height = np.full((h, w), -np.inf)
    for row in range(h):
        for column in range(w):
            if valid[row, column]:
                x, y, z = xyz[row, column, 0], xyz[row, column, 1], xyz[row, column, 2]
                height[row, column] = x * normal[0] + y * normal[1] + z * normal[2] + offset
    return height


@njit(nogil=True, cache=True)
def _measure(labels, count, height, xyz):  # type: ignore[no-untyped-def]
    """Return of each label its size, its greatest height, its mean point (K, 3) and its box (K, 2, 3), float64."""
    boxes = np.empty((count + 1, 2, 3))
    boxes[:, 0], boxes[:, 1] = np.inf, -np.inf
    sizes = np.zeros(count + 1)
    tops = np.full(count + 1, -np.inf)
    middles = np.zeros((count + 1, 3))
    for row in range(labels.shape[0]):
        for column in range(labels.shape[1]):
            label = labels[row, column]
            if label == 0:
                continue
            sizes[label] += 1
            tops[label] = max(tops[label], height[row, column])
            for k in range(3):
                value = np.float64(xyz[row, column, k])
                middles[label, k] += value
                boxes[label, 0, k] = min(boxes[label, 0, k], value)
                boxes[label, 1, k] = max(boxes[label, 1, k], value)
    for label in range(1, count + 1):
        for k in range(3):
            middles[label, k] /= sizes[label]
    return sizes, tops, middles, boxes


@njit(nogil=True, cache=True)
def _radius(labels, label, xyz, centre):  # type: ignore[no-untyped-def]
    """Return the largest distance of a label's points from ``centre``."""
    squared = 0.0
    for row in range(labels.shape[0]):
        for column in range(labels.shape[1]):
            if labels[row, column] == label:
                x, y, z = (xyz[row, column, 0] - centre[0], xyz[row, column, 1] - centre[1], xyz[row, column, 2] - centre[2])
                squared = max(squared, x * x + y * y + z * z)
    return np.sqrt(squared)


@njit(nogil=True, cache=True)
def _stepped(labels, count, height, step):  # type: ignore[no-untyped-def]
    """Return of each label which share of its outline against lower points drops by ``step`` within two points."""
    h, w = labels.shape
    edge, stepped = np.zeros(count + 1), np.zeros(count + 1)
    for row in range(1, h - 1):
        for column in range(1, w - 1):
            label = labels[row, column]
            if label == 0:
                continue
            at_edge = False
            for i in range(-1, 2):
                for j in range(-1, 2):
                    if labels[row + i, column + j] == 0:
                        outside = height[row + i, column + j]
                        at_edge |= outside > -np.inf and outside < height[row, column]
            if not at_edge:
                continue
            low, high = np.inf, -np.inf
            for i in range(max(row - 2, 0), min(row + 3, h)):
                for j in range(max(column - 2, 0), min(column + 3, w)):
                    if height[i, j] > -np.inf:
                        low, high = min(low, height[i, j]), max(high, height[i, j])
            edge[label] += 1
            stepped[label] += high - low > step
    return stepped / np.maximum(edge, 1)


@njit(nogil=True, cache=True)
def _touching(labels, other, count):  # type: ignore[no-untyped-def]
    """Tell of each label whether one of its 8-neighbours is in ``other``."""
    h, w = labels.shape
    touching = np.zeros(count + 1, dtype=np.bool_)
    for row in range(h):
        for column in range(w):
            label = labels[row, column]
            if label == 0 or touching[label]:
                continue
            for i in range(max(row - 1, 0), min(row + 2, h)):
                for j in range(max(column - 1, 0), min(column + 2, w)):
                    touching[label] |= other[i, j]
    return touching


@njit(nogil=True, cache=True)
def _interpolate(xyz, known, wanted):  # type: ignore[no-untyped-def]
    """Write points into ``xyz`` where ``wanted``: ray and depth linear along the row and the column to known points.

    The nearer two ends of each line count more (weights 1 / length), so a plane comes back as a plane.
    """
    h, w = known.shape
    for row in range(h):
        for column in range(w):
            if not wanted[row, column]:
                continue
            x, y, z, total = 0.0, 0.0, 0.0, 0.0
            for axis in range(2):
                di, dj = (0, 1) if axis == 0 else (1, 0)
                back, forth = 1, 1
                while row - back * di >= 0 and column - back * dj >= 0 and not known[row - back * di, column - back * dj]:
                    back += 1
                while row + forth * di < h and column + forth * dj < w and not known[row + forth * di, column + forth * dj]:
                    forth += 1
                if row - back * di < 0 or column - back * dj < 0 or row + forth * di >= h or column + forth * dj >= w:
                    continue
                p, q = xyz[row - back * di, column - back * dj], xyz[row + forth * di, column + forth * dj]
                share, weight = back / (back + forth), 1.0 / (back + forth)
                x += weight * ((1 - share) * p[0] / p[2] + share * q[0] / q[2])
                y += weight * ((1 - share) * p[1] / p[2] + share * q[1] / q[2])
                z += weight * ((1 - share) * p[2] + share * q[2])
                total += weight
            # An enclosed hole has known points on all four sides, so total > 0.
            xyz[row, column, 0], xyz[row, column, 1] = x * z / (total * total), y * z / (total * total)
            xyz[row, column, 2] = z / total
