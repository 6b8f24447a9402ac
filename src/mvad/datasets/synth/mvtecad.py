"""Generated parts in the format of MVTec AD: one PNG from above, a mask of each defect."""

from __future__ import annotations

from pathlib import Path

from mvad import files
from mvad.datasets.scan import GOOD
from mvad.datasets.synth.folder import write_category
from mvad.datasets.synth.format import Format
from mvad.datasets.synth.one_view import as_mask, as_png, from_above
from mvad.datasets.synth.plan import PlannedSample
from mvad.datasets.synth.realiad import DEFECTS


def write(sample: PlannedSample, root: Path, size: int) -> None:
    """Write one part's picture and mask below the category's folder ``root``."""
    picture, mask = from_above(sample, size)
    name = f"{sample.number:03d}"
    files.write_bytes(root / sample.split / sample.defect / f"{name}.png", as_png(picture))
    if sample.defect != GOOD:
        files.write_bytes(root / "ground_truth" / sample.defect / f"{name}_mask.png", as_mask(mask))


FORMAT = Format(DEFECTS, write, write_category, has_validation=False)
