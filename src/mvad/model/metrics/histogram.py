"""Curves of any number of scores in constant memory: counts over the bit pattern of float32.

The bits of a float32, read as an integer with the sign turned round, sort like the numbers. Their top bits are bins that
are fine where numbers are small and coarse where they are large: the same relative width everywhere, whatever the method's
scores look like. Linear bins between the extremes (ADEval, torchmetrics) put nearly all of sigmoid-like scores into one.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

BITS = 22
"""Bins are 2^BITS: sign, eight bits of exponent, thirteen of mantissa. A bin is 0.012 % of its numbers wide at most (numbers below 1e-38, which
float32 has few of, share coarser ones)."""

_SHARED = 4_000_000
"""Scores from which threads share the work."""


@dataclass(frozen=True)
class Curve:
    """Counts at falling thresholds, one for each score that occurs (bins of a histogram, or distinct scores).

    Attributes
    ----------
    true, false
        (T + 1,) float64: positives and negatives at or above each threshold, from none to all; positives may be weighted.
    threshold
        (T,) float32: the lowest number of each step, so ``score >= threshold[k]`` counts ``true[k + 1]``.
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
        """Return at most about so many thresholds, dense where the curve bends: for drawing."""
        if len(self.true) <= points:
            return self
        x, y = self.false / max(self.false[-1], 1e-300), self.true / max(self.true[-1], 1e-300)
        along = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
        kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], points)).clip(max=len(x) - 1))
        kept = np.unique(np.concatenate([[0], kept, [len(x) - 1]]))
        return Curve(self.true[kept], self.false[kept], self.threshold[np.maximum(kept[1:] - 1, 0)])


def exact_curve(scores: NDArray[np.floating], labels: NDArray[np.bool_], weights: NDArray[np.floating] | None = None) -> Curve:
    """Return the curve of scores by sorting them: one step a distinct score.

    Parameters
    ----------
    scores, labels
        (N,), scores without NaN.
    weights
        (N,) weights of the positives; None: 1.
    """
    order = np.argsort(-scores, kind="stable")
    ordered, positive = scores[order], labels[order].astype(np.float64)
    last = np.append(ordered[1:] != ordered[:-1], True) if len(ordered) else np.zeros(0, bool)
    weighted = positive if weights is None else positive * weights[order]
    true, false = np.cumsum(weighted)[last], np.cumsum(1 - positive)[last]
    return Curve(np.concatenate([[0.0], true]), np.concatenate([[0.0], false]), ordered[last].astype(np.float32))


@dataclass
class ScoreHistogram:
    """Counts of negatives, positives, and weights of positives, by score. Histograms of parts add up to that of the whole.

    Reserves 100 MB, of which only what the scores' range needs is ever touched: a few MB, however many scores there are.
    """

    negative: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1 << BITS, np.int64))
    positive: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1 << BITS, np.int64))
    weight: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1 << BITS, np.float64))
    span: NDArray[np.int64] = field(default_factory=lambda: np.array([1 << BITS, -1]))
    """Lowest and highest bin in use."""

    def add(self, scores: NDArray[np.floating], labels: NDArray[np.bool_], threads: int = 0) -> None:
        """Take scores.

        Parameters
        ----------
        scores
            Any shape; counted as float32.
        labels
            The same shape; true is positive.
        threads
            0: the machine's, where there is much to count.

        Raises
        ------
        ValueError
            If a score is not finite, or shapes differ.
        """
        patterns, truth = _flat(scores, labels)
        count = threads or (min(8, os.cpu_count() or 1) if len(patterns) >= _SHARED else 1)
        edges = np.linspace(0, len(patterns), count + 1).astype(int)
        parts = [self, *(ScoreHistogram() for _ in range(count - 1))]

        def work(k: int) -> bool:
            piece = slice(edges[k], edges[k + 1])
            return bool(_count(patterns[piece], truth[piece], parts[k].negative, parts[k].positive, parts[k].span))

        if count == 1:
            sound = work(0)
        else:
            with ThreadPoolExecutor(count) as pool:
                sound = all(list(pool.map(work, range(count))))
        _refuse_unsound(sound)
        for part in parts[1:]:
            self.merge(part)

    def add_image(
        self, scores: NDArray[np.floating], regions: NDArray[np.int32] | None, share: NDArray[np.float64], own: NDArray[np.int64]
    ) -> None:
        """Take an image whose positives lie in regions (``weighted``), and count it by coarse bins besides.

        Parameters
        ----------
        scores
            (H, W); as for ``add``.
        regions
            (H, W) the region of each positive from 1, 0 for negatives; None: there are no positives.
        share
            (R + 1,) the weight of a pixel of each region.
        own
            (2, 2^b) int64: negatives and positives by the top b bits; added to.

        Raises
        ------
        ValueError
            As ``add``.
        """
        shift = BITS - own.shape[1].bit_length() + 1
        if regions is None:
            patterns = np.ascontiguousarray(scores, np.float32).reshape(-1).view(np.uint32)
            _refuse_unsound(_count_normal(patterns, self.negative, self.span, own, shift))
        else:
            patterns, place = _flat(scores, regions, np.int32)
            _refuse_unsound(
                _count_regions(patterns, place, share, self.negative, self.positive, self.weight, self.span, own, shift)
            )

    def merge(self, other: ScoreHistogram) -> None:
        """Add the counts of another histogram."""
        used = other._used
        for mine, theirs in zip(self._tables, other._tables, strict=True):
            mine[used] += theirs[used]
        self.span[:] = min(self.span[0], other.span[0]), max(self.span[1], other.span[1])

    def curve(self) -> Curve:
        """Return counts at falling thresholds."""
        return self.curves()[0]

    def curves(self) -> tuple[Curve, Curve, float]:
        """Return ``curve``; the curve in which positives have the weights of their regions; and the error bound.

        By the bound the area of the first can differ from that of the unbinned scores, whatever they are: scores of one bin
        count as ties, and the true order within it can move the area by half the pairs that meet there. What is seen is a
        thousand times less, as they are mixed.
        """
        used = self._used
        occur = np.flatnonzero(self.negative[used] + self.positive[used])[::-1]
        negative, positive, weight = (table[used][occur].astype(np.float64) for table in self._tables)
        pairs = float(positive.sum() * negative.sum())
        bound = float(positive @ negative) / 2 / pairs if pairs else math.nan
        threshold, false = lowest_of(occur + int(self.span[0])), np.concatenate([[0.0], np.cumsum(negative)])
        plain, weighted = (Curve(np.concatenate([[0.0], np.cumsum(true)]), false, threshold) for true in (positive, weight))
        return plain, weighted, bound

    @property
    def _tables(self) -> tuple[NDArray[Any], ...]:
        return self.negative, self.positive, self.weight

    @property
    def _used(self) -> slice:
        return slice(int(self.span[0]), int(self.span[1]) + 1)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a pickle carries: the bins that hold something."""
        used = self._used
        bins = np.flatnonzero(self.negative[used] + self.positive[used]) + used.start
        return {"span": self.span, "bins": bins.astype(np.int32), "tables": [table[bins] for table in self._tables]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.__init__(span=state["span"])  # type: ignore[misc]  # a new one, empty
        for mine, theirs in zip(self._tables, state["tables"], strict=True):
            mine[state["bins"]] = theirs


def lowest_of(bins: NDArray[np.integer], bits: int = BITS) -> NDArray[np.float32]:
    """Return the lowest float32 of each bin."""
    keys = bins.astype(np.uint32) << np.uint32(32 - bits)
    patterns = np.where(keys >> 31, keys & np.uint32(0x7FFFFFFF), ~keys)
    return np.ascontiguousarray(patterns, np.uint32).view(np.float32)


def _flat(
    scores: NDArray[np.floating], labels: NDArray[Any], dtype: type[Any] = np.bool_
) -> tuple[NDArray[np.uint32], NDArray[Any]]:
    if scores.shape != labels.shape:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} differ in shape")
    flat = np.ascontiguousarray(scores, np.float32).reshape(-1)
    return flat.view(np.uint32), np.ascontiguousarray(labels, dtype).reshape(-1)


def _refuse_unsound(sound: bool) -> None:
    if not sound:
        raise ValueError("a score is not finite; it cannot be ranked")


@njit(nogil=True, cache=True)
def _place(bits):  # type: ignore[no-untyped-def]  # numba compiles it for the numbers it is given
    """Return the bin of a float32's pattern: its top bits, negative ones turned round; -0 counts as 0."""
    return ((~bits & 0xFFFFFFFF) if bits > 0x80000000 else (bits | 0x80000000)) >> (32 - BITS)


@njit(nogil=True, cache=True)
def _close(span, lowest, highest):  # type: ignore[no-untyped-def]  # as above
    """Widen the span of bins in use; tell whether none of them holds infinity, or NaN beyond it."""
    span[0] = min(span[0], np.int64(lowest))
    span[1] = max(span[1], np.int64(highest))
    return lowest > (0x007FFFFF >> (32 - BITS)) and highest < (0xFF800000 >> (32 - BITS))


@njit(nogil=True, cache=True)
def _count(patterns, labels, negative, positive, span):  # type: ignore[no-untyped-def]  # as above
    """Count scores by bin; False if one of them was not finite."""
    lowest, highest = 1 << BITS, 0
    for k in range(len(patterns)):
        place = _place(patterns[k])
        lowest, highest = min(lowest, place), max(highest, place)
        if labels[k]:
            positive[place] += 1
        else:
            negative[place] += 1
    return len(patterns) == 0 or _close(span, lowest, highest)


@njit(nogil=True, cache=True)
def _count_normal(patterns, negative, span, own, shift):  # type: ignore[no-untyped-def]  # as above
    """Count an image without anomalies by bin and by coarse bin."""
    lowest, highest = 1 << BITS, 0
    for k in range(len(patterns)):
        place = _place(patterns[k])
        lowest, highest = min(lowest, place), max(highest, place)
        negative[place] += 1
        own[0, place >> shift] += 1
    return len(patterns) == 0 or _close(span, lowest, highest)


@njit(nogil=True, cache=True)
def _count_regions(patterns, regions, share, negative, positive, weight, span, own, shift):  # type: ignore[no-untyped-def]  # as above
    """Count an image by bin and by coarse bin, and add up the weights of positives."""
    lowest, highest = 1 << BITS, 0
    for k in range(len(patterns)):
        place = _place(patterns[k])
        lowest, highest = min(lowest, place), max(highest, place)
        if regions[k]:
            positive[place] += 1
            weight[place] += share[regions[k]]
            own[1, place >> shift] += 1
        else:
            negative[place] += 1
            own[0, place >> shift] += 1
    return len(patterns) == 0 or _close(span, lowest, highest)
