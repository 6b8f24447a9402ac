"""ROC and precision-recall curves of any number of scores in constant memory: a histogram over the bits of float32.

The bits of a float32, read as an integer and mapped so that negative numbers come first, sort like the numbers. Their top
bits are the bins, which have the same relative width everywhere, whatever the distribution of the scores. Linear bins between
the extremes (ADEval, torchmetrics) put nearly all sigmoid-like scores into one.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mvad.cores import usable_cores

BITS = 22
"""There are 2^BITS bins: sign, eight bits of exponent, thirteen of mantissa. The width of a bin is at most 0.012 % of its
numbers (numbers below 1e-38, of which float32 has few, are in wider bins)."""

_MIN_SCORES_FOR_THREADS = 4_000_000
"""Number of scores from which several threads count."""


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


@dataclass
class ScoreHistogram:
    """Counts of negatives and positives, and weights of positives, by score; histograms of disjoint sets can be merged.

    It reserves 100 MB of virtual memory, of which only the range of the scores is used: a few MB for any number of scores.
    """

    negative: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1 << BITS, np.int64))
    positive: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1 << BITS, np.int64))
    weight: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1 << BITS, np.float64))
    span: NDArray[np.int64] = field(default_factory=lambda: np.array([1 << BITS, -1]))
    """(2,) lowest and highest bin in use."""

    def add(self, scores: NDArray[np.floating], labels: NDArray[np.bool_], threads: int = 0) -> None:
        """Count scores.

        Parameters
        ----------
        scores
            Any shape; counted as float32.
        labels
            The same shape; true is positive.
        threads
            Number of threads; 0: up to 8, if there are many scores.

        Raises
        ------
        ValueError
            If a score is not finite, or shapes differ.
        """
        patterns, truth = _flat(scores, labels)
        count = threads or (min(8, usable_cores()) if len(patterns) >= _MIN_SCORES_FOR_THREADS else 1)
        edges = np.linspace(0, len(patterns), count + 1).astype(int)
        parts = [self, *(ScoreHistogram() for _ in range(count - 1))]

        def work(k: int) -> bool:
            piece = slice(edges[k], edges[k + 1])
            return bool(_count(patterns[piece], truth[piece], parts[k].negative, parts[k].positive, parts[k].span))

        if count == 1:
            finite = work(0)
        else:
            with ThreadPoolExecutor(count) as pool:
                finite = all(list(pool.map(work, range(count))))
        _require_finite(finite)
        for part in parts[1:]:
            self.merge(part)

    def add_image(
        self,
        scores: NDArray[np.floating],
        regions: NDArray[np.int32] | None,
        share: NDArray[np.float64],
        coarse: NDArray[np.int64],
    ) -> None:
        """Count an image whose positives have the weights of their regions, also by coarse bins.

        Parameters
        ----------
        scores
            (H, W), counted as float32.
        regions
            (H, W), the region of each positive from 1, 0 for negatives; None: there are no positives.
        share
            (R + 1,), the weight of a pixel of each region.
        coarse
            (2, 2^b) int64, negatives and positives by the top b bits; the image's counts are added.

        Raises
        ------
        ValueError
            As ``add``.
        """
        shift = BITS - coarse.shape[1].bit_length() + 1
        if regions is None:
            patterns = np.ascontiguousarray(scores, np.float32).reshape(-1).view(np.uint32)
            _require_finite(_count_normal(patterns, self.negative, self.span, coarse, shift))
        else:
            patterns, region_of = _flat(scores, regions, np.int32)
            _require_finite(
                _count_regions(patterns, region_of, share, self.negative, self.positive, self.weight, self.span, coarse, shift)
            )

    def merge(self, other: ScoreHistogram) -> None:
        """Add the counts of another histogram."""
        used = other._used
        for table, other_table in zip(self._tables, other._tables, strict=True):
            table[used] += other_table[used]
        self.span[:] = min(self.span[0], other.span[0]), max(self.span[1], other.span[1])

    def curve(self) -> Curve:
        """Return the counts at falling thresholds."""
        return self.curves()[0]

    def curves(self) -> tuple[Curve, Curve, float]:
        """Return ``curve``, the curve in which positives have the weights of their regions, and an error bound.

        The bound is the greatest difference between the ROC area of the first curve and that of the unbinned scores: scores in
        one bin count as ties, and their true order can change the area by half of the pairs in the bin. Measured differences
        are a thousand times smaller, because the order within a bin is mixed.
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
        """Return the content of a pickle: the bins that are not empty."""
        used = self._used
        bins = np.flatnonzero(self.negative[used] + self.positive[used]) + used.start
        return {"span": self.span, "bins": bins.astype(np.int32), "tables": [table[bins] for table in self._tables]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the histogram from a pickle."""
        self.__init__(span=state["span"])  # type: ignore[misc]  # starts empty
        for table, counts in zip(self._tables, state["tables"], strict=True):
            table[state["bins"]] = counts


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


def _require_finite(finite: bool) -> None:
    if not finite:
        raise ValueError("a score is not finite; it cannot be ranked")


@njit(nogil=True, cache=True)
def _bin_of(bits):  # type: ignore[no-untyped-def]  # numba infers the types
    """Return the bin of a float32's bit pattern: its top bits, inverted for negative numbers; -0 counts as 0."""
    return ((~bits & 0xFFFFFFFF) if bits > 0x80000000 else (bits | 0x80000000)) >> (32 - BITS)


@njit(nogil=True, cache=True)
def _widen(span, lowest, highest):  # type: ignore[no-untyped-def]
    """Widen the span of bins in use; return whether all scores are finite: the outermost bins are those of infinity and NaN."""
    span[0] = min(span[0], np.int64(lowest))
    span[1] = max(span[1], np.int64(highest))
    return lowest > (0x007FFFFF >> (32 - BITS)) and highest < (0xFF800000 >> (32 - BITS))


@njit(nogil=True, cache=True)
def _count(patterns, labels, negative, positive, span):  # type: ignore[no-untyped-def]
    """Count scores by bin; return False if one of them is not finite."""
    lowest, highest = 1 << BITS, 0
    for k in range(len(patterns)):
        bin_ = _bin_of(patterns[k])
        lowest, highest = min(lowest, bin_), max(highest, bin_)
        if labels[k]:
            positive[bin_] += 1
        else:
            negative[bin_] += 1
    return len(patterns) == 0 or _widen(span, lowest, highest)


@njit(nogil=True, cache=True)
def _count_normal(patterns, negative, span, coarse, shift):  # type: ignore[no-untyped-def]
    """Count an image without anomalies by bin and by coarse bin; return False if a score is not finite."""
    lowest, highest = 1 << BITS, 0
    for k in range(len(patterns)):
        bin_ = _bin_of(patterns[k])
        lowest, highest = min(lowest, bin_), max(highest, bin_)
        negative[bin_] += 1
        coarse[0, bin_ >> shift] += 1
    return len(patterns) == 0 or _widen(span, lowest, highest)


@njit(nogil=True, cache=True)
def _count_regions(patterns, regions, share, negative, positive, weight, span, coarse, shift):  # type: ignore[no-untyped-def]
    """Count an image by bin and by coarse bin, and sum the weights of positives; return False if a score is not finite."""
    lowest, highest = 1 << BITS, 0
    for k in range(len(patterns)):
        bin_ = _bin_of(patterns[k])
        lowest, highest = min(lowest, bin_), max(highest, bin_)
        if regions[k]:
            positive[bin_] += 1
            weight[bin_] += share[regions[k]]
            coarse[1, bin_ >> shift] += 1
        else:
            negative[bin_] += 1
            coarse[0, bin_ >> shift] += 1
    return len(patterns) == 0 or _widen(span, lowest, highest)
