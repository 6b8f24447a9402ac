"""The cameras: one rig a category, from statistics of its training scans that no order can change."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from mvad.datasets.renders.coding import DepthCoding
from mvad.errors import BadInput
from mvad.render.clean import Cleaned
from mvad.render.options import RigOptions


@dataclass(frozen=True)
class Rig:
    """V pinhole cameras around one centre.

    Attributes
    ----------
    poses
        (V, 4, 4) float64, camera to the sensor's camera frame; x right, y down, z forward.
    intrinsics
        (V, 3, 3) float64, pixels; a pixel's centre lies at +0.5.
    size
        Height and width of a view, pixels.
    near_m, far_m
        Depths between which the object lies, metres.
    """

    poses: NDArray[np.float64]
    intrinsics: NDArray[np.float64]
    size: int
    near_m: float
    far_m: float

    @property
    def views(self) -> int:
        """Number of cameras."""
        return len(self.poses)

    @property
    def depth_coding(self) -> DepthCoding:
        """How depth becomes 16 bits: the same for every view and scan of the category."""
        return DepthCoding.between(self.near_m, self.far_m)

    def to_json(self) -> dict[str, Any]:
        """Return plain values that ``from_json`` turns into an equal rig."""
        return {
            "poses": self.poses.tolist(),
            "intrinsics": self.intrinsics.tolist(),
            "size": self.size,
            "near_m": self.near_m,
            "far_m": self.far_m,
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> Rig:
        """Read what ``to_json`` wrote.

        Raises
        ------
        BadInput
            If a field is missing or has another shape.
        """
        try:
            poses, intrinsics = np.array(value["poses"], float), np.array(value["intrinsics"], float)
            rig = Rig(poses, intrinsics, int(value["size"]), float(value["near_m"]), float(value["far_m"]))
            if poses.shape[1:] != (4, 4) or intrinsics.shape != (len(poses), 3, 3):
                raise ValueError(f"poses {poses.shape}, intrinsics {intrinsics.shape}")
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"rig: expected poses, intrinsics, size, near_m, far_m ({error})") from error
        return rig

    @property
    def sha256(self) -> str:
        """Hash of everything that decides a picture."""
        numbers = np.concatenate([self.poses.ravel(), self.intrinsics.ravel(), [self.size, self.near_m, self.far_m]])
        return hashlib.sha256(numbers.astype("<f8").tobytes()).hexdigest()


@dataclass(frozen=True)
class Extent:
    """Where one scan's object is: the middle of its bounding box, and points far out on it (K, 3), metres."""

    centre: NDArray[np.float64]
    outline: NDArray[np.float64]


def extent_of(cleaned: Cleaned) -> Extent:
    """Measure a cleaned scan; percentiles keep single stray points from moving the box."""
    points = cleaned.xyz[cleaned.keep].astype(np.float64)
    low, high = np.percentile(points, [0.5, 99.5], axis=0)
    directions = Rotation.from_euler(
        "zy", np.stack(np.meshgrid(np.arange(8) * 45, [-60, -30, 0, 30, 60]), -1).reshape(-1, 2), degrees=True
    )
    ranks = points @ directions.apply([1.0, 0.0, 0.0]).T
    return Extent((low + high) / 2, points[ranks.argmax(axis=0)])


def fit_rig(extents: Sequence[Extent], options: RigOptions) -> Rig:
    """Place the cameras: median centre, a field of view that a high quantile of the objects fits, a margin.

    View 0 looks along the sensor's optical axis at the centre from the sensor's own distance; views 1 to
    V-1 are turned about the centre by ``tilt_deg`` at equal azimuths.

    Raises
    ------
    BadInput
        If there is no training scan.
    """
    if not extents:
        raise BadInput("a rig is fitted to training scans, and there is none; render the train split, too")
    centre = np.median([extent.centre for extent in extents], axis=0)
    radii = [np.linalg.norm(extent.outline - centre, axis=1).max() for extent in extents]
    radius = float(np.quantile(radii, options.reach_quantile)) * options.margin
    distance = max(float(np.linalg.norm(centre)), 2 * radius)
    rotations = [np.eye(3)]
    for k in range(options.views - 1):
        azimuth = 2 * np.pi * k / (options.views - 1)
        axis = np.array([np.sin(azimuth), np.cos(azimuth), 0.0])
        rotations.append(Rotation.from_rotvec(np.radians(options.tilt_deg) * axis).as_matrix())
    poses = np.tile(np.eye(4), (options.views, 1, 1))
    poses[:, :3, :3] = rotations
    poses[:, :3, 3] = centre - distance * poses[:, :3, 2]
    reach = float(np.quantile([_reach(extent, poses) for extent in extents], options.reach_quantile))
    middle = options.size / 2
    focal = middle / (reach * options.margin)
    intrinsics = np.tile(np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]]), (options.views, 1, 1))
    return Rig(poses, intrinsics, options.size, distance - 1.5 * radius, distance + 1.5 * radius)


def _reach(extent: Extent, poses: NDArray[np.float64]) -> float:
    """Return the largest |x/z| or |y/z| of an object's outline over all views: half a field of view's tangent."""
    points = np.einsum("vki,vnk->vni", poses[:, :3, :3], extent.outline - poses[:, None, :3, 3])
    return float(np.abs(points[..., :2] / points[..., 2:]).max())
