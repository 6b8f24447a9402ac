"""Any number of float32 scores in constant memory, for ROC and precision-recall curves: exact as far as memory allows.

The bits of a float32, read as an integer and mapped so that negative numbers come first, sort like the numbers (``kernels.py``).
Scores are counted in bins that are as fine as the scores are dense (``bins.py``), whatever their distribution: an offset,
saturation, denormal numbers. Bins between equal steps of the scores, or of their logarithms, put scores of small relative spread
into one. Up to ``CAPACITY`` scores are kept besides, and those in bins of both classes are sorted: the curves are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvad.cores import usable_cores
from mvad.model.metrics.bins import COARSE, FINE, FINER, BinCounts, Bins, in_cells
from mvad.model.metrics.curve import Curve
from mvad.model.metrics.kernels import keys_of
from mvad.model.metrics.steps import Bounds, Steps, bounds_of, exact_steps

CAPACITY = 1 << 24
"""Number of scores that are kept (67 MB)."""

_BLOCK = 1 << 22
"""Number of scores of an array that are kept as one piece; pieces are what threads share among them."""

_MIN_SCORES_FOR_THREADS = 1 << 21
"""Number of scores from which several threads count."""


class Piece(NamedTuple):
    """Keys of all scores (N,) and of the positives among them (P,), uint32, their weights (P,) or None: all 1; and whose they are."""

    owner: str
    keys: NDArray[np.uint32]
    positive: NDArray[np.uint32]
    weight: NDArray[np.float64] | None


class Cells(NamedTuple):
    """Scores by owner, coarsely: the owner's number (K,), the lowest key of a cell (K,), its negatives and positives (K,)."""

    owner: NDArray[np.int32]
    keys: NDArray[np.uint32]
    negative: NDArray[np.int32]
    positive: NDArray[np.int32]


_NO_CELLS = Cells(np.zeros(0, np.int32), np.zeros(0, np.uint32), np.zeros(0, np.int32), np.zeros(0, np.int32))


@dataclass
class ScoreHistogram:
    """Counts of negatives and positives, and weights of positives, by score; histograms of disjoint sets can be merged.

    Attributes
    ----------
    threads
        Number of threads that count; 0: up to 4, if there are many scores.
    """

    threads: int = 0
    _pieces: list[Piece] = field(default_factory=list)
    _kept: int = 0
    _filled: int = 0
    _buffer: NDArray[np.uint32] | None = None
    _counted: BinCounts | None = None
    _cells: list[Cells] = field(default_factory=list)
    _owners: dict[str, int] = field(default_factory=dict)
    _latest: _Found | None = None

    def add(
        self,
        scores: NDArray[np.floating],
        labels: NDArray[np.bool_] | NDArray[np.int32],
        share: NDArray[np.float64] | None = None,
        owner: str = "",
    ) -> None:
        """Count scores.

        Parameters
        ----------
        scores
            Any shape; counted as float32.
        labels
            The same shape; not zero is positive. With ``share``: int32, the region of each positive from 1.
        share
            (R + 1,), the weight of a score of each region; None: positives weigh 1.
        owner
            Whose scores these are, for ``cells``.

        Raises
        ------
        ValueError
            If a score is not finite as float32, or shapes differ.
        """
        if scores.shape != labels.shape:
            raise ValueError(f"scores {scores.shape} and labels {labels.shape} differ in shape")
        with np.errstate(over="ignore"):
            patterns = np.ascontiguousarray(scores, np.float32).reshape(-1).view(np.uint32)
        truth = np.ascontiguousarray(labels).reshape(-1)
        begin = 0
        while begin < len(patterns):
            if self._kept >= CAPACITY:
                self._flush()
            end = min(begin + CAPACITY - self._kept, len(patterns))
            room = self._room(end - begin)
            blocks = [slice(start, min(start + _BLOCK, end)) for start in range(begin, end, _BLOCK)]
            pieces = self._in_threads(
                lambda at, begin=begin, room=room: _piece(
                    patterns[at], truth[at], share, owner, room[at.start - begin : at.stop - begin]
                ),
                blocks, end - begin,
            )  # fmt: skip
            self._keep(pieces)
            self._filled += end - begin
            begin = end

    def _room(self, number: int) -> NDArray[np.uint32]:
        """Return room for keys, the same memory after each flush."""
        if self._buffer is None:
            self._buffer = np.empty(CAPACITY, np.uint32)
        return self._buffer[self._filled : self._filled + number]

    def merge(self, other: ScoreHistogram) -> None:
        """Add the counts of another histogram."""
        if other._counted is not None:
            self._counted = other._counted if self._counted is None else self._counted.plus(other._counted)
        numbers = np.array([self._number(owner) for owner in other._owners], np.int32)
        self._cells += [cells._replace(owner=numbers[cells.owner]) for cells in other._cells]
        self._keep([piece._replace(keys=piece.keys.copy()) for piece in other._pieces])  # theirs are in memory that is used again

    def curve(self) -> Curve:
        """Return the counts at falling thresholds."""
        return self.curves()[0]

    def curves(self) -> tuple[Curve, Curve]:
        """Return the counts at falling thresholds, and the same with positives weighted."""
        return self._found().steps.curves()

    def bounds(self, limits: Sequence[float]) -> Bounds:
        """Return the largest errors of figures that binning can cause; ``limits`` are the false positive rates of AUPRO."""
        found = self._found()
        if found.exact:
            return Bounds(0.0, 0.0, 0.0)
        return bounds_of(found.steps, found.counts.steps, limits)

    def cells(self) -> Cells:
        """Return the scores of each owner by cells that hold about a thousandth of all negatives or positives each."""
        return _together(self._found().cells)

    def _number(self, owner: str) -> int:
        return self._owners.setdefault(owner, len(self._owners))

    def _keep(self, pieces: Sequence[Piece]) -> None:
        self._pieces += pieces
        for piece in pieces:
            self._number(piece.owner)
        self._kept += sum(len(piece.keys) for piece in pieces)
        self._latest = None
        if self._kept > CAPACITY:
            self._flush()

    def _found(self) -> _Found:
        if self._latest is None:
            if self._counted is not None:
                self._flush()
                self._latest = _Found(self._counted, self._counted.steps(), self._cells, exact=False)
            else:
                counts, cells = self._count(*self._bins(FINER, COARSE))
                self._latest = _Found(counts, self._sorted_out(counts), [cells], exact=True)
        return self._latest

    def _sorted_out(self, counts: BinCounts) -> Steps:
        """Return the exact steps: scores in bins of both classes are sorted."""
        steps, loose = counts.steps(), counts.loose
        if not loose.any():
            return steps

        def gather(piece: Piece) -> tuple[NDArray[Any], ...]:
            at = counts.bins.in_bins(piece.positive, loose)
            weight = np.ones(len(at)) if piece.weight is None else piece.weight[at]
            return piece.keys[counts.bins.in_bins(piece.keys, loose)], piece.positive[at], weight

        columns = zip(*self._in_threads(gather, self._pieces, self._kept), strict=True)
        keys, positive, weight = (np.concatenate(column) for column in columns)
        occur = loose[np.flatnonzero(counts.negative + counts.positive)]
        return steps.replaced(occur, exact_steps(keys, positive, weight, counts.bins.lowest[loose]))

    def _flush(self) -> None:
        """Count the scores that are kept in bins, and forget them."""
        if not self._pieces:
            return
        (fine, coarse), before = self._bins(FINE, COARSE), self._counted
        bins = before.bins if before else fine
        counts, cells = self._count(bins, coarse)
        together = before.plus(counts) if before else counts
        finer = bins.finer(fine, together.too_dense(8)).with_spikes(together.too_dense(32))
        if (finer.shift != bins.shift).any():
            counts, cells = self._count(finer, coarse)
            together = before.plus(counts) if before else counts
        self._counted = together
        self._cells.append(cells)
        self._pieces, self._kept, self._filled = [], 0, 0

    def _bins(self, *parts: int) -> list[Bins]:
        """Return bins for the scores that are kept, for each number of parts; the order in which samples came changes nothing."""
        pieces = sorted(self._pieces, key=lambda piece: piece.owner)
        every, positive = in_cells([piece.keys for piece in pieces]), in_cells([piece.positive for piece in pieces])
        return [Bins.following(every, positive, min(most, max(4 * self._kept, 1))) for most in parts]

    def _count(self, bins: Bins, coarse: Bins) -> tuple[BinCounts, Cells]:
        """Return the counts of the kept scores in bins, and the owners' cells, which are coarse bins."""
        nothing = np.zeros(coarse.number, np.uint32)

        def work(part: _Work) -> list[Cells]:
            found = []
            for piece in part.pieces:
                if not piece.owner:
                    bins.count(piece.keys, part.counts, part.only)
                    continue
                part.rows[:] = 0
                bins.count(piece.keys, part.counts, part.only, coarse, part.rows[0])
                coarse.count(piece.positive, part.rows[1], nothing)
                part.rows[0] -= part.rows[1]
                used = np.flatnonzero(part.rows[0] + part.rows[1])
                owner = np.full(len(used), self._owners[piece.owner], np.int32)
                found.append(Cells(owner, coarse.lowest[used].astype(np.uint32), *part.rows[:, used]))
            return found

        sizes = np.cumsum([0, *(len(piece.keys) for piece in self._pieces)])
        cuts = np.searchsorted(sizes, np.linspace(0, sizes[-1], self._workers(self._kept) + 1)[1:-1])
        parts = [
            _Work.of(self._pieces[a:b], bins, coarse) for a, b in zip([0, *cuts], [*cuts, len(self._pieces)], strict=True)
        ]  # fmt: skip
        cells = self._in_threads(work, parts, self._kept)
        counts = BinCounts.none(bins)
        for part in parts:
            counts.add(part.counts, part.only)
        for piece in self._pieces:
            counts.mark_positives(piece.positive, piece.weight)
        return counts, _together([each for found in cells for each in found])

    def _workers(self, scores: int) -> int:
        return self.threads or (min(4, usable_cores()) if scores >= _MIN_SCORES_FOR_THREADS else 1)

    def _in_threads(self, work: Any, parts: Sequence[Any], scores: int) -> list[Any]:
        workers = self._workers(scores)
        if workers == 1 or len(parts) < 2:
            return [work(part) for part in parts]
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(work, parts))

    def __getstate__(self) -> dict[str, Any]:
        """Return the content of a pickle: without what can be computed again."""
        return self.__dict__ | {"_latest": None, "_buffer": None, "_filled": 0}


class _Work(NamedTuple):
    """Pieces that a thread counts, and its arrays: what threads allocate is kept apart by the allocator, and memory would grow."""

    pieces: Sequence[Piece]
    counts: NDArray[np.int32]
    only: NDArray[np.uint32]
    rows: NDArray[np.int32]

    @classmethod
    def of(cls, pieces: Sequence[Piece], bins: Bins, coarse: Bins) -> _Work:
        rows = np.zeros((2, coarse.number), np.int32)
        return cls(pieces, np.zeros(bins.number, np.int32), np.zeros(bins.number, np.uint32), rows)


class _Found(NamedTuple):
    """What follows from all scores so far."""

    counts: BinCounts
    steps: Steps
    cells: list[Cells]
    exact: bool


def _together(cells: Sequence[Cells]) -> Cells:
    return Cells(*(np.concatenate(column) for column in zip(*cells, strict=True))) if cells else _NO_CELLS


def _piece(
    patterns: NDArray[np.uint32], truth: NDArray[Any], share: NDArray[np.float64] | None, owner: str, keys: NDArray[np.uint32]
) -> Piece:
    """Return the piece of some scores, whose keys are written to ``keys``."""
    if not keys_of(patterns, keys):
        raise ValueError("a score is not finite; it cannot be ranked")
    at = np.flatnonzero(truth)
    return Piece(owner, keys, keys[at], None if share is None else share[truth[at]])
