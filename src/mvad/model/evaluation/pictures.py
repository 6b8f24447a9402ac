"""Pictures of an evaluated sample: one column per view; rows of colour, geometry, ground truth and anomaly map."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvad.datasets.shards.loader import Batch

SIDE = 128
_HEAT = np.array(
    [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]],
    dtype=np.float64,
)  # fmt: skip
"""Colour map: eight stops from black through red to yellow."""


_LEVELS = np.linspace(0, len(_HEAT) - 1, 256)
_TABLE = np.stack([np.interp(_LEVELS, np.arange(len(_HEAT)), _HEAT[:, k]) for k in range(3)], axis=1).astype(np.uint8)


def heat(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return the colours (..., 3) uint8 of values (...) in 0..1."""
    return np.asarray(_TABLE[np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)])


def grey_levels(maps: NDArray[np.floating]) -> tuple[NDArray[np.uint8], float, float]:
    """Return the maps (V, S, S) of a sample as one grey picture with the views side by side, and the values of black and white."""
    low, high = float(maps.min()), float(maps.max())
    small = np.concatenate([_fit(view[..., None])[..., 0] for view in np.asarray(maps, np.float32)], axis=1)
    return np.round((small - low) / max(high - low, 1e-12) * 255).astype(np.uint8), low, high


def strip(batch: Batch, levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the picture of the first sample of a batch, (rows * SIDE, V * SIDE, 3).

    Parameters
    ----------
    batch
        The sample.
    levels
        Its maps as returned by ``grey_levels``.
    """
    pictures = [images[0].numpy() for images in (batch.rgb, batch.normal) if images is not None] or [_gray(batch)]
    return rows_of(pictures, batch.mask[0].numpy() > 0, levels)


def rows_of(pictures: Sequence[NDArray[np.uint8]], masks: NDArray[np.bool_], levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture of rows: each of ``pictures`` (V, S, S, 3), the first again with masks in red, the maps in colour."""
    rows = [np.concatenate([_fit(view) for view in views], axis=1).astype(np.uint8) for views in pictures]
    anomalous = np.concatenate([_fit(255 * mask[..., None]) > 127 for mask in masks], axis=1)
    rows.append(np.where(anomalous, np.array([230, 40, 40], np.uint8), rows[0] // 2))
    rows.append(_TABLE[levels])
    return np.concatenate(rows, axis=0)


def square(image: NDArray[Any]) -> NDArray[Any]:
    """Pad an image (H, W, C) at the bottom or right to a square with its lowest value."""
    height, width = image.shape[:2]
    side = max(height, width)
    padding = ((0, side - height), (0, side - width), (0, 0))
    return np.pad(image, padding, constant_values=image.min() if image.size else 0)


def _gray(batch: Batch) -> NDArray[np.uint8]:
    """Return depth as grey (V, H, W, 3), stretched over its range, near is bright."""
    depth = batch.depth
    if depth is None:
        raise ValueError("a batch without rgb, normal and depth has no picture")
    metres = depth[0].numpy()
    seen = metres > 0
    low, high = (float(metres[seen].min()), float(metres[seen].max())) if seen.any() else (0.0, 1.0)
    gray = np.where(seen, 255 - 200 * (metres - low) / max(high - low, 1e-9), 0).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=-1)


@cache
def _coverage(side: int) -> NDArray[np.float32]:
    """Return the share (SIDE, S) that each of ``side`` pixels has in what each of SIDE pixels covers of a line."""
    edges = np.arange(SIDE + 1) * side / SIDE
    pixels = np.arange(side)
    shared = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.asarray(np.clip(shared, 0, None) * SIDE / side, np.float32)


def _fit(image: NDArray[Any]) -> NDArray[np.float32]:
    """Resize a square image (S, S, C) to SIDE: each pixel is the mean of what it covers, pixels of a smaller image are repeated."""
    side = image.shape[0]
    if side % SIDE:
        weights = _coverage(side)
        return np.asarray(np.einsum("is,st...,jt->ij...", weights, image.astype(np.float32), weights, optimize=True), np.float32)
    k = side // SIDE
    end = k * SIDE
    total = np.zeros((SIDE, SIDE, image.shape[2]), np.float32)
    for row in range(k):
        for column in range(k):
            total += image[row:end:k, column:end:k]
    return total / np.float32(k * k)
