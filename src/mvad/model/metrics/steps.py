"""Counts by rising score, and the curves that follow from them, with what the unknown order within a step can change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvad.model.metrics.curve import Curve
from mvad.model.metrics.kernels import floats_of


class Bounds(NamedTuple):
    """The largest errors of figures that the unknown order of scores within bins can cause; 0 where they are exact."""

    auroc: float
    ap: float
    aupro: float


@dataclass(frozen=True)
class Steps:
    """Counts by rising score.

    Attributes
    ----------
    keys
        (K,) int64, the lowest key of each step.
    negative, positive, weight
        (K,) float64, scores, and the sum of the weights of positives.
    single
        (K,) bool, whether a step is a single number, so that its scores are equal.
    """

    keys: NDArray[np.int64]
    negative: NDArray[np.float64]
    positive: NDArray[np.float64]
    weight: NDArray[np.float64]
    single: NDArray[np.bool_]

    def replaced(self, where: NDArray[np.bool_], by: Steps) -> Steps:
        """Return these steps with some (K,) replaced by finer ones."""
        tables = [np.concatenate([mine[~where], theirs]) for mine, theirs in zip(self._columns, by._columns, strict=True)]
        order = np.argsort(tables[0])
        return Steps(*(table[order] for table in tables))

    @property
    def _columns(self) -> tuple[NDArray[Any], ...]:
        return self.keys, self.negative, self.positive, self.weight, self.single

    def curves(self, positives_first: bool | None = None) -> tuple[Curve, Curve]:
        """Return the counts at falling thresholds, and the same with the weights of positives.

        Within steps of several numbers positives are counted first, last, or (None) as ties.
        """
        threshold = floats_of(self.keys[::-1])
        negative, positive, weight = (table[::-1] for table in (self.negative, self.positive, self.weight))
        if positives_first is not None:
            tie = self.single[::-1]
            negative = _in_two_steps(negative, tie, last=positives_first)
            positive, weight = (_in_two_steps(table, tie, last=not positives_first) for table in (positive, weight))
            kept = negative + positive > 0
            negative, positive, weight = negative[kept], positive[kept], weight[kept]
            threshold = np.repeat(threshold, 2)[kept]
        false = np.concatenate([[0.0], np.cumsum(negative)])
        plain, weighted = (Curve(np.concatenate([[0.0], np.cumsum(true)]), false, threshold) for true in (positive, weight))
        return plain, weighted


def exact_steps(
    every: NDArray[np.uint32], positive: NDArray[np.uint32], weight: NDArray[np.float64], starts: NDArray[np.int64]
) -> Steps:
    """Return the steps of the scores of some bins, each distinct positive being one; negatives between two are one step.

    Parameters
    ----------
    every, positive
        (N,) keys of all scores, and (P,) of the positives among them, in any order.
    weight
        (P,) of the positives.
    starts
        (B,) sorted, the lowest key of each bin: a step does not reach over its bin's end.
    """
    ordered, order = np.sort(every), np.argsort(positive)
    rising = positive[order].astype(np.int64)
    begins = np.flatnonzero(np.diff(rising, prepend=-1))
    values, ends = rising[begins], np.append(begins[1:], len(rising))
    sums = np.concatenate([[0.0], np.cumsum(weight[order])])
    edges = np.sort(np.concatenate([values, values + 1, starts]))
    edges = edges[np.diff(edges, prepend=-1) > 0]
    held = np.diff(np.append(np.searchsorted(ordered, edges.astype(np.uint32)), len(ordered))).astype(np.float64)
    found, weights = np.zeros((2, len(edges)))
    at = np.searchsorted(edges, values)
    found[at], weights[at] = ends - begins, sums[ends] - sums[begins]
    held -= found
    kept = held + found > 0
    return Steps(edges[kept], held[kept], found[kept], weights[kept], (found > 0)[kept])


def bounds_of(steps: Steps, placed: Callable[[float, float], Steps], limits: Sequence[float]) -> Bounds:
    """Return the largest errors of ROC area, average precision and AUPRO up to any of some false positive rates.

    Within a step of several numbers all positives may score above all negatives, or below; the bound is the larger change.
    ``placed(negative, positive)`` returns the steps with scores of unknown place at a share of the way up.
    """
    plain, weighted = steps.curves()
    if not plain.defined:
        return Bounds(0.0, 0.0, 0.0)
    errors = []
    for first in (True, False):
        one, other = placed(1.0 - first, float(first)).curves(first)
        errors.append((
            abs(one.area() - plain.area()), abs(one.average_precision() - plain.average_precision()),
            max(abs(other.area(limit) - weighted.area(limit)) for limit in limits),
        ))  # fmt: skip
    area, precision, overlap = (max(pair) for pair in zip(*errors, strict=True))
    return Bounds(area, precision + _ap_of_ties(steps, plain), overlap)


def _ap_of_ties(steps: Steps, curve: Curve) -> float:
    """Return what average precision may lose if the positives of steps of several numbers are no ties, but one by one."""
    several = ~steps.single[::-1] & (steps.positive[::-1] > 1)
    before, found, false = curve.true[:-1][several], np.diff(curve.true)[several], curve.false[:-1][several]
    gained = (before + found) / (before + found + false) - (before + 1) / (before + 1 + false)
    return float((found * gained).sum() / curve.true[-1])


def _in_two_steps(values: NDArray[np.float64], tie: NDArray[np.bool_], *, last: bool) -> NDArray[np.float64]:
    """Return (2 K,): the values in the first or second half of each step; those of ties in the first."""
    second = ~tie & last
    return np.stack([np.where(second, 0, values), np.where(second, values, 0)], axis=1).reshape(-1)
