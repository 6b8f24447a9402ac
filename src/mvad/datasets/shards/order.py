"""Samples of a step and random numbers of their augmentation: pure functions of (seed, step), independent of workers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def batch_indices(seed: int, step: int, samples: int, batch: int) -> NDArray[np.int64]:
    """Return the sample numbers (batch,) int64 of a step; the epochs' permutations follow one another.

    A batch at the end of an epoch is completed from the next epoch, so every batch is full and every sample is used
    equally often.
    """
    first = step * batch
    positions = np.arange(first, first + batch)
    epochs = positions // samples
    orders = {epoch: np.random.default_rng([seed, int(epoch)]).permutation(samples) for epoch in np.unique(epochs)}
    return np.array([orders[epoch][position % samples] for epoch, position in zip(epochs, positions, strict=True)])


def rank_positions(batch: int, rank: int, ranks: int) -> range:
    """Return the positions of a step's batch that belong to a rank: equal, contiguous parts that together are the batch.

    Raises
    ------
    ValueError
        If the batch cannot be divided into equal parts.
    """
    if batch % ranks or not 0 <= rank < ranks:
        raise ValueError(f"a batch of {batch} cannot be divided among {ranks} ranks (this is rank {rank})")
    return range(rank * batch // ranks, (rank + 1) * batch // ranks)


def generator(seed: int, step: int, position: int) -> np.random.Generator:
    """Return the random generator of one sample in one step; ``position`` is that in the batch over all ranks."""
    return np.random.default_rng([seed, step, position])
