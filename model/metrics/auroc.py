"""Area under the ROC curve: exact for samples and images, by bit-pattern histogram for pixels."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

_BINS = 1 << 16


def auroc(scores: NDArray[np.floating], labels: NDArray[np.bool_]) -> float:
    """Return the probability that a positive scores above a negative, ties counting half.

    NaN where one class is missing: there is nothing to rank.
    """
    positive, negative = int(labels.sum()), int((~labels).sum())
    if positive == 0 or negative == 0:
        return math.nan
    ranks = rankdata(scores)
    return float((ranks[labels].sum() - positive * (positive + 1) / 2) / (positive * negative))


def roc_curve(scores: NDArray[np.floating], labels: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return false and true positive rates, one point a distinct score, from (0, 0) to (1, 1)."""
    order = np.argsort(-scores, kind="stable")
    distinct = np.append(np.diff(scores[order]) != 0, True)
    true = np.cumsum(labels[order])[distinct] / max(labels.sum(), 1)
    false = np.cumsum(~labels[order])[distinct] / max((~labels).sum(), 1)
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


class PixelHistogram:
    """AUROC over any number of pixels in constant memory.

    Scores are float32; their bit patterns, ordered as the numbers are, fall into 2^16 bins by their upper half.
    Two scores share a bin only if they differ by less than 2^-7 of their size, so the error is bounded by half
    the share of pairs that close.
    """

    def __init__(self) -> None:
        self.counts = np.zeros((2, _BINS), dtype=np.int64)

    def add(self, scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> None:
        """Count pixels; both arrays have the same shape, scores without NaN."""
        bits = np.ascontiguousarray(scores, dtype=np.float32).reshape(-1).view(np.uint32)
        negative = bits >> 31 == 1
        ordered = np.where(negative, ~bits, bits | np.uint32(1 << 31)) >> 16
        flat = labels.reshape(-1)
        self.counts[1] += np.bincount(ordered[flat], minlength=_BINS)
        self.counts[0] += np.bincount(ordered[~flat], minlength=_BINS)

    def auroc(self) -> float:
        """Return the area; NaN where one class is missing."""
        negative, positive = self.counts
        if not negative.sum() or not positive.sum():
            return math.nan
        below = np.cumsum(negative) - negative
        pairs = (positive * (below + negative / 2)).sum()
        return float(pairs / (float(positive.sum()) * float(negative.sum())))
