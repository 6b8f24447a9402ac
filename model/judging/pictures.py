"""Pictures of a judged sample: a column a view; colour, geometry, ground truth, anomaly map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mvad.datasets.shards.loader import Batch

_SIDE = 128
_HEAT = np.array(
    [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]],
    dtype=np.float64,
)  # fmt: skip
"""Eight stops from black through red to yellow."""


def heat(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Colour (..., ) values in 0..1 as (..., 3) uint8."""
    place = np.clip(values, 0, 1) * (len(_HEAT) - 1)
    low = np.minimum(place.astype(int), len(_HEAT) - 2)
    part = (place - low)[..., None]
    return np.asarray(_HEAT[low] * (1 - part) + _HEAT[low + 1] * part, dtype=np.uint8)


def strip(batch: Batch, maps: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return one picture of the first sample of a batch.

    Parameters
    ----------
    batch
        The sample.
    maps
        (V, S, S) anomaly maps; they are stretched between the sample's lowest and highest value.
    """
    low, high = float(maps.min()), float(maps.max())
    stretched = (maps - low) / max(high - low, 1e-12)
    rows = [images[0].numpy() for images in (batch.rgb, batch.normal) if images is not None] or [_gray(batch)]
    mask = batch.mask[0].numpy()[..., None] > 0
    rows.append(np.where(mask, np.array([230, 40, 40], np.uint8), (rows[0] // 2).astype(np.uint8)))
    rows.append(heat(stretched))
    return np.concatenate([np.concatenate([_fit(view) for view in row], axis=1) for row in rows], axis=0)


def _gray(batch: Batch) -> NDArray[np.uint8]:
    """Return (V, H, W, 3): depth stretched over grey, near bright."""
    depth = batch.depth
    if depth is None:
        raise ValueError("a batch without rgb, normal and depth has no picture")
    metres = depth[0].numpy()
    seen = metres > 0
    low, high = (float(metres[seen].min()), float(metres[seen].max())) if seen.any() else (0.0, 1.0)
    gray = np.where(seen, 255 - 200 * (metres - low) / max(high - low, 1e-9), 0).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=-1)


def _fit(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reduce (H, W, 3) to the strip's side by averaging whole blocks, or repeat pixels of a smaller one."""
    side = image.shape[0]
    if side >= _SIDE:
        k = side // _SIDE
        cut = image[: k * _SIDE, : k * _SIDE].reshape(_SIDE, k, _SIDE, k, 3)
        return np.asarray(cut.mean(axis=(1, 3)), dtype=np.uint8)
    k = -(-_SIDE // side)
    return image.repeat(k, axis=0).repeat(k, axis=1)[:_SIDE, :_SIDE]
