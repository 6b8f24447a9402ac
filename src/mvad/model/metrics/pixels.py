"""P-AUROC, AP, F1-max and AUPRO over any number of pixels, image by image in constant memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mvad.model.metrics.histogram import ScoreHistogram
from mvad.model.metrics.intervals import UNDEFINED, Interval, from_clusters
from mvad.model.metrics.steps import Bounds

LIMITS = (0.3, 0.1, 0.05, 0.01)
"""False positive rates up to which AUPRO integrates; 0.3 is that of MVTec AD, 0.01 the second one of MVTec 3D-AD."""

_TOUCHING = np.ones((3, 3), dtype=int)


@dataclass(frozen=True)
class PixelFigures:
    """Metrics over all pixels; NaN where a class is missing.

    Attributes
    ----------
    auroc
        P-AUROC; its interval treats samples as clusters of pixels.
    ap, f1_max, threshold
        Average precision; the best F1, and its threshold: pixels with at least this score count as anomalous.
    aupro
        AUPRO at each of ``LIMITS``: the mean, over the connected regions of ground truth (8-neighbourhood), of the share of
        the region that is detected, averaged over false positive rates up to the limit.
    regions
        Number of regions of ground truth.
    bounds
        Largest errors of ``auroc``, ``ap`` and ``aupro`` due to binning; 0 up to ``histogram.CAPACITY`` pixels.
    """

    auroc: Interval
    ap: float
    f1_max: float
    threshold: float
    aupro: dict[float, float]
    regions: int
    bounds: Bounds


@dataclass
class PixelScores:
    """Pixel scores of samples, each added once by its key; parts from other processes can be merged.

    Attributes
    ----------
    histogram
        All pixels; positives are weighted by one over the size of their region of ground truth.
    regions
        Number of regions so far.
    samples
        The keys of the samples.
    """

    histogram: ScoreHistogram = field(default_factory=ScoreHistogram)
    regions: int = 0
    samples: set[str] = field(default_factory=set)

    def add(
        self,
        key: str,
        maps: NDArray[np.floating] | Sequence[NDArray[np.floating]],
        masks: NDArray[np.bool_] | Sequence[NDArray[np.bool_]],
    ) -> None:
        """Add all images of a sample.

        Parameters
        ----------
        key
            Key of the sample; its pixels count as one cluster.
        maps
            (N, H, W) finite anomaly maps; or N images of different sizes.
        masks
            Masks of the same shapes; true is anomalous.

        Raises
        ------
        ValueError
            If the key was added before, a score is not finite, or shapes differ.
        """
        if key in self.samples:
            raise ValueError(f"{key}: was evaluated before")
        for anomaly_map, mask in zip(maps, masks, strict=True):
            truth = np.asarray(mask, np.bool_)
            if truth.shape != np.shape(anomaly_map):
                raise ValueError(f"{key}: map {np.shape(anomaly_map)} and mask {truth.shape} differ in shape")
            regions, share = regions_of(truth)
            if regions is None:
                self.histogram.add(np.asarray(anomaly_map), truth, owner=key)
            else:
                self.histogram.add(np.asarray(anomaly_map), regions, share, owner=key)
            self.regions += len(share) - 1
        self.samples.add(key)

    def merge(self, other: PixelScores) -> None:
        """Add the samples of another part.

        Raises
        ------
        ValueError
            If both have the same sample.
        """
        common = self.samples & other.samples
        if common:
            raise ValueError(f"{min(common)}: is in both parts")
        self.histogram.merge(other.histogram)
        self.regions += other.regions
        self.samples |= other.samples

    def figures(self) -> PixelFigures:
        """Return the metrics over all pixels added so far."""
        curve, weighted = self.histogram.curves()
        f1, threshold = curve.best_f1()
        return PixelFigures(
            auroc=self._interval(curve.area()), ap=curve.average_precision(), f1_max=f1, threshold=threshold,
            aupro={limit: weighted.area(limit) for limit in LIMITS}, regions=self.regions, bounds=self.histogram.bounds(LIMITS),
        )  # fmt: skip

    def _interval(self, area: float) -> Interval:
        """Return the exact area with an interval from coarse sums over samples."""
        if math.isnan(area):
            return UNDEFINED
        owner, keys, negatives, positives = self.histogram.cells()
        place = np.unique(keys, return_inverse=True)[1]
        negative, positive = (np.bincount(place, weights=counts) for counts in (negatives, positives))
        lower = (np.cumsum(negative) - negative / 2) / negative.sum()
        higher = 1 - (np.cumsum(positive) - positive / 2) / positive.sum()
        above, below = lower[place] * positives, higher[place] * negatives
        columns = (above, positives, below, negatives)
        sums = (np.bincount(owner, weights=column) for column in columns)
        coarse = from_clusters(*(each.astype(np.float64) for each in sums))
        return Interval(area, min(coarse.low, area), max(coarse.high, area))


def regions_of(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32] | None, NDArray[np.float64]]:
    """Return the connected regions (8-neighbourhood) of a mask (H, W).

    Returns
    -------
    tuple
        (H, W) int32, the region of each pixel from 1, 0 outside, or None where the mask is empty; (R + 1,) float64, one over
        the size of each region, 0 for the outside.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None, np.zeros(1)
    columns = np.flatnonzero(mask.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    regions = np.zeros(mask.shape, np.int32)
    count = ndimage.label(mask[box], structure=_TOUCHING, output=regions[box])
    share = 1 / np.bincount(regions[box].reshape(-1), minlength=count + 1).clip(min=1)
    share[0] = 0
    return regions, share
