"""ROC and precision-recall curves, and the figures that are areas under them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Curve:
    """Counts at falling thresholds, one threshold per distinct score or per bin of a histogram that is in use.

    Attributes
    ----------
    true, false
        (T + 1,) float64, positives and negatives at or above each threshold, starting with 0; positives may be weighted.
    threshold
        (T,) float32, the lowest score of each step, so ``score >= threshold[k]`` counts ``true[k + 1]``.
    """

    true: NDArray[np.float64]
    false: NDArray[np.float64]
    threshold: NDArray[np.float32]

    @property
    def defined(self) -> bool:
        """Whether there are both positives and negatives."""
        return bool(self.true[-1] > 0 and self.false[-1] > 0)

    def area(self, limit: float = 1.0) -> float:
        """Return the area under the ROC up to a false positive rate, as a share of ``limit``; ties count half.

        With positives weighted so that each region has weight 1 this is AUPRO at ``limit`` (Bergmann et al. 2021). NaN where
        one class is missing.
        """
        if not self.defined:
            return math.nan
        x, y = self.false / self.false[-1], self.true / self.true[-1]
        if limit >= 1:
            return float(np.trapezoid(y, x))
        end = int(np.searchsorted(x, limit, side="right"))  # x[end - 1] <= limit < x[end]
        x0, x1, y0, y1 = x[end - 1], x[end], y[end - 1], y[end]
        at_limit = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        inside = np.trapezoid(np.append(y[:end], at_limit), np.append(x[:end], limit))
        return float(inside / limit)

    def average_precision(self) -> float:
        """Return the sum of precision over steps of recall, as scikit-learn's; NaN where one class is missing."""
        if not self.defined:
            return math.nan
        precision = self.true[1:] / (self.true[1:] + self.false[1:])
        return float((np.diff(self.true) * precision).sum() / self.true[-1])

    def best_f1(self) -> tuple[float, float]:
        """Return the highest F1 over all thresholds, and that threshold; NaN where one class is missing."""
        if not self.defined:
            return math.nan, math.nan
        f1 = 2 * self.true[1:] / (self.true[1:] + self.false[1:] + self.true[-1])
        best = int(np.argmax(f1))
        return float(f1[best]), float(self.threshold[best])

    def thinned(self, points: int) -> Curve:
        """Return a curve of at most about ``points`` thresholds, evenly spaced along the ROC curve, for plotting."""
        if len(self.true) <= points:
            return self
        x, y = self.false / max(self.false[-1], 1e-300), self.true / max(self.true[-1], 1e-300)
        along = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
        kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], points)).clip(max=len(x) - 1))
        kept = np.unique(np.concatenate([[0], kept, [len(x) - 1]]))
        return Curve(self.true[kept], self.false[kept], self.threshold[np.maximum(kept[1:] - 1, 0)])


def exact_curve(scores: NDArray[np.floating], labels: NDArray[np.bool_], weights: NDArray[np.floating] | None = None) -> Curve:
    """Return the exact curve by sorting the scores: one threshold per distinct score.

    Parameters
    ----------
    scores, labels
        (N,) scores without NaN, and (N,) bool, true is positive.
    weights
        (N,) weights of the positives; None: all 1.
    """
    order = np.argsort(-scores, kind="stable")
    ordered, positive = scores[order], labels[order].astype(np.float64)
    last = np.append(ordered[1:] != ordered[:-1], True) if len(ordered) else np.zeros(0, bool)
    weighted = positive if weights is None else positive * weights[order]
    true, false = np.cumsum(weighted)[last], np.cumsum(1 - positive)[last]
    return Curve(np.concatenate([[0.0], true]), np.concatenate([[0.0], false]), ordered[last].astype(np.float32))
