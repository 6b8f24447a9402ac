"""A shard for people: its fields in lines, some of its samples in a picture."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from mvad.datasets.shards.schema import FIELDS, open_checked


def describe(path: Path) -> list[str]:
    """Return lines on a shard's attributes and fields."""
    with open_checked(path) as file:
        lines = [f"{name}: {str(value)[:100]}" for name, value in sorted(file.attrs.items())]
        for name, field in FIELDS.items():
            if name in file:
                shape = " x ".join(map(str, file[name].shape))
                lines.append(f"{name}: {shape} {field.dtype}, {field.meaning}")
    return lines


def contact_sheet(path: Path, samples: int) -> bytes:
    """Return a PNG: a row a sample; colour of every view, then geometry of the first; defects tinted red."""
    with open_checked(path) as file:
        count = len(file["label"])
        rows = []
        for index in sorted({round(k) for k in np.linspace(0, count - 1, min(samples, count))}):
            mask = file["mask"][index][..., None] > 0
            rgb = file["rgb"][index]
            tinted = np.where(mask, (rgb // 2 + np.array([127, 0, 0])).astype(np.uint8), rgb)
            row = list(tinted)
            if "normal" in file:
                row.append(file["normal"][index][0])
            if "depth" in file:
                row.append(_gray(file["depth"][index][0]))
            rows.append(np.concatenate(row, axis=1))
    return bytes(imagecodecs.png_encode(np.concatenate(rows, axis=0), level=6))


def _gray(depth: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Stretch coded depths over grey, near bright, nothing black."""
    seen = depth > 0
    if not seen.any():
        return np.zeros((*depth.shape, 3), np.uint8)
    low, high = float(depth[seen].min()), float(depth[seen].max())
    gray = np.where(seen, 255 - 200 * (depth - low) / max(high - low, 1), 0).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)
