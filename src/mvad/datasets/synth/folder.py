"""Generated parts as own photographs: five cameras around a fixture, pictures of 4 to 3, the recommended tree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image

from mvad import files
from mvad.datasets.scan import GOOD
from mvad.datasets.synth.format import Format
from mvad.datasets.synth.plan import PlannedSample
from mvad.datasets.synth.realiad import DEFECTS, photograph, shown_in

VIEWS = ("top", "north", "east", "south", "west")
_TURN = 0.02
"""Greatest difference of the parts' turns in the fixture, as a share of a whole turn."""


def in_fixture(sample: PlannedSample) -> PlannedSample:
    """Return the sample as it lies in a fixture, turned by a few degrees at most."""
    return replace(sample, variation=replace(sample.variation, angle=_TURN * (sample.variation.angle - 0.5)))


def write(sample: PlannedSample, root: Path, size: int) -> None:
    """Write one part's pictures of 4 / 3 ``size`` x ``size`` pixels, and its masks, below the category's folder ``root``.

    What the cameras see is computed at half the size and enlarged, as by a lens that is not quite sharp.
    """
    folder = root / sample.split / sample.defect / f"part_{sample.number:04d}"
    half = (2 * size // 3, size // 2)
    pictures, masks = photograph(in_fixture(sample), half[1], half[0])
    for name, small, seen, shown in zip(VIEWS, pictures, masks, shown_in(masks), strict=True):
        picture = np.asarray(Image.fromarray(small).resize((2 * half[0], 2 * half[1]), Image.Resampling.BICUBIC))
        mask = seen.repeat(2, axis=0).repeat(2, axis=1)
        files.write_bytes(folder / f"{name}.jpg", imagecodecs.jpeg_encode(picture, level=92))
        if shown and sample.defect != GOOD:
            files.write_bytes(folder / f"{name}_mask.png", imagecodecs.png_encode(mask.astype(np.uint8) * 255))


def write_category(root: Path, size: int) -> None:
    """Write nothing: a category has nothing but its parts."""


FORMAT = Format(DEFECTS, write, write_category, has_validation=False)
