"""Display of a shard: tables of its attributes and fields, and a contact sheet of some of its samples."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mvad.datasets.shards.reader import ShardFile
from mvad.datasets.shards.schema import FIELDS, NO_TEMPLATE, ROOT_ATTRIBUTES

_SHOWN = 400
BAND = 14
"""Height of a line of captions on a contact sheet, pixels."""


def attribute_rows(shard: ShardFile) -> list[tuple[str, str]]:
    """Return (name, value) of each root attribute, and of what renders say of rig and scans; long values are truncated."""
    values = [(name, str(shard.layout.attributes[name])) for name in ROOT_ATTRIBUTES]
    if shard.rig_range is not None:
        values.append(("near, far, radius", ", ".join(f"{length:.6g}" for length in shard.rig_range) + " m"))
        numbers, sizes = np.unique(shard.read("pose_number"), return_counts=True), np.unique(shard.read("scan_size"), axis=0)
        values.append(("pose numbers", ", ".join(f"{number}: {count}" for number, count in zip(*numbers, strict=True))))
        fits = shard.read("pose_fit")
        fits = fits[fits != NO_TEMPLATE]
        values.append(
            ("fit to the pose's template", f"least {fits.min():.4f}, median {np.median(fits):.4f}" if len(fits) else "none")
        )
        cut = int(shard.read("cut").any(axis=1).sum())
        values.append(("cut off in a view", f"{cut} of {len(shard)} samples"))
        values.append(("scan sizes", ", ".join(f"{height} x {width}" for height, width in sizes)))
    return [(name, value if len(value) <= _SHOWN else value[:_SHOWN] + " ...") for name, value in values]


def field_rows(shard: ShardFile) -> list[tuple[str, str, str, str, str, str]]:
    """Return (name, shape, type, compression, size on disk, meaning) of each field."""
    rows = []
    for name, field in ((name, shard.layout.fields[name]) for name in FIELDS if name in shard.layout.fields):
        stored = sum(length for _, length in field.chunks)
        raw = math.prod(field.shape) * np.dtype(field.dtype).itemsize
        size = f"{stored / 1e6:.2f} of {raw / 1e6:.2f} MB"
        unit = f" [{FIELDS[name].unit}]" if FIELDS[name].unit else ""
        rows.append((name, " x ".join(map(str, field.shape)), field.dtype, field.compression, size, FIELDS[name].meaning + unit))
    return rows


def sample_rows(shard: ShardFile) -> list[tuple[str, str, str]]:
    """Return (defect, number of samples, for each view how many of the present views show it) of each defect."""
    defects, labels = shard.texts("defect"), shard.read("view_label")
    present = shard.read("present")
    rows = []
    for defect in sorted(set(defects)):
        chosen = [row for row, name in enumerate(defects) if name == defect]
        views = "  ".join(f"{view} {labels[chosen, k].sum()}/{present[chosen, k].sum()}" for k, view in enumerate(shard.views))
        rows.append((defect, str(len(chosen)), views))
    return rows


def facts(shard: ShardFile) -> dict[str, Any]:
    """Return what the tables show as plain values, nothing truncated: attributes, fields, number of samples of each defect."""
    defects, counts = np.unique(shard.texts("defect"), return_counts=True)
    fields = {
        name: {
            "shape": list(field.shape), "dtype": str(field.dtype), "compression": field.compression,
            "bytes": sum(length for _, length in field.chunks), "meaning": FIELDS[name].meaning,
        }
        for name, field in shard.layout.fields.items()
    }  # fmt: skip
    return {
        "file": str(shard.path), "samples": len(shard), "views": shard.views, "fields": fields,
        "attributes": {name: _decoded(str(shard.layout.attributes[name])) for name in ROOT_ATTRIBUTES},
        "defects": {str(defect): int(count) for defect, count in zip(defects, counts, strict=True)},
    }  # fmt: skip


def _decoded(text: str) -> Any:
    """Return the value of an attribute that is an object or a list as JSON; else its text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, (dict, list)) else text


def contact_sheet(shard: ShardFile, samples: int) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) with one row per sample: every view's colour, the first view's geometry; defects tinted red.

    Above each column stands its view, or what it shows; above each row the sample's key.
    """
    count, fields = len(shard), shard.layout.fields
    names = [name for name in ("rgb", "normal", "depth") if name in fields]
    keys, defects = shard.texts("key"), shard.texts("defect")
    rows: list[NDArray[np.uint8]] = []
    for index in sorted({round(k) for k in np.linspace(0, count - 1, min(samples, count))}):
        mask = shard.read("mask", index)[..., None] > 0
        pictures = [_colour(name, shard.read(name, index)) for name in names]
        main = pictures[0]
        row = list(np.where(mask, (main // 2 + np.array([127, 0, 0])).astype(np.uint8), main))
        row += [picture[0] for picture in pictures[1:]]
        drawn = np.concatenate(row, axis=1)
        if not rows:
            rows.append(_band(drawn.shape[1], [*shard.views, *names[1:]]))
        said = keys[index] if defects[index] in keys[index].split("/") else f"{keys[index]} ({defects[index]})"
        rows += [_band(drawn.shape[1], [said]), drawn]
    return np.concatenate(rows, axis=0)


def _band(width: int, texts: Sequence[str]) -> NDArray[np.uint8]:
    """Return a band (BAND, W, 3) of texts, each at the left of its share of the width."""
    image = Image.new("RGB", (width, BAND), (245, 245, 245))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(10)
    for k, text in enumerate(texts):
        draw.text((2 + k * width / len(texts), 1), text, fill=(20, 20, 20), font=font)
    return np.asarray(image)


def as_png(picture: NDArray[np.uint8]) -> bytes:
    """Encode an image as PNG."""
    return bytes(imagecodecs.png_encode(picture, level=6))


def _colour(name: str, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (V, H, W, 3) uint8: colours and normals unchanged, depths as grey, near bright, black where nothing is seen."""
    if name != "depth":
        return images
    seen = images > 0
    if not seen.any():
        return np.zeros((*images.shape, 3), np.uint8)
    low, high = float(images[seen].min()), float(images[seen].max())
    gray = np.where(seen, 255 - 200 * (images - low) / max(high - low, 1), 0).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=-1)
