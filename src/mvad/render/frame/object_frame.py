"""The frame of a category's objects: its templates, and the pose of a scan's object in it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mvad.datasets.scan import NO_POSE
from mvad.render.frame.points import ScanPoints
from mvad.render.frame.template import AS_IT_STANDS, Placement, Template, place

Array = NDArray[np.float64]
_LEAST_RADIUS = 0.5
"""Least radius of a scan's object, in radii of the template, that can lie in its pose."""
_TURN_DIGITS, _LENGTH_DIGITS = 5, 7
"""Decimals to which a turn (radians) and a shift (in radii) are rounded, so that processors that round differently agree."""


@dataclass(frozen=True)
class ObjectPose:
    """The pose of a scan's object.

    Attributes
    ----------
    matrix
        (4, 4) float64, metres, from the sensor's camera frame to the object's; its determinant is -1 where the object is drawn
        mirrored.
    number
        Stable pose that the object lies in; ``NO_POSE`` where it fits none well.
    fit
        Intersection over union, 0 to 1, of its outline and the template's; None without a template.
    turn_deg
        Turn about the support's normal, degrees; 0 for objects without a turn.
    """

    matrix: Array
    number: int = 0
    fit: float | None = None
    turn_deg: float = 0.0

    @property
    def mirrored(self) -> bool:
        """Whether the object is drawn mirrored."""
        return bool(np.linalg.det(self.matrix[:3, :3]) < 0)


@dataclass(frozen=True)
class StablePose:
    """A stable pose of a category's objects.

    Attributes
    ----------
    template
        Its template.
    scans
        Training scans that the template was made of.
    order
        1: every turn is found; n: the object looks the same after n-th parts of a full turn; 0: it has no turn.
    near
        n, so that the object nearly looks the same after n-th parts of a full turn, which are compared with particular care.
    spread_deg
        Spread of the turns found with templates of one half and of the other half of the training scans, degrees; None where
        there are too few.
    """

    template: Template
    scans: int
    order: int
    spread_deg: float | None
    near: int = 1


@dataclass(frozen=True)
class ObjectFrame:
    """The frame of a category's objects: x right, y down, z into the support, the object's middle at the origin.

    Attributes
    ----------
    axis
        Direction of z: ``support`` for the support's inner normal, ``sensor`` for the sensor's optical axis.
    poses
        Stable poses; none where the training scans fit no common template: then turns are 0 and the object's own middle is
        the origin.
    mirrored
        Whether mirror images of the poses occur and are drawn mirrored; they have the numbers from len(poses).
    height_m
        Height of the origin above the support, metres.
    search_spreads, spreads
        (2,) float64, spreads of height (metres) and grey value, for the search of a turn and for its refinement.
    least_fit
        Least fit of a scan that counts as lying in a pose.
    note
        One line on what is unusual, or "".
    """

    axis: Literal["support", "sensor"]
    poses: tuple[StablePose, ...]
    mirrored: bool
    height_m: float
    search_spreads: Array
    spreads: Array
    least_fit: float
    note: str = ""

    @property
    def flips(self) -> tuple[float, ...]:
        """1, and -1 where mirror images occur."""
        return (1.0, -1.0) if self.mirrored else (1.0,)

    @property
    def count(self) -> int:
        """Number of stable poses, mirror images counted."""
        return len(self.poses) * len(self.flips)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes as text, from which each makes one frame, however many scans it is sent with."""
        return _restored, (self._text,)

    @cached_property
    def _text(self) -> str:
        return json.dumps(self.to_json(), sort_keys=True)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of everything that determines a pose; of the maps as they are, not as a library compresses them."""
        plain = self.to_json()
        for pose, of in zip(plain["poses"], self.poses, strict=True):
            pose["template"]["maps"] = of.template.sha256
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    def pose_of(self, scan: ScanPoints) -> ObjectPose:
        """Estimate the pose of a scan's object."""
        if not self.poses:
            return self._pose_at(scan, AS_IT_STANDS, 0, None)
        templates, orders = [pose.template for pose in self.poses], [pose.near if pose.order else 0 for pose in self.poses]
        number, at = place(scan, templates, self.flips, (self.search_spreads, self.spreads), orders)
        fit = templates[number].fit(scan, at)
        if scan.radius_m < _LEAST_RADIUS * templates[number].radius_m:  # a crumb fits anywhere
            fit = 0.0
        return self._pose_at(scan, at, number, fit)

    def _pose_at(self, scan: ScanPoints, at: Placement, number: int, fit: float | None) -> ObjectPose:
        """Return the pose of a scan that is placed on template ``number`` with a fit."""
        number += len(self.poses) if at.flip < 0 else 0
        turn = round(float(np.angle(np.exp(1j * at.turn))), _TURN_DIGITS)
        unit = self.poses[0].template.search_radius if self.poses else scan.radius_m
        shift = np.round(np.array(at.shift) / unit, _LENGTH_DIGITS) * unit
        c, s = np.cos(turn), np.sin(turn)
        turning = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]) @ np.diag([at.flip, 1.0, 1.0])
        height = self.height_m
        if not self.poses:  # the object's own middle
            heights = scan.points[scan.points[:, 4] > 0, 2]
            height = float(np.round(np.quantile(heights, (0.02, 0.98)).mean() / unit, _LENGTH_DIGITS) * unit)
        on_support = np.array([*scan.center, scan.offset - height])  # the points' origin, at the height of the frame's
        to_frame = scan.to_support if self.axis == "support" else np.eye(3)
        matrix = np.eye(4)
        matrix[:3, :3] = turning @ to_frame
        matrix[:3, 3] = np.array([*shift, 0.0]) - matrix[:3, :3] @ (scan.to_support.T @ on_support)
        return ObjectPose(
            matrix, number if fit is None or fit >= self.least_fit else NO_POSE, fit if fit is None else round(fit, 4),
            round(float(np.degrees(turn)), 4),
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return plain values from which ``from_json`` makes an equal frame."""
        return {
            "axis": self.axis,
            "poses": [
                {"template": p.template.to_json(), "scans": p.scans, "order": p.order, "spread_deg": p.spread_deg, "near": p.near}
                for p in self.poses
            ],
            "mirrored": self.mirrored,
            "height_m": self.height_m,
            "search_spreads": self.search_spreads.tolist(),
            "spreads": self.spreads.tolist(),
            "least_fit": self.least_fit,
            "note": self.note,
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> ObjectFrame:
        """Make a frame from the result of ``to_json``.

        Raises
        ------
        ValueError, KeyError, TypeError
            If it has another form.
        """
        if value["axis"] not in ("support", "sensor"):
            raise ValueError(f"axis {value['axis']!r}")
        poses = tuple(
            StablePose(Template.from_json(p["template"]), int(p["scans"]), int(p["order"]), p["spread_deg"], int(p["near"]))
            for p in value["poses"]
        )
        search, spreads = (np.array(value[name], dtype=np.float64).reshape(2) for name in ("search_spreads", "spreads"))
        return ObjectFrame(
            value["axis"], poses, bool(value["mirrored"]), float(value["height_m"]), search, spreads, float(value["least_fit"]),
            str(value["note"]),
        )  # fmt: skip


@lru_cache(maxsize=16)
def _restored(text: str) -> ObjectFrame:
    return ObjectFrame.from_json(json.loads(text))
