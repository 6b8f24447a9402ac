"""Confidence intervals of AUROCs: DeLong's, and Obuchowski's for clustered scores."""

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
    """A value with its 95 % interval; all NaN where it is not defined.

    Attributes
    ----------
    value, low, high
        In 0..1.
    """

    value: float
    low: float
    high: float

    def contains(self, other: float) -> bool:
        """Return whether another value lies in the interval."""
        return self.low <= other <= self.high


UNDEFINED = Interval(math.nan, math.nan, math.nan)


def auroc_interval(
    scores: NDArray[np.floating], labels: NDArray[np.bool_], clusters: NDArray[np.integer] | None = None
) -> Interval:
    """Return an AUROC with DeLong's interval (DeLong et al. 1988), or Obuchowski's (1997) for clustered scores.

    The scores of a sample's views, and of its pixels even more, are correlated; treated as independent they would give an
    interval that is far too narrow. A cluster may have scores of both labels.

    Parameters
    ----------
    scores, labels
        (N,), scores without NaN.
    clusters
        (N,) integers that name the cluster of each score; None: each score is its own cluster.
    """
    positive, negative = int(labels.sum()), int((~labels).sum())
    if not positive or not negative:
        return UNDEFINED
    every, among_positive, among_negative = rankdata(scores), rankdata(scores[labels]), rankdata(scores[~labels])
    above = (every[labels] - among_positive) / negative  # share of negatives below each positive, ties counting half
    below = 1 - (every[~labels] - among_negative) / positive
    names = np.arange(len(scores)) if clusters is None else clusters
    _, index = np.unique(names, return_inverse=True)
    sums = np.zeros((4, int(index.max()) + 1))
    for row, (members, values) in enumerate(((index[labels], above), (index[~labels], below))):
        sums[2 * row] = np.bincount(members, values, sums.shape[1])
        sums[2 * row + 1] = np.bincount(members, minlength=sums.shape[1])
    return from_clusters(*sums)


def from_clusters(
    above: NDArray[np.float64], positives: NDArray[np.float64], below: NDArray[np.float64], negatives: NDArray[np.float64]
) -> Interval:
    """Return the interval from sums over I clusters (Obuchowski 1997, eq. 1 to 4); with one score per cluster it is DeLong's.

    Sums are exact (``math.fsum``), so that the order of the clusters does not matter. The interval is computed on the logit, so it stays within 0 and 1. Where the ranking is perfect the estimated variance is 0;
    then the bound is Clopper and Pearson's for as many successes without failure as the smaller class has clusters.

    Parameters
    ----------
    above
        (I,) for each cluster the sum, over its positives, of the share of all negatives that score lower.
    positives, negatives
        (I,) the number of positives and of negatives of each cluster.
    below
        (I,) for each cluster the sum, over its negatives, of the share of all positives that score higher.
    """
    m, n = float(positives.sum()), float(negatives.sum())
    if not m or not n:
        return UNDEFINED
    area = math.fsum(above) / m
    with_positive, with_negative, count = int((positives > 0).sum()), int((negatives > 0).sum()), len(positives)
    fewest = min(with_positive, with_negative)
    if area in (0.0, 1.0) or fewest < 2:
        bound = ((1 - LEVEL) / 2) ** (1 / fewest)
        if area not in (0.0, 1.0):
            return Interval(area, 0.0, 1.0)  # the variance of a class cannot be estimated from one cluster
        return Interval(area, bound, 1.0) if area else Interval(area, 0.0, 1 - bound)
    residual_above, residual_below = above - positives * area, below - negatives * area
    variance = (
        with_positive / (with_positive - 1) * math.fsum(residual_above**2) / m**2
        + with_negative / (with_negative - 1) * math.fsum(residual_below**2) / n**2
        + 2 * count / (count - 1) * math.fsum(residual_above * residual_below) / (m * n)
    )
    half_width = _Z * math.sqrt(max(variance, 0.0)) / (area * (1 - area))
    middle = math.log(area / (1 - area))
    return Interval(area, 1 / (1 + math.exp(-(middle - half_width))), 1 / (1 + math.exp(-(middle + half_width))))
