"""How sure an AUROC is: DeLong's interval, for scores that come in clusters, too."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

LEVEL = 0.95
_Z = float(norm.ppf((1 + LEVEL) / 2))


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval; all NaN where it is not defined.

    Attributes
    ----------
    value, low, high
        In 0..1.
    """

    value: float
    low: float
    high: float

    def holds(self, other: float) -> bool:
        """Whether another figure lies in the interval."""
        return self.low <= other <= self.high


UNDEFINED = Interval(math.nan, math.nan, math.nan)


def auroc_interval(
    scores: NDArray[np.floating], labels: NDArray[np.bool_], clusters: NDArray[np.integer] | None = None
) -> Interval:
    """Return an AUROC with DeLong's interval (DeLong et al. 1988), or Obuchowski's (1997) where scores come in clusters.

    Views of a sample, and pixels even more, go up and down together; taken as independent they would give an interval that is
    far too narrow. A cluster's scores may have both labels.

    Parameters
    ----------
    scores, labels
        (N,), scores without NaN.
    clusters
        (N,) which cluster each belongs to, any integers; None: each is alone.
    """
    positive, negative = int(labels.sum()), int((~labels).sum())
    if not positive or not negative:
        return UNDEFINED
    every, among_positive, among_negative = rankdata(scores), rankdata(scores[labels]), rankdata(scores[~labels])
    above = (every[labels] - among_positive) / negative  # share of negatives below each positive, ties half
    below = 1 - (every[~labels] - among_negative) / positive
    which = np.arange(len(scores)) if clusters is None else clusters
    _, place = np.unique(which, return_inverse=True)
    sums = np.zeros((4, int(place.max()) + 1))
    for row, (at, values) in enumerate(((place[labels], above), (place[~labels], below))):
        sums[2 * row] = np.bincount(at, values, sums.shape[1])
        sums[2 * row + 1] = np.bincount(at, minlength=sums.shape[1])
    return from_clusters(*sums)


def from_clusters(
    above: NDArray[np.float64], positives: NDArray[np.float64], below: NDArray[np.float64], negatives: NDArray[np.float64]
) -> Interval:
    """Return the interval from sums over clusters (Obuchowski 1997, eq. 1 to 4); with one score a cluster it is DeLong's.

    The interval is made on the logit, so it stays within 0 and 1. Where ranking is perfect the variance is estimated as 0;
    then the bound is that of as many successes without failure as the smaller class has clusters (Clopper and Pearson).

    Parameters
    ----------
    above
        (I,) for each cluster the sum, over its positives, of the share of all negatives that score lower.
    positives, negatives
        (I,) how many it has.
    below
        (I,) the sum, over its negatives, of the share of all positives that score higher.
    """
    m, n = float(positives.sum()), float(negatives.sum())
    if not m or not n:
        return UNDEFINED
    area = float(above.sum()) / m
    with_positive, with_negative, count = int((positives > 0).sum()), int((negatives > 0).sum()), len(positives)
    fewest = min(with_positive, with_negative)
    if area in (0.0, 1.0) or fewest < 2:
        bound = ((1 - LEVEL) / 2) ** (1 / fewest)
        if area not in (0.0, 1.0):
            return Interval(area, 0.0, 1.0)  # one cluster of a class says nothing of its variance
        return Interval(area, bound, 1.0) if area else Interval(area, 0.0, 1 - bound)
    away, back = above - positives * area, below - negatives * area
    variance = (
        with_positive / (with_positive - 1) * (away**2).sum() / m**2
        + with_negative / (with_negative - 1) * (back**2).sum() / n**2
        + 2 * count / (count - 1) * (away * back).sum() / (m * n)
    )
    reach = _Z * math.sqrt(max(float(variance), 0.0)) / (area * (1 - area))
    middle = math.log(area / (1 - area))
    return Interval(area, 1 / (1 + math.exp(-(middle - reach))), 1 / (1 + math.exp(-(middle + reach))))
