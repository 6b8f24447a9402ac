"""Is one method better than another, or is it the samples? A bootstrap over the test samples, paired where two are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvad.model.metrics.intervals import Interval

REPEATS = 2000
_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Scored:
    """One category, evaluated.

    Attributes
    ----------
    scores
        (runs, samples): the same method under several seeds.
    labels
        (samples,) bool, true is anomalous.
    """

    scores: NDArray[np.floating]
    labels: NDArray[np.bool_]


@dataclass(frozen=True)
class Difference:
    """AUROC of one method less that of another, with its 95 % interval.

    Attributes
    ----------
    mean, low, high
        In 0..1; the interval is the 2.5th to 97.5th percentile of the resampled difference.
    """

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Above, below, or not separated, where the interval includes 0."""
        return verdict(self.low, self.high)


def verdict(low: float, high: float, other: float = 0.0) -> str:
    """Say where an interval lies against a number: above, below, or not separated, where it holds the number."""
    if low > other:
        return "above"
    return "below" if high < other else "not separated"


def mean_interval(categories: Sequence[Scored], repeats: int = REPEATS, seed: int = 0) -> Interval:
    """Return the mean AUROC over categories, each the mean over its runs, with the interval that the test samples leave.

    Each time the samples of every category are drawn anew with replacement, good and bad ones each, the same ones for all of its
    runs.

    Raises
    ------
    ValueError
        If a category has no good or no bad samples, or there is none.
    """
    if not categories:
        raise ValueError("a mean of no category")
    rng = np.random.default_rng(seed)
    drawn = np.zeros(repeats)
    value = 0.0
    for category in categories:
        areas, weights = _areas(category), _draws(category.labels, repeats, rng)
        value += float(areas.mean())
        drawn += _resampled(areas, *weights)
    low, high = np.percentile(drawn / len(categories), _PERCENTILES)
    return Interval(value / len(categories), float(low), float(high))


def paired_difference(
    one: NDArray[np.floating], other: NDArray[np.floating], labels: NDArray[np.bool_], repeats: int = REPEATS, seed: int = 0
) -> Difference:
    """Compare two methods on the samples of one category; see ``paired_difference_of_means``.

    Parameters
    ----------
    one, other
        (runs, samples) scores; the numbers of runs may differ.
    labels
        (samples,) bool, true is anomalous.
    repeats, seed
        Of the resampling.

    Raises
    ------
    ValueError
        If there are no good or no bad samples.
    """
    return paired_difference_of_means([Scored(one, labels)], [Scored(other, labels)], repeats, seed)


def paired_difference_of_means(
    one: Sequence[Scored], other: Sequence[Scored], repeats: int = REPEATS, seed: int = 0
) -> Difference:
    """Compare the means of two methods over the same categories and samples.

    Each time the samples are drawn anew with replacement, good and bad ones each, the same ones for both methods; a
    method's AUROC in a category is the mean over its runs.

    Raises
    ------
    ValueError
        If there are no good or no bad samples, or the labels of the two differ.
    """
    rng = np.random.default_rng(seed)
    drawn, value = np.zeros(repeats), 0.0
    for mine, theirs in zip(one, other, strict=True):
        if not np.array_equal(mine.labels, theirs.labels):
            raise ValueError("two methods can only be compared on the same samples")
        weights = _draws(mine.labels, repeats, rng)
        first, second = _areas(mine), _areas(theirs)
        value += float(first.mean() - second.mean())
        drawn += _resampled(first - second, *weights)
    low, high = np.percentile(drawn / len(one), _PERCENTILES)
    return Difference(value / len(one), float(low), float(high))


def _areas(category: Scored) -> NDArray[np.float64]:
    """Return (bad, good): which share of the runs ranks a bad sample above a good one, ties half."""
    labels = category.labels
    if labels.all() or not labels.any():
        raise ValueError("an interval of AUROCs needs good and bad samples")
    bad, good = category.scores[:, labels, None], category.scores[:, None, ~labels]
    return np.asarray(((bad > good) + 0.5 * (bad == good)).mean(axis=0))


def _draws(labels: NDArray[np.bool_], repeats: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how often each bad (repeats, bad) and each good sample (repeats, good) is drawn, as shares."""
    if labels.all() or not labels.any():
        raise ValueError("an interval of AUROCs needs good and bad samples")
    bad, good = (rng.multinomial(n, np.full(n, 1 / n), size=repeats) / n for n in (int(labels.sum()), int((~labels).sum())))
    return bad, good


def _resampled(areas: NDArray[np.float64], bad: NDArray[np.float64], good: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(((bad @ areas) * good).sum(axis=1))
