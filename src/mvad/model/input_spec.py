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


@dataclass(frozen=True)
class InputSpec:
    """Properties of the data that a detector is made for.

    Attributes
    ----------
    views
        Number of views V.
    modalities
        Modalities of each view, in order.
    angles
        (V, 3) float32, Euler angles xyz of each camera relative to the first camera, radians.
    depth_range
        Middle of the range of coded depths, and radius of the objects (metres); None without depth.
    scan_width
        Number of columns of the raw scans, to which ``source`` refers; None if it is not needed.
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
        If the configuration names a modality that the shards do not have, or needs scans of one width and they have several.
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
    if data.coding is not None and data.rig_range is not None:
        near, far, radius = data.rig_range
        depth_range = ((near + far) / 2, radius)
    elif data.coding is not None:  # of photographs with depth maps
        near, far = data.coding.limits
        depth_range = ((near + far) / 2, (far - near) / 2)
    width = _scan_width(data) if uses_source(config) else None
    return InputSpec(len(data.views), tuple(modalities), _angles(data), depth_range, width)


def _scan_width(data: ShardSet) -> int:
    """Return the number W of columns of the raw scans, to which ``source`` = row * W + column refers."""
    if "source" not in data.stored or data.scan_sizes is None:
        raise BadInput(f"{data.folder}: has no source, which pseudo.views = consistent needs; pack renders with it")
    if data.is_mesh:
        raise BadInput(
            f"{data.folder}: is made of meshes, whose faces are no grid, which pseudo.views = consistent needs; take pseudo.views = independent"
        )
    widths = np.unique(data.scan_sizes[:, 1]).tolist()
    if len(widths) > 1:
        raise BadInput(
            f"{data.folder}: the scans of {data.split} have the widths {', '.join(map(str, widths))}, "
            "pseudo.views = consistent needs one; take pseudo.views = independent"
        )
    return int(widths[0])


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
