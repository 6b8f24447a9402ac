"""Which samples a step sees and what they are augmented with: pure functions of (seed, step), whatever the workers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def batch_indices(seed: int, step: int, samples: int, batch: int) -> NDArray[np.int64]:
    """Return the ``batch`` sample numbers of a step: epochs are permutations laid end to end.

    A batch that reaches over an epoch's end takes its rest from the next, so every batch is full and every
    sample is seen equally often.
    """
    first = step * batch
    places = np.arange(first, first + batch)
    epochs = places // samples
    orders = {epoch: np.random.default_rng([seed, int(epoch)]).permutation(samples) for epoch in np.unique(epochs)}
    return np.array([orders[epoch][place % samples] for epoch, place in zip(epochs, places, strict=True)])


def rank_places(batch: int, rank: int, ranks: int) -> range:
    """Return which places of a step's batch belong to a rank: equal, adjoining parts, so that all ranks make the batch.

    Raises
    ------
    ValueError
        If the batch cannot be divided into equal parts.
    """
    if batch % ranks or not 0 <= rank < ranks:
        raise ValueError(f"a batch of {batch} cannot be divided among {ranks} ranks (this is rank {rank})")
    return range(rank * batch // ranks, (rank + 1) * batch // ranks)


def generator(seed: int, step: int, place: int) -> np.random.Generator:
    """Return the random numbers of one sample in one step; ``place`` counts over the ranks' common batch."""
    return np.random.default_rng([seed, step, place])
