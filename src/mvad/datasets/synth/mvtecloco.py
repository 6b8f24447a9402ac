"""Generated parts in the format of MVTec LOCO AD: one PNG from above, one mask for each piece of a defect.

A dent and a stain stand for a structural anomaly, a burn for a logical one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from mvad import files
from mvad.datasets.scan import GOOD
from mvad.datasets.synth.format import Format
from mvad.datasets.synth.one_view import as_mask, as_png, from_above
from mvad.datasets.synth.plan import PlannedSample

CLASS_OF = {"dent+stain": "structural_anomalies", "burn": "logical_anomalies"}
_VALUES = {"structural_anomalies": 255, "logical_anomalies": 254}
"""Grey value of the masks of each class."""


def write(sample: PlannedSample, root: Path, size: int) -> None:
    """Write one part's picture and masks below the category's folder ``root``."""
    picture, mask = from_above(sample, size)
    name, kind = f"{sample.number:03d}", CLASS_OF.get(sample.defect, GOOD)
    files.write_bytes(root / sample.split / kind / f"{name}.png", as_png(picture))
    if kind == GOOD:
        return
    pieces, count = ndimage.label(mask, np.ones((3, 3)))
    for number in range(count):
        path = root / "ground_truth" / kind / name / f"{number:03d}.png"
        files.write_bytes(path, as_mask(pieces == number + 1, _VALUES[kind]))


def write_category(root: Path, size: int) -> None:
    """Write the grey values of the classes."""
    config = [
        {"defect_name": kind, "pixel_value": value, "saturation_threshold": 1.0, "relative_saturation": True}
        for kind, value in _VALUES.items()
    ]
    files.write_json(root / "defects_config.json", config)


FORMAT = Format(tuple(CLASS_OF), write, write_category)
