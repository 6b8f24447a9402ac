"""Fit the cameras of a category to its training scans, by statistics that do not depend on their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.transform import Rotation

from mvad.errors import BadInput
from mvad.render.clean import Cleaned
from mvad.render.frame.object_frame import ObjectFrame
from mvad.render.options import RigOptions
from mvad.render.rig import Rig


@dataclass(frozen=True)
class Extent:
    """Position and outline of one scan's object, metres, sensor's camera frame.

    Attributes
    ----------
    centre
        (3,) float64, the middle of its bounding box.
    outline
        (K, 3) float64, its farthest points in K directions.
    """

    centre: NDArray[np.float64]
    outline: NDArray[np.float64]


def extent_of(cleaned: Cleaned) -> Extent:
    """Measure a cleaned scan; the bounding box is made of quantiles, so that stray points do not move it."""
    points = np.ascontiguousarray(cleaned.xyz[cleaned.keep])
    ranks = (int(0.005 * (len(points) - 1)), int(0.995 * (len(points) - 1)))
    middle = [np.partition(points[:, axis], ranks)[list(ranks)].mean(dtype=np.float64) for axis in range(3)]
    return Extent(np.array(middle), points[_farthest(points, _DIRECTIONS)].astype(np.float64))


_DIRECTIONS = Rotation.from_euler(
    "zy", np.stack(np.meshgrid(np.arange(8) * 45, [-60, -30, 0, 30, 60]), -1).reshape(-1, 2), degrees=True
).apply([1.0, 0.0, 0.0])


@njit(nogil=True, cache=True)
def _farthest(points, directions):  # type: ignore[no-untyped-def]  # numba infers the types
    """Return, for each direction (K, 3), the index of the point (N, 3) farthest along it: (K,) int64."""
    farthest = np.zeros(len(directions), dtype=np.int64)
    for k in range(len(directions)):
        x, y, z = directions[k, 0], directions[k, 1], directions[k, 2]
        reached = -np.inf
        for i in range(len(points)):
            along = x * points[i, 0] + y * points[i, 1] + z * points[i, 2]
            if along > reached:
                reached, farthest[k] = along, i
    return farthest


def fit_rig(extents: Sequence[Extent], options: RigOptions) -> Rig:
    """Place the cameras around the median centre, with a field of view that fits a high quantile of the objects, and a margin.

    View 0 looks along the sensor's optical axis at the centre, from the sensor's distance; views 1 to V-1 are rotated about
    the centre by ``tilt_deg`` at equal azimuths. With ``center = scan`` the rig is fitted to the
    objects as if each lay at the median centre, and ``Rig.moved_to`` moves it to each of them.

    Raises
    ------
    BadInput
        If there is no training scan.
    """
    if not extents:
        raise BadInput(
            "the cameras are fitted to training scans, and there is none; expected them in the folder train of the category"
        )
    centre = np.median([extent.centre for extent in extents], axis=0)
    if options.center == "scan":
        extents = [Extent(centre, extent.outline + centre - extent.centre) for extent in extents]
    radii = [np.linalg.norm(extent.outline - centre, axis=1).max() for extent in extents]
    radius = float(np.quantile(radii, options.reach_quantile)) * options.margin
    distance = max(float(np.linalg.norm(centre)), 2 * radius)
    poses = _poses(centre, distance, options)
    reach = float(np.quantile([_reach(extent, poses) for extent in extents], options.reach_quantile))
    middle = options.size / 2
    focal = middle / (reach * options.margin)
    intrinsics = np.tile(np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]]), (options.views, 1, 1))
    near = max(distance - 1.5 * radius, 0.01 * distance)
    return Rig(poses, intrinsics, options.size, near, distance + 1.5 * radius, centre, radius)


def fit_object_rig(
    outlines: Sequence[NDArray[np.float64]],
    distance: float,
    frame: ObjectFrame | None,
    options: RigOptions,
    center: NDArray[np.float64] | None = None,
) -> Rig:
    """Place the cameras around a point of the object's frame; each view's field of view fits the training objects, and a margin.

    View 0 looks along the frame's z axis, views 1 to V-1 are rotated about the point by ``tilt_deg`` at equal azimuths.

    Parameters
    ----------
    outlines
        Points (K, 3) of each training object that fits a pose, in the object's frame, metres, whose convex hull holds all its
        points: then nothing of it is cut.
    distance
        Distance of the cameras from the point, metres; at least twice the radius of the objects is taken.
    frame
        The object's frame; None: that of the files, in which the outlines are given.
    center
        (3,) the point, metres; None: the origin.

    Raises
    ------
    BadInput
        If there is no training scan.
    """
    if not outlines:
        raise BadInput(
            "the cameras are fitted to training scans, and there is none; expected them in the folder train of the category"
        )
    points = np.concatenate(outlines)
    middle = np.zeros(3) if center is None else center
    radius = float(np.linalg.norm(points - middle, axis=1).max())
    distance = max(distance, 2 * options.margin * radius)
    poses = _poses(middle, distance, options)
    intrinsics = np.tile(np.eye(3), (options.views, 1, 1))
    for view, pose in enumerate(poses):
        seen = (points - pose[:3, 3]) @ pose[:3, :3]
        plane = seen[:, :2] / seen[:, 2:]
        low, high = plane.min(axis=0), plane.max(axis=0)
        focal = options.size / (float((high - low).max()) * options.margin)
        intrinsics[view, :2, 2] = options.size / 2 - focal * (low + high) / 2
        intrinsics[view, [0, 1], [0, 1]] = focal
    near = max(distance - 1.5 * options.margin * radius, 0.01 * distance)
    return Rig(poses, intrinsics, options.size, near, distance + 1.5 * options.margin * radius, middle, radius, frame)


def fit_mesh_rig(outlines: Sequence[NDArray[np.float64]], options: RigOptions) -> Rig:
    """Place the cameras around the middle of the box of all training meshes, in the meshes' own frame; see ``fit_object_rig``.

    View 0 looks at the meshes from their +z. The cameras are 8 radii away, so that perspective hides little of their sides.
    """
    points = np.concatenate(outlines)
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    radius = float(np.linalg.norm(points - middle, axis=1).max())
    return fit_object_rig(outlines, _MESH_DISTANCE * radius, None, options, middle)


def mesh_extent(points: NDArray[np.floating]) -> Extent:
    """Return the extent of a mesh's points (N, 3), metres: the middle of their box, and all of them."""
    return Extent((points.min(axis=0) + points.max(axis=0)).astype(np.float64) / 2, points.astype(np.float64))


_MESH_DISTANCE = 8.0
"""Distance of the cameras from meshes, in radii of the meshes."""


def hull_of(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return points (K, 3) float64 of an object's points (N, 3) that have the same convex hull: all where they lie in a plane."""
    thin = _between(points, points[_farthest(points, _DIRECTIONS)])
    try:
        return np.asarray(thin[ConvexHull(thin).vertices], dtype=np.float64)
    except (QhullError, ValueError):
        return np.asarray(points, dtype=np.float64)


def outline_of(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return points (K, 3) float64 that stand for the convex hull of a mesh's points (N, 3).

    They have the same hull where there are few points, else they are the farthest points in 400 directions, evenly spread over a
    sphere: what lies between them is about 1 % of the radius outside at most, less than the margin of the views.
    """
    if len(points) <= _HULL_POINTS:
        return hull_of(points)
    number = np.arange(_OUTLINE) + 0.5
    z, azimuth = 1 - 2 * number / _OUTLINE, np.pi * (1 + 5**0.5) * number
    ring = np.sqrt(1 - z * z)
    directions = np.stack([ring * np.cos(azimuth), ring * np.sin(azimuth), z], axis=1)
    return np.asarray(points[np.unique(_farthest(points, directions))], dtype=np.float64)


_HULL_POINTS, _OUTLINE = 60_000, 400
"""Most points whose hull is found exactly; directions in which the farthest of more points are taken."""


def _between(points: NDArray[np.float32], extremes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the points that are not well inside the box of the extremes' hull: the others cannot be on the hull."""
    try:
        planes = ConvexHull(extremes.astype(np.float64)).equations
    except (QhullError, ValueError):
        return points
    return np.asarray(points[_outside(points, planes)])


@njit(nogil=True, cache=True)
def _outside(points, planes):  # type: ignore[no-untyped-def]
    """Return which points (N, 3) are not strictly inside all planes (K, 4)."""
    outside = np.zeros(len(points), dtype=np.bool_)
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        for k in range(len(planes)):
            if planes[k, 0] * x + planes[k, 1] * y + planes[k, 2] * z + planes[k, 3] >= -1e-12:
                outside[i] = True
                break
    return outside


def _poses(centre: NDArray[np.float64], distance: float, options: RigOptions) -> NDArray[np.float64]:
    """Return poses (V, 4, 4) of cameras that look at a point from a distance: along z, and tilted at equal azimuths."""
    rotations = [np.eye(3)]
    for k in range(options.views - 1):
        azimuth = 2 * np.pi * k / (options.views - 1)
        axis = np.array([np.sin(azimuth), np.cos(azimuth), 0.0])
        rotations.append(Rotation.from_rotvec(np.radians(options.tilt_deg) * axis).as_matrix())
    poses = np.tile(np.eye(4), (options.views, 1, 1))
    poses[:, :3, :3] = rotations
    poses[:, :3, 3] = centre - distance * poses[:, :3, 2]
    return poses


def _reach(extent: Extent, poses: NDArray[np.float64]) -> float:
    """Return the largest |x/z| or |y/z| of an object's outline over all views: the tangent of half the field of view."""
    points = np.einsum("vki,vnk->vni", poses[:, :3, :3], extent.outline - poses[:, None, :3, 3])
    return float(np.abs(points[..., :2] / points[..., 2:]).max())
