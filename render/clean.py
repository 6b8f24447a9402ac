"""Take the object out of a scan: support plane or room removed, pieces kept, small holes filled.

Everything happens on the organised grid and on copies; the raw scan is never changed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import LinearNDInterpolator

from mvad.datasets.scan import Scan
from mvad.errors import BadInput
from mvad.render.options import CleanOptions

_EIGHT = np.ones((3, 3), dtype=bool)
_MIN_PLANE_POINTS = 50


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
    removed
        (H, W) bool, valid points taken away as background.
    """

    xyz: NDArray[np.float32]
    keep: NDArray[np.bool_]
    filled: NDArray[np.bool_]
    removed: NDArray[np.bool_]


def clean(scan: Scan, options: CleanOptions) -> Cleaned:
    """Separate the object from its support and fill its small holes.

    A scan with a pose (Eyecandies) stands in a known room; any other lies on a plane that is estimated.

    Raises
    ------
    BadInput
        If no object remains.
    """
    above = _above_room(scan, options) if scan.pose_camera_to_world is not None else _above_plane(scan, options)
    if not above.any():
        raise BadInput("nothing is left above the support plane; is this a scan of an object?")
    xyz, filled = _fill(scan, above, options)
    keep = above | filled
    return Cleaned(xyz, keep, filled, scan.valid & ~keep)


def support_plane(scan: Scan, options: CleanOptions) -> tuple[NDArray[np.float64], float]:
    """Estimate the plane the object lies on: (normal towards the sensor, offset), n.p + d = height in metres.

    RANSAC (open3d, seeded) on the image's border band and on the whole scan; the plane that more border
    points support wins, then least squares over its supporters.
    """
    h, w = scan.valid.shape
    width = max(2, round(options.frame * min(h, w)))
    band = np.ones((h, w), dtype=bool)
    band[width:-width, width:-width] = False
    every = scan.xyz[scan.valid].astype(np.float64)
    border = scan.xyz[scan.valid & band].astype(np.float64)
    distance = options.plane_distance_mm / 1000
    planes = [_ransac(points, distance, options.seed) for points in (border, every) if len(points) >= _MIN_PLANE_POINTS]
    if not planes:
        raise BadInput(f"only {len(every)} valid points; a support plane needs {_MIN_PLANE_POINTS}")
    judges = border if len(border) >= _MIN_PLANE_POINTS else every
    normal, offset = max(planes, key=lambda plane: int((np.abs(judges @ plane[0] + plane[1]) < distance).sum()))
    for _ in range(2):
        near = every[np.abs(every @ normal + offset) < distance]
        centre = near.mean(axis=0)
        normal = np.linalg.svd(np.cov((near - centre).T))[0][:, 2]
        normal *= -np.sign(normal[2])
        offset = -float(normal @ centre)
    return normal, offset


def _ransac(points: NDArray[np.float64], distance: float, seed: int) -> tuple[NDArray[np.float64], float]:
    import open3d  # 0.8 s and 900 MB: only where it is used

    open3d.utility.random.seed(seed)
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))
    plane, _ = cloud.segment_plane(distance, ransac_n=3, num_iterations=500)
    plane = np.asarray(plane, dtype=np.float64)
    plane /= np.linalg.norm(plane[:3])
    if plane[2] > 0:
        plane = -plane
    return plane[:3], float(plane[3])


def _above_plane(scan: Scan, options: CleanOptions) -> NDArray[np.bool_]:
    normal, offset = support_plane(scan, options)
    height = np.where(scan.valid, scan.xyz.astype(np.float64) @ normal + offset, -np.inf)
    above = height > options.plane_margin_mm / 1000
    labels, count = ndimage.label(above, _EIGHT)
    if count == 0:
        return above
    numbers = np.arange(1, count + 1)
    sizes = ndimage.sum_labels(above, labels, numbers)
    heights = ndimage.maximum(height, labels, numbers)
    tall = heights > options.piece_height_mm / 1000
    if not tall.any():
        return np.zeros_like(above)
    largest = int(np.argmax(np.where(tall, sizes, 0)))
    body = scan.xyz[labels == largest + 1].astype(np.float64)
    centre = (body.min(axis=0) + body.max(axis=0)) / 2
    radius = np.linalg.norm(body - centre, axis=1).max()
    kept = np.zeros(count + 1, dtype=bool)
    kept[largest + 1] = True
    for piece in np.flatnonzero(tall & (sizes >= max(4, options.piece_share * sizes[largest]))):
        middle = scan.xyz[labels == piece + 1].mean(axis=0)
        kept[piece + 1] |= bool(np.linalg.norm(middle - centre) <= options.piece_reach * radius)
    object_ = kept[labels]
    # Single returns inside a hole of the object are the object's, however small a piece they form.
    return object_ | (above & ndimage.binary_fill_holes(object_))


def _above_room(scan: Scan, options: CleanOptions) -> NDArray[np.bool_]:
    pose = scan.pose_camera_to_world
    assert pose is not None
    world = scan.xyz.astype(np.float64) @ pose[:3, :3].T + pose[:3, 3]
    above = scan.valid & (world[..., 2] > options.floor_margin)
    above &= (np.abs(world[..., 0]) < options.wall) & (world[..., 1] < options.back)
    labels, count = ndimage.label(above, _EIGHT)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    kept = sizes >= max(4, options.piece_share * sizes[1:].max(initial=0))
    kept[0] = False
    return np.asarray(kept[labels])


def _fill(scan: Scan, above: NDArray[np.bool_], options: CleanOptions) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Fill enclosed holes of missing returns, linear in depth along the sensor's own rays."""
    holes = ndimage.binary_fill_holes(above, ndimage.generate_binary_structure(2, 1)) & ~scan.valid
    labels, count = ndimage.label(holes, _EIGHT)
    filled = np.zeros_like(above)
    if count:
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        small = sizes <= options.fill_share * above.sum()
        small[0] = False
        # A hole that touches the support shows the support (a ring's middle): it stays open.
        touching = np.unique(labels[ndimage.binary_dilation(scan.valid & ~above, _EIGHT)])
        small[touching] = False
        filled = small[labels]
    if not filled.any():
        return scan.xyz, filled
    rim = ndimage.binary_dilation(filled, _EIGHT) & above
    xyz = scan.xyz.astype(np.float64)
    rays = np.concatenate([xyz[rim][:, :2] / xyz[rim][:, 2:], xyz[rim][:, 2:]], axis=1)
    inside = np.asarray(LinearNDInterpolator(np.argwhere(rim), rays)(np.argwhere(filled)))
    known = np.isfinite(inside).all(axis=1)
    places = np.argwhere(filled)
    filled[tuple(places[~known].T)] = False
    result = scan.xyz.copy()
    depth = inside[known, 2:]
    result[filled] = np.concatenate([inside[known, :2] * depth, depth], axis=1).astype(np.float32)
    return result, filled
