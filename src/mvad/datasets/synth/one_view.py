"""One photograph of a generated part from above, with a defect that it shows: what the datasets of one view are generated from."""

from __future__ import annotations

from dataclasses import replace

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from mvad.datasets.scan import GOOD
from mvad.datasets.synth.folder import in_fixture
from mvad.datasets.synth.plan import PlannedSample
from mvad.datasets.synth.realiad import photograph

_TRIES = 40
_LEAST_PIXELS = 4


def from_above(sample: PlannedSample, size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return a photograph (size, size, 3) uint8 of a part in a fixture, and the defect's mask (size, size) bool.

    A defect that is not to be seen from above is made again elsewhere on the part.
    """
    for number in range(_TRIES):
        pictures, masks = photograph(replace(in_fixture(sample), seed=sample.seed + number), size)
        if sample.defect == GOOD or masks[0].sum() >= _LEAST_PIXELS:
            break
    return pictures[0], masks[0]


def as_png(picture: NDArray[np.uint8]) -> bytes:
    """Return a picture as the bytes of a PNG."""
    return bytes(imagecodecs.png_encode(picture))


def as_mask(mask: NDArray[np.bool_], value: int = 255) -> bytes:
    """Return a mask (H, W) bool as the bytes of a PNG that has a grey value where it marks."""
    return as_png(mask.astype(np.uint8) * np.uint8(value))
