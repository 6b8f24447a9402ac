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
_NARROWEST_SCAN = 64
_FEWEST_PAIRS = 200
_NEAR = 24


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
    width = scan_width(data) if config.pseudo.views == "consistent" else None
    return Setting(len(data.views), tuple(modalities), _angles(data), depth_range, width)


def scan_width(data: ShardSet) -> int:
    """Return the columns of the raw scans, which shards do not record, from ``source`` of the first view.

    ``source`` is row * W + column. The first camera looks along the sensor's axis, so that columns hardly change from a
    pixel to the one below it; of all W, the true one makes them change least.

    Raises
    ------
    BadInput
        If the shards have no ``source``, or it does not show the width.
    """
    if "source" not in data.stored:
        raise BadInput(f"{data.folder}: has no source, which pseudo.views = consistent needs; pack renders with it")
    source = data.select(["source"]).batch([0]).source
    assert source is not None
    above, below = source[0, 0, :-1].numpy().astype(np.int64), source[0, 0, 1:].numpy().astype(np.int64)
    step = np.abs(below - above)[(above >= 0) & (below >= 0)]
    if len(step) < _FEWEST_PAIRS:
        raise BadInput(
            f"{data.folder}: the first view shows too little to tell the scans' width; take pseudo.views = independent"
        )
    # Most steps are one row of the scan, or several, and a few columns.
    rough = int(np.percentile(step, 25)) if np.median(step) > _NARROWEST_SCAN else int(np.median(step[step > _NARROWEST_SCAN]))
    widths = np.arange(max(_NARROWEST_SCAN, rough - _NEAR), rough + _NEAR + 1)
    off = [float(np.abs((step + w // 2) % w - w // 2).mean()) for w in widths]
    return int(widths[int(np.argmin(off))])


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
