"""What a detector must know of its data: views, inputs, camera angles, depths."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from mvad.datasets.shards.loader import ShardSet
from mvad.errors import BadInput
from mvad.model.config import MODALITIES, ModelConfig
from mvad.model.detector import Setting

_REALIAD_TILT_DEG = 45.0


def setting_of(data: ShardSet, config: ModelConfig) -> Setting:
    """Return the setting of a split of shards under a configuration.

    Raises
    ------
    BadInput
        If a modality is asked for that the shards do not have.
    """
    modalities = config.input.modalities or MODALITIES[data.dataset]
    missing = [name for name in modalities if name not in data.stored]
    if missing:
        raise BadInput(
            f"{data.folder}: has no {missing[0]}; choose --modalities from {', '.join(set(data.stored) & {'rgb', 'depth', 'normal'})}"
        )
    depth_range = None
    if data.coding is not None:
        near, far = data.coding.offset_m, data.coding.offset_m + data.coding.step_m * 65534
        # The coded range is one and a half radii either side of the object's centre.
        depth_range = ((near + far) / 2, (far - near) / 3)
    return Setting(len(data.views), tuple(modalities), _angles(data), depth_range)


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
