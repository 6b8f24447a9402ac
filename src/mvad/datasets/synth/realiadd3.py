"""Generated parts in the format of Real-IAD D3: a scan, photographs under several lights with the grid's size, masks."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np

from mvad import files
from mvad.datasets.scan import GOOD
from mvad.datasets.synth.folder import write_category
from mvad.datasets.synth.format import Format
from mvad.datasets.synth.mvtec3d import DEFECTS, as_tiff, scan_of
from mvad.datasets.synth.one_view import as_mask
from mvad.datasets.synth.plan import PlannedSample

_LIGHTS = {"L01": 0.5, "L05": 1.0}
"""Brightness of the photographs by light; the second is read."""


def write(sample: PlannedSample, root: Path, size: int) -> None:
    """Write one sample's files below the category's folder ``root``."""
    scan = scan_of(sample, size)
    folder = root / sample.split / ("GOOD" if sample.defect == GOOD else sample.defect)
    name = f"{sample.number:04d}"
    for light, brightness in _LIGHTS.items():
        picture = np.asarray(scan.rgb * brightness, dtype=np.uint8)
        path = folder / "rgb" / name / f"{root.name}_{name}_{light}_RGB.jpg"
        files.write_bytes(path, imagecodecs.jpeg_encode(picture, level=95))
    files.write_bytes(folder / "xyz" / f"{name}.tiff", as_tiff(scan.xyz))
    files.write_bytes(folder / "ps" / f"{name}.jpg", imagecodecs.jpeg_encode(scan.rgb, level=80))
    if scan.gt is not None and sample.defect != GOOD:
        files.write_bytes(folder / "gt" / "rgb" / f"{name}.png", as_mask(scan.gt))


FORMAT = Format(DEFECTS, write, write_category, has_validation=False)
