"""Exact area under the ROC curve, for samples and images."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata


def auroc(scores: NDArray[np.floating], labels: NDArray[np.bool_]) -> float:
    """Return the probability that a positive scores above a negative, ties counting half; NaN where one class is missing.

    Parameters
    ----------
    scores, labels
        (N,) without NaN, and (N,) bool, true is positive.
    """
    positive, negative = int(labels.sum()), int((~labels).sum())
    if positive == 0 or negative == 0:
        return math.nan
    ranks = rankdata(scores)
    return float((ranks[labels].sum() - positive * (positive + 1) / 2) / (positive * negative))


def auroc_between(positive: NDArray[np.floating], negative: NDArray[np.floating]) -> float:
    """Return ``auroc`` of positive and negative scores, (P,) and (N,) without NaN; NaN where one of the two is empty."""
    scores = np.concatenate([negative, positive])
    return auroc(scores, np.arange(len(scores)) >= len(negative))
