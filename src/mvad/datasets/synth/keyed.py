"""The category ``keyed``: samples whose defect is that one of five photographs shows another good part.

Turn and tint of a part are the same in all views of a good sample. In a defective sample one view was taken of a part with
another turn or tint. Every view alone is normal: the turns and tints of the parts that were swapped in have the same
distribution as those of good samples. Only a comparison of views finds the defect.

Such a defect is no change of a part: a defective sample is planned as two good samples, whose parts are both built.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mvad.datasets.scan import GOOD
from mvad.datasets.synth.plan import PlannedSample
from mvad.datasets.synth.shapes import Grid

CATEGORY = "keyed"
CLASS_OF = {"turned": "BX", "tinted": "ZW", "foreign": "YW"}
"""Real-IAD's class of each kind: the swapped-in part has another turn, another tint, or both."""
DEFECTS = tuple(CLASS_OF)
VIEWS = 5
MIN_TURN = 60 / 360
"""Least difference of turn in full turns; the greatest is half a turn."""
MIN_TINT = 0.4
"""Least difference of tint as a share of the circle of hues; the greatest is half of it."""
_MIN_CONTRAST = 0.05
"""Least difference of a colour channel (0 to 1) that counts as visible; the photographs' noise is 0.008."""


@dataclass(frozen=True)
class Swap:
    """Which view of a defective sample shows another part.

    Attributes
    ----------
    view
        Number of the view, 0 to 4.
    right
        The good sample that the other views show.
    shown
        The good sample that this view shows: the same but for turn, tint and grain.
    """

    view: int
    right: PlannedSample
    shown: PlannedSample


def swap(sample: PlannedSample) -> Swap | None:
    """Return which view of a planned sample shows which other part, or None for good samples and other categories.

    Turn and tint move along circles by an amount that does not depend on them, so they stay uniform.
    """
    if sample.shape != CATEGORY or sample.defect == GOOD:
        return None
    rng = np.random.default_rng([sample.seed, 2])
    view, seed = int(rng.integers(VIEWS)), int(rng.integers(1 << 62))
    turn = rng.uniform(MIN_TURN, 1 - MIN_TURN)
    tint = rng.uniform(MIN_TINT, 1 - MIN_TINT)
    variation = sample.variation
    if sample.defect != "tinted":
        variation = replace(variation, angle=(variation.angle + turn) % 1)
    if sample.defect != "turned":
        variation = replace(variation, hue=(variation.hue + tint) % 1)
    good = replace(sample, defect=GOOD)
    return Swap(view, good, replace(good, seed=seed, variation=variation))


def differing(right: Grid, shown: Grid, on_part: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return where two photographs without noise, (H, W, 3) float64 from 0 to 1, differ visibly on a part, (H, W) bool.

    Lines of a pixel, where edges fall between pixels, are left out, and holes that are narrower than three pixels are
    closed. ``on_part`` is true where either shows its part.
    """
    different = (np.abs(right - shown).max(axis=2) > _MIN_CONTRAST) & on_part
    opened = ndimage.binary_opening(np.pad(different, 2), np.ones((2, 2), bool))
    return np.asarray(ndimage.binary_closing(opened, np.ones((3, 3), bool))[2:-2, 2:-2] & on_part)
