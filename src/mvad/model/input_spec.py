"""What a detector must know of its data: views, inputs, camera angles, depths."""

from __future__ import annotations

from collections.abc import Mapping
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
"""Steps over an edge are of any size: none counts for more than this share."""


@dataclass(frozen=True)
class InputSpec:
    """What a detector is made for.

    Attributes
    ----------
    views
        Number of views V.
    modalities
        Inputs of each view, in order.
    angles
        (V, 3) float32 tensor, Euler angles xyz of each camera relative to the first, radians.
    depth_range
        Middle and half width of the object's depths (metres), or None without depth.
    scan_width
        Columns of the raw scans that ``source`` counts in, or None where it was not asked for.
    """

    views: int
    modalities: tuple[str, ...]
    angles: torch.Tensor
    depth_range: tuple[float, float] | None
    scan_width: int | None = None

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
        """Take back what ``to_json`` returned."""
        depth_range = (float(value["depth_range"][0]), float(value["depth_range"][1])) if value["depth_range"] else None
        return cls(value["views"], tuple(value["modalities"]), torch.tensor(value["angles"]), depth_range, value["scan_width"])


def uses_source(config: ModelConfig) -> bool:
    """Return whether a configuration needs ``source``: pseudo anomalies that are consistent over views do."""
    return isinstance(config, TexturedConfig) and config.pseudo.views == "consistent"


def input_spec_of(data: ShardSet, config: ModelConfig) -> InputSpec:
    """Return the input spec of a split of shards under a configuration.

    Raises
    ------
    BadInput
        If a modality is asked for that the shards do not have.
    """
    modalities = config.input.modalities or tuple(name for name in MODALITIES if name in data.stored)
    missing = [name for name in modalities if name not in data.stored]
    if missing:
        raise BadInput(
            f"{data.folder}: has no {missing[0]}; choose --modalities from {', '.join(name for name in MODALITIES if name in data.stored)}"
        )
    depth_range = None
    if data.coding is not None:
        near, far = data.coding.offset_m, data.coding.offset_m + data.coding.step_m * 65534
        # The coded range is one and a half radii either side of the object's centre.
        depth_range = ((near + far) / 2, (far - near) / 3)
    width = scan_width(data) if uses_source(config) else None
    return InputSpec(len(data.views), tuple(modalities), _angles(data), depth_range, width)


def scan_width(data: ShardSet) -> int:
    """Return the columns of the raw scans, which shards do not record, from ``source``, which is row * W + column.

    From a pixel to its neighbour, ``source`` changes by some rows and a few columns: nearly a multiple of W. Of all widths the
    true one leaves the least rest, as a share of itself; its divisors leave more of it, and its multiples do not fit the
    steps of one row that tilted views have.

    Raises
    ------
    BadInput
        If the shards have no ``source``, or views show too little.
    """
    if "source" not in data.stored:
        raise BadInput(f"{data.folder}: has no source, which pseudo.views = consistent needs; pack renders with it")
    chosen = np.linspace(0, len(data) - 1, min(len(data), _SAMPLES)).round().astype(int)
    found = data.select(["source"]).batch([int(row) for row in np.unique(chosen)]).source
    assert found is not None
    source = found.numpy().astype(np.int64)
    steps = []
    for first, second in ((source[..., :-1, :], source[..., 1:, :]), (source[..., :-1], source[..., 1:])):
        step = np.abs(second - first)[(first >= 0) & (second >= 0)]
        steps.append(step[step >= _NARROWEST // 2])
    every = np.concatenate(steps)
    if len(every) < _FEWEST_STEPS:
        raise BadInput(f"{data.folder}: views show too little to tell the scans' width; take pseudo.views = independent")
    every = every[:: max(1, len(every) // _STEPS)]
    widths = np.arange(_NARROWEST, _WIDEST + 1)
    rest = [np.minimum(np.abs((every + w // 2) % w - w // 2) / w, _OUTLIER).mean() for w in widths]
    return int(widths[int(np.argmin(rest))])


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
