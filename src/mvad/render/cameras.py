"""The cameras of a category: measure training scans, fit the object's frame and the rig, stand the rig before a scan."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvad.cores import usable_cores
from mvad.datasets.scan import NO_POSE, Mesh, Scan
from mvad.errors import BadInput
from mvad.render.clean import Cleaned
from mvad.render.fit_rig import Extent, extent_of, fit_mesh_rig, fit_object_rig, fit_rig, hull_of, mesh_extent, outline_of
from mvad.render.frame.fit import fit_frame
from mvad.render.frame.object_frame import ObjectPose
from mvad.render.frame.points import ScanPoints, scan_points
from mvad.render.options import RigOptions
from mvad.render.rig import Rig
from mvad.render.surface import Surface


@dataclass(frozen=True)
class Measured:
    """What the cameras are fitted to, of one training scan.

    Attributes
    ----------
    extent
        Position and outline of the object, in the sensor's camera frame; None where the cameras stand in the object's frame.
    points, hull
        The points from which its pose is estimated, and (K, 3) float64, metres, sensor's camera frame, points with the convex hull
        of its body; None where the cameras stand in the sensor's frame.
    mesh
        (K, 3) float64, metres, points with the convex hull of a mesh, in its own frame (``Scan``); None for a scan.
    """

    extent: Extent | None = None
    points: ScanPoints | None = None
    hull: NDArray[np.float64] | None = None
    mesh: NDArray[np.float64] | None = None


def measure(scan: Scan, cleaned: Cleaned, surface: Surface | None) -> Measured:
    """Measure a cleaned training scan; ``surface`` is needed where the cameras are to stand in the object's frame."""
    if surface is None:
        return Measured(extent_of(cleaned))
    return Measured(None, scan_points(scan, cleaned), hull_of(surface.body))


def measure_mesh(mesh: Mesh) -> Measured:
    """Measure a training mesh."""
    return Measured(mesh=outline_of(mesh.corners.reshape(-1, 3)))


def fit_cameras(measured: Sequence[Measured], options: RigOptions) -> Rig:
    """Fit the cameras of a category to its measured training scans, in the order of their keys.

    Raises
    ------
    BadInput
        If there is no training scan.
    """
    meshes = [one.mesh for one in measured if one.mesh is not None]
    if meshes and options.frame == "object":
        return fit_mesh_rig(meshes, options)
    if meshes:
        return fit_rig([mesh_extent(mesh) for mesh in meshes], options)
    points = [one.points for one in measured if one.points is not None]
    hulls = [one.hull for one in measured if one.hull is not None]
    if not points:
        return fit_rig([one.extent for one in measured if one.extent is not None], options)
    frame = fit_frame(points, options.axis, options.mirror == "auto")
    with ThreadPoolExecutor(usable_cores()) as pool:
        poses = list(pool.map(frame.pose_of, points))
    all_outlines = [in_frame(hull, pose) for hull, pose in zip(hulls, poses, strict=True)]
    fitting = [outline for outline, pose in zip(all_outlines, poses, strict=True) if pose.number != NO_POSE]
    outlines = fitting or all_outlines
    # The pose moves the sensor, at the origin of its frame, as far from the object's as it stood.
    distance = float(np.median([np.linalg.norm(pose.matrix[:3, 3]) for pose in poses]))
    return fit_object_rig(outlines, distance, frame, options)


def in_frame(points: NDArray[np.floating], pose: ObjectPose) -> NDArray[np.float64]:
    """Return points (N, 3) of the sensor's camera frame in the object's frame, metres."""
    return np.asarray(points @ pose.matrix[:3, :3].T + pose.matrix[:3, 3])


def stand_before(rig: Rig, scan: Scan, cleaned: Cleaned, options: RigOptions) -> tuple[Rig, ObjectPose]:
    """Return the cameras in the sensor's camera frame before a scan, and the pose of its object in the rig's frame.

    Raises
    ------
    BadInput
        If the pose of the object is not finite.
    """
    if rig.frame is not None:
        pose = rig.frame.pose_of(scan_points(scan, cleaned))
        if not np.isfinite(pose.matrix).all():
            raise BadInput("the pose of the object is not finite; is this a scan of an object on a support?")
        return rig.before(pose), pose
    matrix = np.eye(4)
    if options.center == "scan":
        extent = extent_of(cleaned) if scan.mesh is None else mesh_extent(scan.mesh.corners.reshape(-1, 3))
        moved = rig.moved_to(extent.centre)
        matrix[:3, 3] = rig.center - moved.center
        return moved, ObjectPose(matrix)
    return rig, ObjectPose(matrix)
