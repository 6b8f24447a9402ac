"""Generated parts in the format of Real-IAD: photographs by five cameras, JSON splits, labels per view."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from mvad import files
from mvad.datasets.realiad import IMAGE_FOLDERS, JSON_FOLDERS, NORMAL_CLASS
from mvad.datasets.scan import GOOD
from mvad.datasets.synth import keyed
from mvad.datasets.synth.format import Format
from mvad.datasets.synth.mvtec3d import lit, shade
from mvad.datasets.synth.plan import PlannedSample
from mvad.datasets.synth.raycast import Hits, cast
from mvad.datasets.synth.shapes import Grid, Part, Variation, make_part

CLASS_OF = {"dent": "AK", "bump": "BX", "scratch": "HS", "hole": "PS", "chip": "QS", "burn": "YW", "stain": "ZW"}
DEFECTS = tuple(CLASS_OF)
_CLASS_OF = CLASS_OF | keyed.CLASS_OF
_DISTANCE_M = 0.4
_FIELD_M = 0.074
_SUPPORT = 0.82
"""Brightness of the support, 0 to 1."""
_MIN_SHARE = 10 / 256**2
"""A view that shows less of a defect than this share of its pixels is labelled OK."""


def photograph(
    sample: PlannedSample, size: int, width: int | None = None
) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.bool_]]]:  # fmt: skip
    """Return five images (size, width, 3) uint8 of a planned sample, and the defect's mask (size, width) bool in each.

    ``width`` None: ``size``.
    """
    shape = (size, width or size)
    rng = sample.sensor_rng()
    swap = keyed.swap(sample)
    right = sample if swap is None else swap.right
    part = right.part()
    pictures, masks = [], []
    for view, camera in enumerate(_cameras()):
        if swap is not None and view == swap.view:
            hits, light = _see(swap.shown.part(), swap.shown.variation, camera, shape)
            mask = _disagreement(swap, camera, size)
        else:
            hits, light = _see(part, right.variation, camera, shape)
            mask = hits.gt
        pixels = shape[0] * shape[1]
        support = np.full((pixels, 3), _SUPPORT) + rng.normal(0, 0.006, (pixels, 1))
        pictures.append(shade(hits, support, rng, light).reshape(*shape, 3))
        masks.append(mask.reshape(shape))
    return pictures, masks


def shown_in(masks: Sequence[NDArray[np.bool_]]) -> list[bool]:
    """Return which views are labelled anomalous: an annotator does not see a defect of a few pixels."""
    min_pixels = _MIN_SHARE * masks[0].size
    shown = [bool(mask.sum() >= min_pixels) for mask in masks]
    if not any(shown) and any(mask.any() for mask in masks):
        shown[int(np.argmax([mask.sum() for mask in masks]))] = True
    return shown


def write(sample: PlannedSample, root: Path, size: int) -> None:
    """Write one sample's photographs and masks; ``root`` is ``realiad_256/<category>``."""
    pictures, masks = photograph(sample, size)
    shown = shown_in(masks)
    for view, (picture, mask) in enumerate(zip(pictures, masks, strict=True)):
        image, mask_name = _names(root.name, sample, view, shown[view])
        files.write_bytes(root / image, imagecodecs.jpeg_encode(picture, level=95))
        if mask_name:
            files.write_bytes(root / mask_name, imagecodecs.png_encode(mask.astype(np.uint8) * 255))


def write_category(root: Path, size: int) -> None:
    """Write the JSON split for the existing files; ``root`` is ``realiad_256/<category>``."""
    entries: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for image in sorted(root.rglob("*.jpg")):
        mask = image.with_suffix(".png")
        relative = image.relative_to(root)
        split = "train" if relative.parts[1] >= f"S{_TRAIN_FROM}" and relative.parts[0] == NORMAL_CLASS else "test"
        entries[split].append(
            {
                "category": root.name,
                "anomaly_class": relative.parts[1] if mask.exists() else NORMAL_CLASS,
                "image_path": relative.as_posix(),
                "mask_path": relative.with_suffix(".png").as_posix() if mask.exists() else None,
            }
        )
    meta = {"prefix": f"{root.name}/", "normal_class": NORMAL_CLASS, "pre_transform": False}
    files.write_json(root.parent.parent / JSON_FOLDERS[0] / f"{root.name}.json", {"meta": meta, **entries})


def category_root(raw: Path, category: str) -> Path:
    """Return the folder of a category's images."""
    return raw / IMAGE_FOLDERS[0] / category


_TRAIN_FROM = 5000


def _names(category: str, sample: PlannedSample, view: int, shown: bool) -> tuple[str, str | None]:
    good = sample.defect == GOOD
    number = sample.number + (_TRAIN_FROM if sample.split != "test" else 0)
    folder = f"OK/S{number:04d}" if good else f"NG/{_CLASS_OF[sample.defect]}/S{number:04d}"
    label = "OK" if good else f"NG_{_CLASS_OF[sample.defect]}"
    stem = f"{folder}/{category}_{number:04d}_{label}_C{view + 1}_20260101{number % 1000000:06d}"
    return f"{stem}.jpg", None if good or not shown else f"{stem}.png"


def _see(part: Part, variation: Variation, camera: Grid, shape: tuple[int, int]) -> tuple[Hits, Grid]:
    """Return what a camera sees of a part that lies as its variation says, and the light's direction (3,) in its frame."""
    height = shape[0]
    down, across = ((np.arange(length) + 0.5 - length / 2) * _FIELD_M / _DISTANCE_M / height for length in shape)
    x, y = np.meshgrid(across, down)
    rays = np.stack([x, y, np.ones_like(x)], axis=2).reshape(-1, 3)
    spin = Rotation.from_euler("z", 360 * variation.angle, degrees=True).as_matrix()
    middle = np.array([0.003 * (2 * variation.offset_x - 1), 0.003 * (2 * variation.offset_y - 1), 0.0])
    origin = (-_DISTANCE_M * camera[:, 2] - middle) @ spin
    return cast(part, origin, rays @ camera.T @ spin), np.array([0.3, 0.2, 1.0]) @ spin


def _disagreement(swap: keyed.Swap, camera: Grid, size: int) -> NDArray[np.bool_]:
    """Return where a view without noise shows another part than the right one, (size, size) bool."""
    colors, on_part = [], np.zeros((size, size), bool)
    for sample in (swap.right, swap.shown):
        hits, light = _see(make_part(sample.shape, sample.variation, None), sample.variation, camera, (size, size))
        colors.append(lit(hits, np.full((size * size, 3), _SUPPORT), light).reshape(size, size, 3))
        on_part |= hits.on_part.reshape(size, size)
    return keyed.differing(colors[0], colors[1], on_part)


def _cameras() -> Sequence[Grid]:
    """Return five rotations, camera (x right, y down, z forward) to part frame: one from above, four at 45 degrees."""
    above = Rotation.from_euler("x", 180, degrees=True)
    tilted = [Rotation.from_euler("zx", [90 * k, 45], degrees=True) * above for k in range(4)]
    return [rotation.as_matrix() for rotation in [above, *tilted]]


FORMAT = Format(
    DEFECTS, write, write_category, category_root, has_validation=False, own_categories={keyed.CATEGORY: keyed.DEFECTS}
)
