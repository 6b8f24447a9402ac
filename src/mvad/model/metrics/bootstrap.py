"""Bootstrap intervals of mean AUROCs over the test samples, and of differences between two methods (paired)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvad.model.metrics.intervals import Interval, auroc_interval

REPEATS = 2000
_PERCENTILES = (2.5, 97.5)
_FEWEST = 2
"""Number of samples of a class from which resampling tells its variance."""


@dataclass(frozen=True)
class Scored:
    """Scores and labels of the test samples of one category.

    Attributes
    ----------
    scores
        (runs, samples), the same method with several seeds.
    labels
        (samples,) bool, true is anomalous.
    """

    scores: NDArray[np.floating]
    labels: NDArray[np.bool_]


@dataclass(frozen=True)
class Difference:
    """AUROC of one method minus that of another, with its 95 % interval.

    Attributes
    ----------
    mean, low, high
        As fractions, -1..1; the interval is the 2.5th to 97.5th percentile of the resampled difference.
    """

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """``above``, ``below``, or ``not separated`` where the interval contains 0."""
        return verdict(self.low, self.high)


def verdict(low: float, high: float, other: float = 0.0) -> str:
    """Compare an interval with a number: ``above``, ``below``, or ``not separated`` where it contains the number."""
    if low > other:
        return "above"
    return "below" if high < other else "not separated"


def mean_interval(categories: Sequence[Scored], repeats: int = REPEATS, seed: int = 0) -> Interval:
    """Return the mean AUROC over categories, each the mean over its runs, with its 95 % bootstrap interval.

    In each repetition the good and the bad samples of every category are resampled with replacement, the same ones for all of
    its runs. Resampling does not move a perfect ranking, nor a class of a single sample; such a category has the interval of its single
    runs (``auroc_interval``) instead, averaged, which is added to that of the others in quadrature.

    Raises
    ------
    ValueError
        If there is no category, or one has no good or no bad samples.
    """
    if not categories:
        raise ValueError("the mean AUROC of no category is undefined")
    rng = np.random.default_rng(seed)
    drawn, unmoved = np.zeros(repeats), np.zeros(2)
    value = 0.0
    for category in categories:
        areas, weights = _areas(category), _draws(category.labels, repeats, rng)
        value += float(areas.mean())
        if _moves(areas):
            drawn += _resampled(areas, *weights)
        else:
            drawn += float(areas.mean())
            unmoved += np.square(_half_widths(category))
    value /= len(categories)
    low, high = np.percentile(drawn / len(categories), _PERCENTILES)
    below, above = np.sqrt(unmoved) / len(categories)
    return Interval(
        value, max(value - float(np.hypot(value - low, below)), 0.0), min(value + float(np.hypot(high - value, above)), 1.0)
    )


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
        Number of repetitions and seed of the resampling.

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

    In each repetition the good and the bad samples are resampled with replacement, the same ones for both methods; a method's
    AUROC in a category is the mean over its runs. Where a class has a single sample the interval is -1..1: resampling cannot tell
    how much another one would change.

    Raises
    ------
    ValueError
        If there are no good or no bad samples, or the labels of the two differ.
    """
    rng = np.random.default_rng(seed)
    drawn, value = np.zeros(repeats), 0.0
    for first, second in zip(one, other, strict=True):
        if not np.array_equal(first.labels, second.labels):
            raise ValueError("two methods can only be compared on the same samples")
        weights = _draws(first.labels, repeats, rng)
        first_areas, second_areas = _areas(first), _areas(second)
        value += float(first_areas.mean() - second_areas.mean())
        drawn += _resampled(first_areas - second_areas, *weights)
    if any(min(category.labels.sum(), (~category.labels).sum()) < _FEWEST for category in one):
        return Difference(value / len(one), -1.0, 1.0)
    low, high = np.percentile(drawn / len(one), _PERCENTILES)
    return Difference(value / len(one), float(low), float(high))


def _moves(areas: NDArray[np.float64]) -> bool:
    """Return whether resampling bad and good samples can change the mean of their areas (bad, good) as new samples would."""
    return min(areas.shape) >= _FEWEST and 0 < float(areas.mean()) < 1


def _half_widths(category: Scored) -> tuple[float, float]:
    """Return how far the intervals of a category's runs reach below and above their AUROCs, averaged."""
    alone = [auroc_interval(scores, category.labels) for scores in category.scores]
    return float(np.mean([one.value - one.low for one in alone])), float(np.mean([one.high - one.value for one in alone]))


def _areas(category: Scored) -> NDArray[np.float64]:
    """Return (bad, good): the share of the runs that rank the bad sample above the good one, ties counting half."""
    labels = category.labels
    if labels.all() or not labels.any():
        raise ValueError("an interval of AUROCs needs good and bad samples")
    bad, good = category.scores[:, labels, None], category.scores[:, None, ~labels]
    return np.asarray(((bad > good) + 0.5 * (bad == good)).mean(axis=0))


def _draws(labels: NDArray[np.bool_], repeats: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how often each bad (repeats, bad) and each good sample (repeats, good) is drawn, as shares of all draws."""
    if labels.all() or not labels.any():
        raise ValueError("an interval of AUROCs needs good and bad samples")
    bad, good = (rng.multinomial(n, np.full(n, 1 / n), size=repeats) / n for n in (int(labels.sum()), int((~labels).sum())))
    return bad, good


def _resampled(areas: NDArray[np.float64], bad: NDArray[np.float64], good: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(((bad @ areas) * good).sum(axis=1))
