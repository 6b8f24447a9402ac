"""Batches of a training, step by step: read ahead by threads here or by worker processes, and the same either way."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.datasets.shards.order import batch_indices, generator, rank_places
from mvad.errors import BadInput, MvadError

Augment = Callable[[Batch, Sequence[np.random.Generator]], Batch]
"""Changes a batch, given the random numbers of each of its samples. Must be picklable for spawned workers."""

_SIGNAL_S = 0.5
"""Long enough for the signal of a child's end to arrive after its connection broke."""

_AHEAD = 2
"""Batches that are read before they are asked for, by each worker."""


@dataclass(frozen=True)
class Batches:
    """The batches of a training: step k is a function of (seed, k), not of workers, ranks, or what was read before.

    Attributes
    ----------
    data
        The samples.
    seed, batch
        Decide the order; ``batch`` counts samples over all ranks.
    augment
        Applied to every batch where it is read.
    rank, ranks
        This process among those that train together; each gets its part of every batch.
    """

    data: ShardSet
    seed: int
    batch: int
    augment: Augment | None = None
    rank: int = 0
    ranks: int = 1

    def at(self, step: int) -> Batch:
        """Return this rank's part of a step's batch."""
        places = rank_places(self.batch, self.rank, self.ranks)
        indices = batch_indices(self.seed, step, len(self.data), self.batch)
        made = self.data.batch(indices[places.start : places.stop])
        if self.augment is not None:
            made = self.augment(made, [generator(self.seed, step, place) for place in places])
        return made

    def steps(
        self, first: int, last: int, workers: int = 0, pin: bool = False, start_method: str | None = None
    ) -> Iterator[Batch]:
        """Yield the batches of steps ``first`` to ``last - 1``, reading ahead.

        Parameters
        ----------
        first, last
            The range of steps; resuming at any step gives what an uninterrupted run would.
        workers
            Processes that read. 0 reads on threads of this one, which is faster as long as augmentation is light: decoding
            needs no interpreter, and nothing is copied between processes.
        pin
            Whether batches lie in page-locked memory, for copies to a GPU that run beside the computation.
        start_method
            fork, spawn or forkserver; None takes Python's default.
        """
        if workers:
            loader = DataLoader(
                _Steps(self, first, last), batch_size=None, num_workers=workers, pin_memory=pin, prefetch_factor=_AHEAD,
                multiprocessing_context=start_method,
            )  # fmt: skip
            for batch in _living(loader, self.data):
                if isinstance(batch, MvadError):
                    raise batch
                yield batch
        else:
            yield from self._ahead(first, last, pin)

    def _ahead(self, first: int, last: int, pin: bool) -> Iterator[Batch]:
        with ThreadPoolExecutor(1, "mvad-ahead") as pool:
            waiting: deque[Future[Batch]] = deque()
            try:
                for step in range(first, last):
                    waiting.append(pool.submit(self.at, step))
                    if len(waiting) > _AHEAD:
                        yield _pinned(waiting.popleft().result(), pin)
                while waiting:
                    yield _pinned(waiting.popleft().result(), pin)
            finally:
                for future in waiting:
                    future.cancel()


class _Steps(Dataset[Batch | MvadError]):
    """Steps as items of a torch Dataset: a worker makes whole batches, and hands its errors over as they are."""

    def __init__(self, batches: Batches, first: int, last: int) -> None:
        self.batches, self.first, self.last = batches, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> Batch | MvadError:
        self.batches.data.threads = 1  # workers are the threads
        try:
            return self.batches.at(self.first + index)
        except MvadError as error:
            return error


def _living(loader: DataLoader[Batch | MvadError], data: ShardSet) -> Iterator[Batch | MvadError]:
    """Yield what workers read; one that died (out of memory, say) is told in one line, however torch noticed it.

    Torch notices twice: the connection breaks, and a signal handler raises wherever the main thread is. The second is
    waited for, so that it does not strike the caller.
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
            f"{data.folder}: a process that reads shards died ({reason}); take fewer workers (0 reads on threads), or more memory"
        ) from error


def _pinned(batch: Batch, pin: bool) -> Batch:
    return batch.pin_memory() if pin and torch.cuda.is_available() else batch
