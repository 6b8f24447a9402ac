"""Generated parts in the format of 3D-ADAM: MVTec 3D-AD's tree, masks in ``ground_truth``, the physical part in the name."""

from __future__ import annotations

from pathlib import Path

import imagecodecs

from mvad import files
from mvad.datasets.synth.folder import write_category
from mvad.datasets.synth.format import Format
from mvad.datasets.synth.mvtec3d import DEFECTS, as_tiff, scan_of
from mvad.datasets.synth.one_view import as_mask
from mvad.datasets.synth.plan import PlannedSample

_PARTS = {"train": "ABC", "validation": "D", "test": "CE"}
"""Physical parts of the scans of a split; C is trained and tested on."""


def write(sample: PlannedSample, root: Path, size: int) -> None:
    """Write one sample's files below the category's folder ``root``."""
    scan = scan_of(sample, size)
    folder, parts = root / sample.split / sample.defect, _PARTS[sample.split]
    name = f"{sample.number:03d}_{parts[sample.number % len(parts)]}"
    files.write_bytes(folder / "rgb" / f"{name}.png", imagecodecs.png_encode(scan.rgb, level=1))
    files.write_bytes(folder / "xyz" / f"{name}.tiff", as_tiff(scan.xyz))
    if scan.gt is not None:
        files.write_bytes(folder / "ground_truth" / f"{name}.png", as_mask(scan.gt))


FORMAT = Format(DEFECTS, write, write_category, name="3dadam")
