"""Training batches by step, read ahead by a thread or by worker processes, with identical results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mvad.datasets.shards.ahead import made_ahead
from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.datasets.shards.order import batch_indices, generator, rank_positions
from mvad.errors import BadInput, MvadError

Augment = Callable[[Batch, Sequence[np.random.Generator]], Batch]
"""Augments a batch, given the random generator of each of its samples. Must be picklable for spawned workers."""

Item = TypeVar("Item")

_SIGNAL_S = 0.5
"""Seconds to wait for torch's signal handler after a worker's connection broke."""

_AHEAD = 2
"""Number of batches that each worker reads ahead."""


@dataclass(frozen=True)
class Batches:
    """The batches of a training: step k depends on (seed, k) only, not on workers, ranks, or earlier reads.

    Attributes
    ----------
    data
        The samples.
    seed, batch
        Seed of the order, and number of samples per batch over all ranks.
    augment
        Augmentation, applied to every batch in the thread or process that reads it.
    rank, ranks
        Rank of this process, and number of processes that train together; each gets its part of every batch.
    """

    data: ShardSet
    seed: int
    batch: int
    augment: Augment | None = None
    rank: int = 0
    ranks: int = 1

    def at(self, step: int) -> Batch:
        """Return this rank's part of a step's batch."""
        positions = rank_positions(self.batch, self.rank, self.ranks)
        indices = batch_indices(self.seed, step, len(self.data), self.batch)
        batch = self.data.batch(indices[positions.start : positions.stop])
        if self.augment is not None:
            batch = self.augment(batch, [generator(self.seed, step, position) for position in positions])
        return batch

    def steps(
        self, first: int, last: int, workers: int = 0, pin: bool = False, start_method: str | None = None
    ) -> Iterator[Batch]:
        """Yield the batches of steps ``first`` to ``last - 1``, reading ahead.

        Parameters
        ----------
        first, last
            The range of steps; a run that resumes at any step gets the batches of an uninterrupted one.
        workers
            Number of reading processes. 0 reads on threads of this process, which is faster as long as augmentation is light:
            decoding releases the GIL, and nothing is copied between processes.
        pin
            Whether batches are in page-locked memory, for copies to a GPU that run in parallel with the computation.
        start_method
            fork, spawn or forkserver; None uses Python's default.

        Raises
        ------
        BadInput
            If a shard is damaged, or a reading process died.
        """
        if workers and self.data.device.type == "cpu":
            loader = DataLoader(
                _Steps(self, first, last), batch_size=None, num_workers=workers, pin_memory=pin, prefetch_factor=_AHEAD,
                multiprocessing_context=start_method,
            )  # fmt: skip
            for batch in _reporting_death(loader, self.data):
                if isinstance(batch, MvadError):
                    raise batch
                yield batch
        else:
            yield from self._ahead(first, last, pin)

    def _ahead(self, first: int, last: int, pin: bool) -> Iterator[Batch]:
        if self.data.device.type != "cpu":  # nothing to read: a step's samples are copied on the device
            return map(self.at, range(first, last))
        return read_ahead([partial(self._at, step, pin) for step in range(first, last)], "mvad-ahead")

    def _at(self, step: int, pin: bool) -> Batch:
        batch = self.at(step)
        return batch.pin_memory() if pin and torch.cuda.is_available() else batch


def read_ahead(calls: Sequence[Callable[[], Item]], name: str) -> Iterator[Item]:
    """Yield the results of calls in order, which a thread makes two calls ahead; what a call raises is raised in its turn."""
    with ThreadPoolExecutor(1, name) as pool:
        yield from made_ahead(pool, calls, _AHEAD)


class _Steps(Dataset[Batch | MvadError]):
    """Steps as items of a torch Dataset: an item is a whole batch, or the error that reading it raised."""

    def __init__(self, batches: Batches, first: int, last: int) -> None:
        self.batches, self.first, self.last = batches, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> Batch | MvadError:
        self.batches.data.threads = 1  # the workers run in parallel instead
        try:
            return self.batches.at(self.first + index)
        except MvadError as error:
            return error


def _reporting_death(loader: DataLoader[Batch | MvadError], data: ShardSet) -> Iterator[Batch | MvadError]:
    """Yield what workers read; the death of a worker (out of memory, say) becomes a ``BadInput``.

    Torch reports it twice: the connection breaks, and a signal handler raises wherever the main thread is. The second report
    is waited for, so that it is not raised in the caller's code.
    """
    try:
        try:
            yield from loader
        except (ConnectionError, EOFError) as error:
            time.sleep(_SIGNAL_S)
            raise RuntimeError(f"DataLoader worker: {error or type(error).__name__}") from error
    except RuntimeError as error:
        if str(error).startswith("Caught") or "DataLoader worker" not in str(error):
            raise
        reason = " ".join(str(error).split())[:160]
        raise BadInput(
            f"{data.folder}: a process that reads shards died ({reason}); use fewer workers (0 reads on threads), or more memory"
        ) from error
