"""Bins of scores that are as fine as the scores are dense: how they are chosen, and counts in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvad.model.metrics.kernels import CELL_BITS, SEVERAL, chosen, count, count_twice, mark
from mvad.model.metrics.steps import Steps

FINE = 1 << 16
"""A fine bin holds about one in so many of the negatives, of the highest negatives, and of the positives."""

FINER = 1 << 18
"""The same where the scores in bins of both classes are sorted afterwards: the fewer, the faster."""

COARSE = 1 << 10
"""A coarse bin holds one in so many."""

_SPIKES = 8
"""Number of cells that may be divided into all their numbers, because their scores lie in a small part of them."""

_TAIL = 0.02
"""Share of the negatives that count as the highest: AUPRO at low false positive rates depends on them alone."""

_CELLS = 1 << (32 - CELL_BITS)

_SAMPLE = 1 << 19
"""Number of scores by which bins are chosen."""

Keys = NDArray[np.uint32]


def in_cells(pieces: Sequence[Keys]) -> NDArray[np.float64]:
    """Return about how many keys lie in each cell (2^15,), from every so many-th, an odd number: not by the columns of pictures."""
    total = sum(map(len, pieces))
    step = max(1, -(-total // _SAMPLE)) | 1
    some = np.concatenate([np.zeros(0, np.uint32), *(keys[::step] for keys in pieces)])
    return np.asarray(np.bincount(some >> np.uint32(CELL_BITS), minlength=_CELLS) * (total / max(len(some), 1)), np.float64)


@dataclass(frozen=True)
class Bins:
    """Cells of 2^CELL_BITS keys, each divided into 2^k bins of equal width.

    Attributes
    ----------
    shift
        (2^15,) uint8, a bin of the cell has 2^shift keys; 0: each bin is a single number.
    """

    shift: NDArray[np.uint8]

    @classmethod
    def following(cls, every: NDArray[np.float64], positive: NDArray[np.float64], parts: int) -> Bins:
        """Return bins that hold about one in ``parts`` of the negatives, of the highest negatives, or of the positives each.

        ``every`` and ``positive`` (2^15,) say how many scores, and positives, lie in each cell.
        """
        negative = np.maximum(every - positive, 0)
        negative, positive = (counts / max(counts.sum(), 1) for counts in (negative, positive))
        above = 1 - np.cumsum(negative)
        share = np.maximum(positive, np.where(above < _TAIL, negative / _TAIL, negative))
        bits = np.ceil(np.log2(np.maximum(parts * np.minimum(share, 1), 1)))
        return cls((CELL_BITS - np.minimum(bits, CELL_BITS)).astype(np.uint8))

    def finer(self, other: Bins, where: NDArray[np.bool_] | None = None) -> Bins:
        """Return bins whose cells are divided as in the one that divides them more; only cells ``where`` (2^15,) is true."""
        shift = np.minimum(self.shift, other.shift)
        return Bins(shift if where is None else np.where(where, shift, self.shift))

    def with_spikes(self, dense: NDArray[np.bool_]) -> Bins:
        """Return bins that are single numbers in some cells (2^15,), if these are few."""
        return Bins(np.where(dense, 0, self.shift).astype(np.uint8)) if dense.sum() <= _SPIKES else self

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """(2^15,), the first bin of each cell."""
        return np.concatenate([[0], np.cumsum(self._per_cell)[:-1]])

    @cached_property
    def _per_cell(self) -> NDArray[np.int64]:
        return np.left_shift(1, CELL_BITS - self.shift.astype(np.int64))

    @property
    def number(self) -> int:
        """Number of bins."""
        return int(self._per_cell.sum())

    @cached_property
    def cell(self) -> NDArray[np.int64]:
        """(B,), the cell of each bin."""
        return np.repeat(np.arange(_CELLS), self._per_cell)

    @cached_property
    def lowest(self) -> NDArray[np.int64]:
        """(B,), the lowest key of each bin."""
        within = np.arange(self.number) - self.first[self.cell]
        return np.asarray((self.cell << CELL_BITS) + (within << self.shift[self.cell].astype(np.int64)))

    def at(self, keys: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the bin of each key."""
        wide = keys.astype(np.int64)
        cell = wide >> CELL_BITS
        return np.asarray(self.first[cell] + ((wide & ((1 << CELL_BITS) - 1)) >> self.shift[cell].astype(np.int64)))

    def count(
        self, keys: Keys, counts: NDArray[np.int32], only: Keys, coarse: Bins | None = None, coarse_counts: NDArray[np.int32] | None = None
    ) -> None:  # fmt: skip
        """Count keys in ``counts`` (B,), and in the coarse bins' ``coarse_counts`` if given; for ``only`` see ``BinCounts``."""
        if coarse is None or coarse_counts is None:
            count(keys, self.first, self.shift, counts, only)
        else:
            count_twice(keys, self.first, self.shift, counts, only, coarse.first, coarse.shift, coarse_counts)

    def in_bins(self, keys: Keys, wanted: NDArray[np.bool_]) -> NDArray[np.int32]:
        """Return the places of the keys whose bin is wanted (B,)."""
        places = np.empty(len(keys) + 1, np.int32)
        return places[: chosen(keys, self.first, self.shift, wanted, places)]


class Blurred(NamedTuple):
    """Scores of which it is only known that they lie from ``low`` up to below ``high``, and their weights; each (K,)."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    negative: NDArray[np.float64]
    positive: NDArray[np.float64]
    weight: NDArray[np.float64]

    def plus(self, other: Blurred) -> Blurred:
        """Return these and others."""
        return Blurred(*(np.concatenate(columns) for columns in zip(self, other, strict=True)))


_NOTHING = Blurred(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0), np.zeros(0))


@dataclass
class BinCounts:
    """Counts in bins.

    Attributes
    ----------
    bins
        The bins.
    negative, positive, weight
        (B,) int64 and int64, scores in each bin, and float64, the sum of the weights of its positives.
    only
        (B,) uint32, the key of all scores of a bin; ``kernels.SEVERAL`` where they differ, 0 where there are none.
    blurred
        Scores that were counted in bins that have been divided since.
    """

    bins: Bins
    negative: NDArray[np.int64]
    positive: NDArray[np.int64]
    weight: NDArray[np.float64]
    only: Keys
    blurred: Blurred = _NOTHING

    @classmethod
    def none(cls, bins: Bins) -> BinCounts:
        """Return counts of nothing."""
        size = bins.number
        return cls(bins, np.zeros(size, np.int64), np.zeros(size, np.int64), np.zeros(size), np.zeros(size, np.uint32))

    def add(self, negative: NDArray[np.int32], only: Keys) -> None:
        """Add counts (B,) of negatives, and the bins' only keys."""
        self.negative += negative
        self.only = _only_of_both(self.only, only)

    def mark_positives(self, keys: Keys, weights: NDArray[np.float64] | None) -> None:
        """Turn negatives with these keys into positives with some weights, all 1 if there are none."""
        given = np.ones(len(keys)) if weights is None else weights
        mark(keys, given, self.bins.first, self.bins.shift, self.negative, self.positive, self.weight)

    @property
    def loose(self) -> NDArray[np.bool_]:
        """(B,), whether a bin of several numbers has positives and other scores, so that the order of its scores matters."""
        return np.asarray((self.positive > 0) & (self.only == SEVERAL))

    def in_bins(self, bins: Bins) -> BinCounts:
        """Return the counts in bins that divide these; what a divided bin held is blurred."""
        if (bins.shift == self.bins.shift).all():
            return self
        found = BinCounts.none(bins)
        held = np.flatnonzero(self.negative + self.positive)
        divided = bins.shift[self.bins.cell[held]] < self.bins.shift[self.bins.cell[held]]
        divided &= self.only[held] == SEVERAL
        same, cut = held[~divided], held[divided]
        to = bins.at(np.where(self.only[same] == SEVERAL, self.bins.lowest[same], self.only[same]))
        found.only[to] = self.only[same]
        low, width = self.bins.lowest[cut], np.left_shift(1, self.bins.shift[self.bins.cell[cut]].astype(np.int64))
        columns = []
        for mine, theirs in ((self.negative, found.negative), (self.positive, found.positive), (self.weight, found.weight)):
            theirs[to] = mine[same]
            columns.append(mine[cut].astype(np.float64))
        found.blurred = self.blurred.plus(Blurred(low, low + width, *columns))
        return found

    def plus(self, other: BinCounts) -> BinCounts:
        """Return the sum of counts, in bins that are as fine as the finer ones of both."""
        bins = self.bins.finer(other.bins)
        one, two = self.in_bins(bins), other.in_bins(bins)
        return BinCounts(
            bins, one.negative + two.negative, one.positive + two.positive, one.weight + two.weight,
            _only_of_both(one.only, two.only), one.blurred.plus(two.blurred),
        )  # fmt: skip

    def too_dense(self, times: int) -> NDArray[np.bool_]:
        """(2^15,), whether a cell has a bin with so many times more of a class, or of the highest negatives, than bins should hold."""
        negative, positive = (counts / max(counts.sum(), 1) for counts in (self.negative, self.positive))
        above = 1 - np.cumsum(negative)  # false positive rate at the upper end
        dense = (positive > times / FINE) | (negative > times / FINE * np.clip(above, _TAIL / 2, 1))
        return np.bincount(self.bins.cell[dense], minlength=_CELLS) > 0

    def steps(self, negative: float = 0.5, positive: float = 0.5) -> Steps:
        """Return the steps of the curves, with blurred scores at a share of the way from their lowest to their highest key."""
        tables = [table.astype(np.float64) for table in (self.negative, self.positive, self.weight)]
        low, span = self.blurred.low, self.blurred.high - 1 - self.blurred.low
        only = self.only.copy()
        for share, columns in ((negative, (0,)), (positive, (1, 2))):
            at = self.bins.at(low + np.floor(share * span).astype(np.int64)) if len(low) else low
            for column in columns:
                np.add.at(tables[column], at, self.blurred[2 + column])
            only[at] = SEVERAL
        occur = np.flatnonzero(tables[0] + tables[1])
        single = only[occur] != SEVERAL
        negatives, positives, weights = (table[occur] for table in tables)
        return Steps(np.where(single, only[occur], self.bins.lowest[occur]), negatives, positives, weights, single)


def _only_of_both(one: Keys, two: Keys) -> Keys:
    """Return the only keys of bins that hold the scores of both."""
    return np.where(one == 0, two, np.where((two == 0) | (two == one), one, np.uint32(SEVERAL)))
