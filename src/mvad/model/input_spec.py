"""Properties of the data that a detector is made for: views, modalities, camera angles, depths."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from mvad.datasets.shards.loader import ShardSet
from mvad.datasets.shards.schema import MODALITIES
from mvad.errors import BadInput
from mvad.model.config import ModelConfig, TexturedConfig

_REALIAD_TILT_DEG = 45.0
_NARROWEST, _WIDEST = 64, 2048
_FEWEST_STEPS, _STEPS, _SAMPLES = 500, 20_000, 4
_OUTLIER = 0.25
"""Upper bound of one step's remainder as a share of the width, since steps across an edge can have any size."""


@dataclass(frozen=True)
class InputSpec:
    """Properties of the data that a detector is made for.

    Attributes
    ----------
    views
        Number of views V.
    modalities
        Inputs of each view, in order.
    angles
        (V, 3) float32, Euler angles xyz of each camera relative to the first, radians.
    depth_range
        Middle and half width of the object's depths (metres), or None without depth.
    scan_width
        Number of columns of the raw scans, to which ``source`` refers; None where it is not needed.
    """

    views: int
    modalities: tuple[str, ...]
    angles: torch.Tensor
    depth_range: tuple[float, float] | None
    scan_width: int | None = None

    def check(self, what: str, views: int, stored: Container[str], remedy: str = "") -> None:
        """Check that data have the views and modalities that a detector was trained on.

        Raises
        ------
        BadInput
            If ``what`` has another number of views, or lacks a modality; ``remedy`` ends the message on the modality.
        """
        if views != self.views:
            raise BadInput(f"{what}: has {views} views, the run was trained on {self.views}")
        missing = [name for name in self.modalities if name not in stored]
        if missing:
            raise BadInput(f"{what}: has no {missing[0]}, which the run was trained on{remedy.format(missing[0])}")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {
            "views": self.views,
            "modalities": list(self.modalities),
            "angles": self.angles.tolist(),
            "depth_range": list(self.depth_range) if self.depth_range else None,
            "scan_width": self.scan_width,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> InputSpec:
        """Restore an input spec from what ``to_json`` returned."""
        depth_range = (float(value["depth_range"][0]), float(value["depth_range"][1])) if value["depth_range"] else None
        return cls(value["views"], tuple(value["modalities"]), torch.tensor(value["angles"]), depth_range, value["scan_width"])


def uses_source(config: ModelConfig) -> bool:
    """Return whether a configuration reads ``source``, as pseudo anomalies do that are consistent over views."""
    return isinstance(config, TexturedConfig) and config.pseudo.views == "consistent"


def input_spec_of(data: ShardSet, config: ModelConfig) -> InputSpec:
    """Return the input spec of a split of shards under a configuration.

    Raises
    ------
    BadInput
        If the configuration names a modality that the shards do not have.
    """
    modalities = config.input.modalities or tuple(name for name in MODALITIES if name in data.stored)
    missing = [name for name in modalities if name not in data.stored]
    if missing:
        raise BadInput(
            f"{data.folder}: has no {missing[0]}; choose --modalities from {', '.join(name for name in MODALITIES if name in data.stored)}"
        )
    if len(set(modalities)) < len(modalities):
        raise BadInput(f"input.modalities = {', '.join(modalities)}: names one twice")
    depth_range = None
    if data.coding is not None:
        near, far = data.coding.offset_m, data.coding.offset_m + data.coding.step_m * 65534
        # The coded range is 1.5 times the object's radius on either side of its centre.
        depth_range = ((near + far) / 2, (far - near) / 3)
    width = scan_width(data) if uses_source(config) else None
    return InputSpec(len(data.views), tuple(modalities), _angles(data), depth_range, width)


def scan_width(data: ShardSet) -> int:
    """Estimate the number W of columns of the raw scans, which shards do not record, from ``source`` = row * W + column.

    From a pixel to its neighbour, ``source`` changes by some rows and a few columns, that is by nearly a multiple of W. Among
    all widths the true one leaves the smallest remainder as a share of the width: the same remainder is a larger share of a
    divisor of W, and multiples of W do not fit the steps of one row that tilted views have.

    Raises
    ------
    BadInput
        If the shards have no ``source``, or the views show too few pixels.
    """
    if "source" not in data.stored:
        raise BadInput(f"{data.folder}: has no source, which pseudo.views = consistent needs; pack renders with it")
    chosen = np.linspace(0, len(data) - 1, min(len(data), _SAMPLES)).round().astype(int)
    stored = data.select(["source"]).batch([int(row) for row in np.unique(chosen)]).source
    assert stored is not None
    source = stored.numpy().astype(np.int64)
    steps = []
    for first, second in ((source[..., :-1, :], source[..., 1:, :]), (source[..., :-1], source[..., 1:])):
        step = np.abs(second - first)[(first >= 0) & (second >= 0)]
        steps.append(step[step >= _NARROWEST // 2])
    steps_used = np.concatenate(steps)
    if len(steps_used) < _FEWEST_STEPS:
        raise BadInput(
            f"{data.folder}: the views show too few pixels to find the width of the scans; take pseudo.views = independent"
        )
    steps_used = steps_used[:: max(1, len(steps_used) // _STEPS)]
    widths = np.arange(_NARROWEST, _WIDEST + 1)
    remainders = [np.minimum(np.abs((steps_used + w // 2) % w - w // 2) / w, _OUTLIER).mean() for w in widths]
    return int(widths[int(np.argmin(remainders))])


def _angles(data: ShardSet) -> torch.Tensor:
    """Return (V, 3) Euler angles xyz of the cameras relative to the first, radians."""
    views = len(data.views)
    if data.poses is not None:
        relative = data.poses[0, :3, :3].T @ data.poses[:, :3, :3]
        return torch.from_numpy(Rotation.from_matrix(relative).as_euler("xyz")).float()
    angles = np.zeros((views, 3))
    for k in range(1, views):  # Real-IAD: one camera from above, the others around it
        azimuth = 2 * np.pi * (k - 1) / max(views - 1, 1)
        turn = Rotation.from_rotvec(np.radians(_REALIAD_TILT_DEG) * np.array([np.sin(azimuth), np.cos(azimuth), 0.0]))
        angles[k] = turn.as_euler("xyz")
    return torch.from_numpy(angles).float()
