"""Which samples a step sees: a pure function of (seed, step), whatever the workers."""

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
