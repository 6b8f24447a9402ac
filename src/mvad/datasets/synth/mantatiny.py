"""Generated parts in the format of MANTA-Tiny: five views of 256 x 256 pixels side by side in one PNG, masks alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mvad import files
from mvad.datasets.scan import GOOD
from mvad.datasets.synth.folder import in_fixture, write_category
from mvad.datasets.synth.format import Format
from mvad.datasets.synth.one_view import as_mask, as_png
from mvad.datasets.synth.plan import PlannedSample
from mvad.datasets.synth.realiad import DEFECTS, photograph

DOMAIN = "mechanics"
_SIDE = 256
"""Side of a view, pixels; pictures of another size are resized to it."""


def write(sample: PlannedSample, root: Path, size: int) -> None:
    """Write one part's picture and mask below the category's folder ``root``."""
    pictures, masks = photograph(in_fixture(sample), size)
    name = f"{sample.number:04d}.png"
    views = [np.asarray(Image.fromarray(picture).resize((_SIDE, _SIDE))) for picture in pictures]
    files.write_bytes(root / sample.split / sample.defect / name, as_png(np.concatenate(views, axis=1)))
    if sample.defect != GOOD:
        rows = np.arange(_SIDE) * size // _SIDE
        marked = [mask[rows[:, None], rows[None, :]] for mask in masks]
        files.write_bytes(root / "ground_truth" / sample.defect / name, as_mask(np.concatenate(marked, axis=1)))


def category_root(raw: Path, category: str) -> Path:
    """Return the folder of a category, which lies in that of its domain."""
    return raw / DOMAIN / category


FORMAT = Format(DEFECTS, write, write_category, category_root, has_validation=False)
