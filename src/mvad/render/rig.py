"""The cameras of a category."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mvad.datasets.renders.coding import DepthCoding
from mvad.errors import BadInput
from mvad.render.frame.object_frame import ObjectFrame, ObjectPose

MIN_SIZE, MAX_SIZE = 16, 4096
"""Least and greatest side of a view in pixels."""


@dataclass(frozen=True)
class Rig:
    """V pinhole cameras around one centre, in the object's frame or in the sensor's camera frame (the frame of the rig).

    Attributes
    ----------
    poses
        (V, 4, 4) float64, from each camera to the rig's frame; camera axes: x right, y down, z forward.
    intrinsics
        (V, 3, 3) float64, pixels; a pixel's centre lies at +0.5.
    size
        Height and width of a view, pixels.
    near_m, far_m
        Smallest and greatest depth between which the object lies, metres.
    center
        (3,) float64, the point around which the cameras are placed, metres.
    radius_m
        Greatest distance of the object's outline from the center, metres; 0: half the range from near to far.
    frame
        The object's frame, in which the cameras stand; None: they stand in the sensor's camera frame.
    """

    poses: NDArray[np.float64]
    intrinsics: NDArray[np.float64]
    size: int
    near_m: float
    far_m: float
    center: NDArray[np.float64]
    radius_m: float = 0.0
    frame: ObjectFrame | None = None

    def __post_init__(self) -> None:
        if self.radius_m == 0:
            object.__setattr__(self, "radius_m", (self.far_m - self.near_m) / 2)

    def moved_to(self, center: NDArray[np.float64]) -> Rig:
        """Return the same cameras around another point (3,), metres: every camera is translated, none is rotated."""
        poses = self.poses.copy()
        poses[:, :3, 3] += center - self.center
        return replace(self, poses=poses, center=np.asarray(center, dtype=np.float64))

    def before(self, pose: ObjectPose) -> Rig:
        """Return the cameras in the sensor's camera frame, before an object in this pose.

        Of a mirrored object the cameras stand mirrored as well. A mirrored camera would see a mirrored picture; these see the
        plain one, which ``ViewSet.mirrored`` turns into it.
        """
        to_sensor = np.linalg.inv(pose.matrix)
        poses, intrinsics = to_sensor @ self.poses, self.intrinsics.copy()
        if pose.mirrored:
            poses[:, :3, 0] *= -1
            intrinsics[:, 0, 2] = self.size - intrinsics[:, 0, 2]
        center = to_sensor[:3, :3] @ self.center + to_sensor[:3, 3]
        return replace(self, poses=poses, intrinsics=intrinsics, center=center, frame=None)

    def cut(self, points: NDArray[np.float32]) -> list[int]:
        """Return the views that points (N, 3) of an object, metres, in the frame in which the cameras stand, reach beyond."""
        return [int(view) for view in np.flatnonzero(_beyond(points, self.poses, self.intrinsics, float(self.size)))]

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
        frame = {} if self.frame is None else {"frame": self.frame.to_json()}
        return frame | {
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
            frame = ObjectFrame.from_json(value["frame"]) if "frame" in value else None
            rig = Rig(poses, intrinsics, int(value["size"]), near, far, center, radius, frame)
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
        numbers = np.concatenate(
            [self.poses.ravel(), self.intrinsics.ravel(), self.center, [self.near_m, self.far_m, self.radius_m]]
        )
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
        frame = b"" if self.frame is None else self.frame.sha256.encode()
        return hashlib.sha256(numbers.astype("<f8").tobytes() + frame).hexdigest()


@njit(nogil=True, cache=True, error_model="numpy")
def _beyond(points, poses, intrinsics, size):  # type: ignore[no-untyped-def]  # numba infers the types
    """Return which views (V,) bool a point (N, 3) lies beyond."""
    beyond = np.zeros(len(poses), dtype=np.bool_)
    for v in range(len(poses)):
        for i in range(len(points)):
            x, y, z = points[i, 0] - poses[v, 0, 3], points[i, 1] - poses[v, 1, 3], points[i, 2] - poses[v, 2, 3]
            depth = poses[v, 0, 2] * x + poses[v, 1, 2] * y + poses[v, 2, 2] * z
            across = poses[v, 0, 0] * x + poses[v, 1, 0] * y + poses[v, 2, 0] * z
            down = poses[v, 0, 1] * x + poses[v, 1, 1] * y + poses[v, 2, 1] * z
            column = across / depth * intrinsics[v, 0, 0] + intrinsics[v, 0, 2]
            row = down / depth * intrinsics[v, 1, 1] + intrinsics[v, 1, 2]
            if not (depth > 0.0 and 0.0 <= column <= size and 0.0 <= row <= size):
                beyond[v] = True
                break
    return beyond
