"""Generated parts in the tree in which MANTA is read at full size: five PNG of each part, masks of the views that show a defect."""

from __future__ import annotations

from pathlib import Path

from mvad import files
from mvad.datasets.scan import GOOD
from mvad.datasets.synth.folder import in_fixture, write_category
from mvad.datasets.synth.format import Format
from mvad.datasets.synth.mantatiny import category_root
from mvad.datasets.synth.one_view import as_mask, as_png
from mvad.datasets.synth.plan import PlannedSample
from mvad.datasets.synth.realiad import DEFECTS, photograph, shown_in


def write(sample: PlannedSample, root: Path, size: int) -> None:
    """Write one part's pictures and masks below the category's folder ``root``."""
    pictures, masks = photograph(in_fixture(sample), size)
    part = f"{sample.number:04d}"
    for number, (picture, mask, shown) in enumerate(zip(pictures, masks, shown_in(masks), strict=True)):
        name = f"view_{number + 1}.png"
        files.write_bytes(root / sample.split / sample.defect / part / name, as_png(picture))
        if shown and sample.defect != GOOD:
            files.write_bytes(root / "ground_truth" / sample.defect / part / name, as_mask(mask))


FORMAT = Format(DEFECTS, write, write_category, category_root, has_validation=False)
