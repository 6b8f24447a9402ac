"""Is one method better than another, or is it the samples? A paired bootstrap over the test samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvad.model.metrics.auroc import auroc


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
        if self.low > 0:
            return "above"
        return "below" if self.high < 0 else "not separated"


def paired_difference(
    one: NDArray[np.floating], other: NDArray[np.floating], labels: NDArray[np.bool_], repeats: int = 2000, seed: int = 0
) -> Difference:
    """Compare two methods on the same samples.

    Each time the samples are drawn anew with replacement, good and bad ones each, the same ones for both methods; a
    method's AUROC is the mean over its runs.

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
    good, bad = np.flatnonzero(~labels), np.flatnonzero(labels)
    if not len(good) or not len(bad):
        raise ValueError("a difference of AUROCs needs good and bad samples")

    def mean(scores: NDArray[np.floating], rows: NDArray[np.intp]) -> float:
        return float(np.mean([auroc(run[rows], labels[rows]) for run in scores]))

    rng = np.random.default_rng(seed)
    everything = np.concatenate([good, bad])
    drawn = np.empty(repeats)
    for k in range(repeats):
        rows = np.concatenate([rng.choice(good, len(good)), rng.choice(bad, len(bad))])
        drawn[k] = mean(one, rows) - mean(other, rows)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Difference(mean(one, everything) - mean(other, everything), float(low), float(high))
