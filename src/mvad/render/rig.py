"""The cameras: one rig per category, from order-independent statistics of its training scans."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from mvad.datasets.renders.coding import DepthCoding
from mvad.errors import BadInput
from mvad.render.clean import Cleaned
from mvad.render.options import RigOptions

MIN_SIZE, MAX_SIZE = 16, 4096
"""Least and greatest side of a view in pixels."""


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
    center
        (3,) float64, the point that the cameras are placed around, metres, sensor's camera frame.
    radius_m
        Greatest distance of the object's outline from the center, metres; 0 takes half the range from near to far.
    """

    poses: NDArray[np.float64]
    intrinsics: NDArray[np.float64]
    size: int
    near_m: float
    far_m: float
    center: NDArray[np.float64]
    radius_m: float = 0.0

    def __post_init__(self) -> None:
        if self.radius_m == 0:
            object.__setattr__(self, "radius_m", (self.far_m - self.near_m) / 2)

    def moved_to(self, center: NDArray[np.float64]) -> Rig:
        """Return the same cameras around another point (3,), metres: every camera is translated, none is rotated."""
        poses = self.poses.copy()
        poses[:, :3, 3] += center - self.center
        return replace(self, poses=poses, center=np.asarray(center, dtype=np.float64))

    @property
    def views(self) -> int:
        """Number of cameras."""
        return len(self.poses)

    @property
    def depth_coding(self) -> DepthCoding:
        """Coding of depth in 16 bits, the same for every view and scan of the category."""
        return DepthCoding.between(self.near_m, self.far_m)

    def to_json(self) -> dict[str, Any]:
        """Return plain values from which ``from_json`` makes an equal rig."""
        return {
            "poses": self.poses.tolist(),
            "intrinsics": self.intrinsics.tolist(),
            "size": self.size,
            "near_m": self.near_m,
            "far_m": self.far_m,
            "center": self.center.tolist(),
            "radius_m": self.radius_m,
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> Rig:
        """Make a rig from the result of ``to_json``.

        Raises
        ------
        BadInput
            If a field is missing or has another shape.
        """
        try:
            poses, intrinsics = np.array(value["poses"], float), np.array(value["intrinsics"], float)
            center = np.array(value["center"], float)
            near, far, radius = (float(value.get(name, 0)) for name in ("near_m", "far_m", "radius_m"))
            rig = Rig(poses, intrinsics, int(value["size"]), near, far, center, radius)
            rig.check()
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"rig: expected poses, intrinsics, size, near_m, far_m, center ({error})") from error
        return rig

    @staticmethod
    def from_toml(path: Path) -> Rig:
        """Read a rig file: ``size``, ``near_m``, ``far_m``, ``center``, ``radius_m`` (optional), and one ``[[view]]`` per camera.

        ``pose`` is 4 x 4, camera to the sensor's camera frame (x right, y down, z forward, metres); ``intrinsics`` is
        3 x 3 in pixels, a pixel's centre at +0.5. ``docs/rigs.md`` has an example.

        Raises
        ------
        BadInput
            If the file is missing, or has a wrong key, a pose that is not rigid, a size out of range, or near beyond far.
        """
        try:
            value = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise BadInput(f"{path}: not found; give --rig a TOML file") from error
        except (OSError, ValueError) as error:
            raise BadInput(f"{path}: not readable as TOML: {error}") from error
        known = {"size", "near_m", "far_m", "center", "radius_m", "view"}
        if unknown := sorted(value.keys() - known):
            raise BadInput(f"{path}: unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}")
        try:
            views = value.pop("view")
            value |= {
                name: [view[singular] for view in views] for name, singular in (("poses", "pose"), ("intrinsics", "intrinsics"))
            }
            return Rig.from_json(value)
        except (KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{path}: each [[view]] needs pose and intrinsics ({error})") from error
        except BadInput as error:
            raise BadInput(f"{path}: {error}") from error

    def check(self) -> None:
        """Check shapes, finite numbers, rigid poses, positive focal lengths and ranges.

        Raises
        ------
        ValueError
            If one of them is wrong.
        """
        v = len(self.poses)
        if self.poses.shape != (v, 4, 4) or self.intrinsics.shape != (v, 3, 3) or self.center.shape != (3,) or v == 0:
            raise ValueError(f"poses {self.poses.shape}, intrinsics {self.intrinsics.shape}, center {self.center.shape}")
        numbers = np.concatenate([self.poses.ravel(), self.intrinsics.ravel(), self.center, [self.near_m, self.far_m, self.radius_m]])
        if not np.isfinite(numbers).all():
            raise ValueError("a number is not finite")
        rotation = self.poses[:, :3, :3]
        rigid = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max() < 1e-6 and (np.linalg.det(rotation) > 0).all()
        if not rigid or (self.poses[:, 3] != [0, 0, 0, 1]).any():
            raise ValueError("a pose is not rigid (a rotation, a position in metres, last row 0 0 0 1)")
        k = self.intrinsics
        if (k[:, [0, 1], [0, 1]] <= 0).any() or k[:, [0, 1], [1, 0]].any() or (k[:, 2] != [0, 0, 1]).any():
            raise ValueError("intrinsics are [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with positive fx, fy")
        if not (MIN_SIZE <= self.size <= MAX_SIZE and 0 < self.near_m < self.far_m and self.radius_m > 0):
            raise ValueError(f"size {MIN_SIZE} to {MAX_SIZE}, 0 < near_m < far_m, radius_m over 0")

    @property
    def sha256(self) -> str:
        """SHA-256 of everything in the rig that determines the rendered images."""
        lengths = [self.size, self.near_m, self.far_m, self.radius_m]
        numbers = np.concatenate([self.poses.ravel(), self.intrinsics.ravel(), lengths, self.center])
        return hashlib.sha256(numbers.astype("<f8").tobytes()).hexdigest()


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
    directions = Rotation.from_euler(
        "zy", np.stack(np.meshgrid(np.arange(8) * 45, [-60, -30, 0, 30, 60]), -1).reshape(-1, 2), degrees=True
    )
    return Extent(np.array(middle), points[_farthest(points, directions.apply([1.0, 0.0, 0.0]))].astype(np.float64))


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
        raise BadInput("a rig is fitted to training scans, and there is none; render the train split as well")
    centre = np.median([extent.centre for extent in extents], axis=0)
    if options.center == "scan":
        extents = [Extent(centre, extent.outline + centre - extent.centre) for extent in extents]
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
    near = max(distance - 1.5 * radius, 0.01 * distance)
    return Rig(poses, intrinsics, options.size, near, distance + 1.5 * radius, centre, radius)


def _reach(extent: Extent, poses: NDArray[np.float64]) -> float:
    """Return the largest |x/z| or |y/z| of an object's outline over all views: the tangent of half the field of view."""
    points = np.einsum("vki,vnk->vni", poses[:, :3, :3], extent.outline - poses[:, None, :3, 3])
    return float(np.abs(points[..., :2] / points[..., 2:]).max())
