"""Separate the object of a scan from its background: remove the support, keep the object's pieces, fill small holes.

Everything works on the organised grid and on copies; the raw scan is never changed. Pieces are connected components
of the image, found in milliseconds where clustering the points takes seconds.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from mvad.datasets.scan import Scan
from mvad.errors import BadInput, MissingComponent
from mvad.render.clean_kernels import (
    heights_above,
    interpolate_holes,
    measure_pieces,
    pieces_touching,
    radius_of,
    step_shares,
)
from mvad.render.options import CleanOptions

BACKGROUND = ("support", "side walls", "back", "fragments")
"""Parts of the background; ``Cleaned.removed_as`` numbers them from 1."""

_SUPPORT, _WALLS, _BACK, _FRAGMENTS = 1, 2, 3, 4
NO_SUPPORT = (
    "scan without its support, as other tools leave it; no plane is removed, and the sensor's axis stands for the support's "
    "normal. For poses as of whole scans render the scans as downloaded"
)
_WIDE_BAND, _EMPTY_BORDER = 0.10, 0.15
"""Band along the image's border, and share of valid points below which it is empty: of whole scans half and more are valid."""
_NARROW_BAND, _FILLED_BORDER, _LEAST_BOX = 0.025, 0.4, 16
"""The same for the box of the points: an object fills a quarter of it (a disc), a whole scan half and more; least side."""
_EIGHT = np.ones((3, 3), dtype=bool)
_LEAST_PIECE = 0.01
"""Size of a piece, as a share of the largest one's, from which it counts in the box of a scan's points."""
_LONG, _GAP = 0.2, 0.25
"""Half the diagonal of a part of a broken object, and the gap across which it lies, at least and at most, in radii of the largest piece."""
_MIN_PLANE_POINTS = 50
_RANSAC_POINTS = 3000
_RANSAC_ROUNDS = 300
_FIT_POINTS = 8000
_PLANE_ROUNDS = 30
_PLANE_DIGITS = 9
"""Decimals of a support's normal and offset, so that processors that round differently agree."""
_BEHIND_WEIGHT = 10
"""Penalty for a share of points behind a candidate support plane, relative to the reward for a share of points on it."""

_open3d_lock = threading.Lock()
"""open3d's random generator is global: no other thread may draw between its seeding and its use."""


@dataclass(frozen=True)
class Cleaned:
    """The object of a scan, separated from the background.

    Attributes
    ----------
    xyz
        (H, W, 3) float32, metres, camera frame, with filled points where ``filled``.
    keep
        (H, W) bool, the object's grid points, filled ones included.
    filled
        (H, W) bool, points that the sensor did not return and that were interpolated.
    removed_as
        (H, W) uint8, 1 + index into ``BACKGROUND`` for removed valid points, 0 elsewhere.
    plane
        (4,) float64, the support: its unit normal n towards the sensor, and d, so that n.p + d is a point's height, metres.
    notes
        What was decided in separating it, one line each.
    """

    xyz: NDArray[np.float32]
    keep: NDArray[np.bool_]
    filled: NDArray[np.bool_]
    removed_as: NDArray[np.uint8]
    plane: NDArray[np.float64]
    notes: tuple[str, ...] = ()

    @property
    def removed(self) -> NDArray[np.bool_]:
        """(H, W) bool, valid points removed as background."""
        return self.removed_as > 0


def clean(scan: Scan, options: CleanOptions) -> Cleaned:
    """Separate the object from its support and fill its small holes.

    A scan with a pose (Eyecandies) shows a scene whose floor and walls are known; any other object lies on a plane, which is
    estimated, unless it was removed before (``has_no_support``).

    Raises
    ------
    BadInput
        If no object remains.
    """
    notes: tuple[str, ...] = ()
    if scan.pose_camera_to_world is not None:
        above, removed_as, plane = _object_in_scene(scan, options)
    elif has_no_support(scan.valid):
        above, removed_as, plane = _object_alone(scan, options)
        notes = (NO_SUPPORT,)
    else:
        above, removed_as, plane = _object_on_plane(scan, options)
        if not above.any() and _has_empty_border(scan.valid):  # a flat block alone: its top was taken as the support
            above, removed_as, plane = _object_alone(scan, options)
            notes = (NO_SUPPORT,)
    if not above.any():
        raise BadInput("nothing is left above the support plane; is this a scan of an object?")
    xyz, filled = _fill(scan, above, options)
    removed_as[above] = 0
    return Cleaned(xyz, above | filled, filled, removed_as, np.round(plane, _PLANE_DIGITS), notes)


def has_no_support(valid: NDArray[np.bool_]) -> bool:
    """Return whether a scan's support was removed already, from where its points (H, W) bool are.

    Tools of the field (BTF's and M3DM's ``utils/preprocessing.py``) set the support's points to zero, pad the scan to a square and
    resize it: hardly any point is left in a band along the image's border, and none of the points' bounding box is filled along
    its sides, as that of a whole scan with an empty margin is.
    """
    if not _has_empty_border(valid):
        return False
    labels, count = ndimage.label(valid, _EIGHT)  # single points in a corner would make the box that of the picture
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    pieces = (sizes >= _LEAST_PIECE * sizes.max())[labels]
    rows, columns = (np.flatnonzero(pieces.any(axis=axis)) for axis in (1, 0))
    box = valid[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return min(box.shape) >= _LEAST_BOX and _border_share(box, _NARROW_BAND) < _FILLED_BORDER


def _has_empty_border(valid: NDArray[np.bool_]) -> bool:
    return bool(valid.any()) and _border_share(valid, _WIDE_BAND) < _EMPTY_BORDER


def _border_share(valid: NDArray[np.bool_], band: float) -> float:
    """Return the share of valid points in a band along the border, as wide as a share of the shorter side."""
    width = max(1, round(band * min(valid.shape)))
    inner = valid[width:-width, width:-width]
    return float((np.count_nonzero(valid) - np.count_nonzero(inner)) / max(valid.size - inner.size, 1))


def support_plane(scan: Scan, options: CleanOptions) -> tuple[NDArray[np.float64], float]:
    """Estimate the plane that the object lies on: (normal towards the sensor, offset), n.p + d = height in metres.

    RANSAC (open3d, seeded) runs on bands along the image's border and on the whole scan. Each plane's score is the share of
    the widest band's points on it, minus ten times the share of points behind it: nothing lies behind a support, so the
    surface of an object that touches the image's border is not chosen. The best plane is refined by least squares over the
    points on it until they stay the same, so that it does not depend on which of two equally good planes was drawn: open3d counts
    in parallel, and the first to finish wins.

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
    widest_band = samples[-1]
    distance = options.plane_distance_mm / 1000

    def score(plane: tuple[NDArray[np.float64], float]) -> float:
        height = every @ plane[0] + plane[1]
        share_on = float((np.abs(widest_band @ plane[0] + plane[1]) < distance).mean())
        return share_on - _BEHIND_WEIGHT * float((height < -2 * distance).mean())

    planes = [plane for points in samples if (plane := _ransac(points, distance, options.seed)) is not None]
    if not planes:
        raise BadInput("the scan's points lie on one line and define no plane; is this a scan of an object on a support?")
    normal, offset = max(planes, key=score)
    near_before = np.zeros(len(every), dtype=np.bool_)
    for _ in range(_PLANE_ROUNDS):
        is_near = np.abs(every @ normal + offset) < distance
        if np.array_equal(is_near, near_before):
            break
        near, near_before = every[is_near], is_near
        centre = near.mean(axis=0)
        normal = np.linalg.svd(np.cov((near - centre).T))[0][:, 2]
        normal *= -np.sign(normal[2]) or 1.0
        offset = -float(normal @ centre)
    return normal, offset


def _thinned(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return every n-th of (N, 3) points, enough for a plane; a random choice would need another seed."""
    return np.asarray(points[:: max(1, len(points) // _RANSAC_POINTS)], dtype=np.float64)


def _ransac(points: NDArray[np.float64], distance: float, seed: int) -> tuple[NDArray[np.float64], float] | None:
    try:
        import open3d  # imported only where it is used: it takes 0.8 s and 900 MB
    except (ImportError, OSError) as error:  # the package, or a system library that it needs
        raise MissingComponent(
            f"open3d does not import ({' '.join(str(error).split())[:80]}), and finding a scan's support needs it; see mvad doctor"
        ) from error

    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))
    with _open3d_lock:
        open3d.utility.random.seed(seed)
        coefficients, _ = cloud.segment_plane(distance, ransac_n=3, num_iterations=_RANSAC_ROUNDS)
    plane = np.asarray(coefficients, dtype=np.float64)
    length = np.linalg.norm(plane[:3])
    if not length > 0:
        return None  # the points lie on one line
    plane /= length
    if plane[2] > 0:
        plane = -plane
    return plane[:3], float(plane[3])


def _object_on_plane(scan: Scan, options: CleanOptions) -> tuple[NDArray[np.bool_], NDArray[np.uint8], NDArray[np.float64]]:
    """Return the object (H, W) bool, the part of the background of all other points, and the support, as in ``Cleaned``."""
    normal, offset = support_plane(scan, options)
    plane = np.array([*normal, offset])
    height = heights_above(scan.xyz, scan.valid, normal, offset)
    above = height > options.plane_margin_mm / 1000
    removed_as = np.where(scan.valid, np.where(above, np.uint8(_FRAGMENTS), np.uint8(_SUPPORT)), np.uint8(0))
    labels, count = ndimage.label(above, _EIGHT)
    sizes, peaks, centres, boxes = measure_pieces(labels, count, height, scan.xyz)
    tall = peaks > options.piece_height_mm / 1000
    tall[0] = False
    if not tall.any():
        return np.zeros_like(above), removed_as, plane
    largest = int(np.argmax(np.where(tall, sizes, 0)))
    centre = boxes[largest].mean(axis=0)
    radius = radius_of(labels, largest, scan.xyz, centre)
    reach = options.piece_reach * radius
    enough = max(4.0, options.piece_share * sizes[largest])

    def belongs(sizes: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.bool_]:
        away = centres - centre
        away -= np.outer(away @ normal, normal)  # along the support: a low part may lie beside a tall object
        return np.asarray((sizes >= enough) & (np.linalg.norm(away, axis=1) <= reach))

    kept = tall & (belongs(sizes, centres) | _parts_of(largest, tall & (sizes >= enough), labels, scan.xyz, boxes, radius))
    kept[largest] = True
    object_ = kept[labels]
    # Isolated points inside a hole of the object belong to it, however small the piece they form.
    object_ |= above & _enclosed(object_)
    # The outline of a part lower than the plane's margin is a step; that of an uneven support is not.
    low = (height > options.low_margin_mm / 1000) & ~object_
    labels, count = ndimage.label(low, _EIGHT)
    sizes, _, centres, _ = measure_pieces(labels, count, height, scan.xyz)
    kept = belongs(sizes, centres) & (step_shares(labels, count, height, options.low_step_mm / 1000) >= options.low_step_share)
    kept[0] = False
    return object_ | kept[labels], removed_as, plane


def _object_alone(scan: Scan, options: CleanOptions) -> tuple[NDArray[np.bool_], NDArray[np.uint8], NDArray[np.float64]]:
    """Return the object of a scan without its support, as ``_object_on_plane``.

    What the support's normal was cannot be seen any more: the sensor's axis stands for it, and the farthest point for its height.
    """
    labels, count = ndimage.label(scan.valid, _EIGHT)
    depth = scan.xyz[..., 2].astype(np.float64)
    sizes, _, centres, boxes = measure_pieces(labels, count, depth, scan.xyz)
    sizes[0] = 0
    largest = int(np.argmax(sizes))
    centre = boxes[largest].mean(axis=0)
    radius = radius_of(labels, largest, scan.xyz, centre)
    enough = sizes >= max(4.0, options.piece_share * sizes[largest])
    near = np.linalg.norm(centres - centre, axis=1) <= options.piece_reach * radius
    kept = enough & (near | _parts_of(largest, enough, labels, scan.xyz, boxes, radius))
    kept[0] = False
    object_ = kept[labels]
    removed_as = np.where(scan.valid & ~object_, np.uint8(_FRAGMENTS), np.uint8(0))
    return object_, removed_as, np.array([0.0, 0.0, -1.0, float(depth[object_].max(initial=0))])


def _parts_of(
    largest: int, candidates: NDArray[np.bool_], labels: NDArray[np.integer], xyz: NDArray[np.float32], boxes: NDArray[np.float64],
    radius: float,
) -> NDArray[np.bool_]:  # fmt: skip
    """Return which pieces (K,) are large parts of a broken object: beside its largest piece across a gap, or beside such a part.

    A part of a long object lies farther from the largest piece's centre than any fragment that belongs to it.

    Parameters
    ----------
    largest
        Number of the largest piece.
    candidates
        (K,) bool, pieces that may be such parts.
    labels, xyz, boxes
        (H, W) number of each point's piece; (H, W, 3) points, metres; (K, 2, 3) lower and upper corners of the pieces' boxes, metres.
    radius
        Radius of the largest piece, metres.
    """
    long = candidates & (np.linalg.norm(boxes[:, 1] - boxes[:, 0], axis=1) / 2 >= _LONG * radius)
    long[0] = False
    parts = np.zeros(len(boxes), np.bool_)
    parts[largest] = True
    waiting = [largest]
    while waiting:
        part = waiting.pop()
        low, high = boxes[part]
        gaps = np.maximum(np.maximum(boxes[:, 0] - high, low - boxes[:, 1]), 0)
        for piece in np.flatnonzero(long & ~parts & (np.linalg.norm(gaps, axis=1) <= _GAP * radius)).tolist():
            # Boxes of slanted pieces overlap where the pieces lie far from each other.
            one, other = (_thinned(xyz[labels == number]) for number in (part, piece))
            if float(np.min(cKDTree(one).query(other)[0])) <= _GAP * radius:
                parts[piece] = True
                waiting.append(piece)
    return parts


def _object_in_scene(scan: Scan, options: CleanOptions) -> tuple[NDArray[np.bool_], NDArray[np.uint8], NDArray[np.float64]]:
    """Return the object (H, W) bool, the part of the background of all other points, and the floor, as in ``Cleaned``."""
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
    return np.asarray(kept[labels]), removed_as, np.array([*pose[2, :3], pose[2, 3]])


def _enclosed(object_: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the holes of a mask: points outside of it that no path of 4-neighbours connects to the image's border."""
    labels, count = ndimage.label(~object_)
    inside = np.ones(count + 1, dtype=bool)
    inside[0] = False
    for line in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        inside[line] = False
    return np.asarray(inside[labels])


def _fill(scan: Scan, above: NDArray[np.bool_], options: CleanOptions) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Fill enclosed holes of missing returns, linearly in depth along the sensor's rays; return xyz (H, W, 3) and where."""
    holes = _enclosed(above) & ~scan.valid
    labels, count = ndimage.label(holes, _EIGHT)
    if count == 0:
        return scan.xyz, holes
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    small = sizes <= options.fill_share * np.count_nonzero(above)
    small[0] = False
    # A hole that touches visible support is a real opening (the middle of a ring): it stays open.
    small[pieces_touching(labels, scan.valid & ~above, count)] = False
    filled = small[labels]
    xyz = scan.xyz.copy()
    interpolate_holes(xyz, above, filled)
    return xyz, filled
