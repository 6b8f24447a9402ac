"""Area under the ROC curve, exact, of samples, images and pixels."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata


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


class PixelScores:
    """Exact AUROC over the pixels of many images, four bytes a pixel.

    Few pixels are anomalous, so only the normal ones are sorted, and each anomalous one is looked up among them.
    """

    def __init__(self) -> None:
        self._normal: list[NDArray[np.float32]] = []
        self._anomalous: list[NDArray[np.float32]] = []

    def add(self, scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> None:
        """Take pixels; both arrays have the same shape, scores without NaN."""
        self._anomalous.append(scores[labels])
        self._normal.append(scores[~labels])

    def auroc(self) -> float:
        """Return the area, ties counting half; NaN where one class is missing."""
        normal, anomalous = (np.concatenate([*part, np.empty(0, np.float32)]) for part in (self._normal, self._anomalous))
        if not len(normal) or not len(anomalous):
            return math.nan
        normal.sort()
        below = np.searchsorted(normal, anomalous, "left").astype(np.float64)
        through = np.searchsorted(normal, anomalous, "right").astype(np.float64)
        return float((below + through).sum() / 2 / (len(normal) * len(anomalous)))
