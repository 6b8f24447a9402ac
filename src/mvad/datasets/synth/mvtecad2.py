"""Generated parts in the format of MVTec AD 2: one PNG from above under a regular light, private tests without labels."""

from __future__ import annotations

from pathlib import Path

from mvad import files
from mvad.datasets.scan import GOOD
from mvad.datasets.synth.format import Format
from mvad.datasets.synth.one_view import as_mask, as_png, from_above
from mvad.datasets.synth.plan import PlannedSample, plan
from mvad.datasets.synth.realiad import DEFECTS

_PRIVATE = {"test_private": "regular", "test_private_mixed": "mixed"}
_PRIVATE_SEED = 20


def write(sample: PlannedSample, root: Path, size: int) -> None:
    """Write one part's picture and mask below the category's folder ``root``."""
    picture, mask = from_above(sample, size)
    split = "test_public" if sample.split == "test" else sample.split
    kind, name = GOOD if sample.defect == GOOD else "bad", f"{sample.number:03d}_regular"
    files.write_bytes(root / split / kind / f"{name}.png", as_png(picture))
    if kind != GOOD:
        files.write_bytes(root / split / "ground_truth" / kind / f"{name}_mask.png", as_mask(mask))


def write_category(root: Path, size: int) -> None:
    """Write two pictures of each private test, which have no labels."""
    for number, (folder, light) in enumerate(_PRIVATE.items()):
        for sample in plan(root.name, _PRIVATE_SEED + number, 1, 0, 1, 1, DEFECTS[:1]):
            if sample.split == "test":
                files.write_bytes(root / folder / f"{sample.number:03d}_{light}.png", as_png(from_above(sample, size)[0]))


FORMAT = Format(DEFECTS, write, write_category)
