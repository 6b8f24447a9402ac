"""Training samples that are not trained on, to choose a configuration by without labels (``train.holdout``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mvad.datasets.shards.loader import ShardSet
from mvad.errors import BadInput

LEAST_FITTED = 3
"""Training samples that must stay."""

_LEAST_HELD_OUT = 2


@dataclass(frozen=True)
class Parts:
    """A training split in two parts.

    Attributes
    ----------
    fitted
        The samples that are trained on, in the order of the split.
    held_out
        The others, in the order of the split; None where there are none.
    """

    fitted: ShardSet
    held_out: ShardSet | None

    @property
    def held_out_keys(self) -> tuple[str, ...]:
        """Keys of the samples that are not trained on, sorted."""
        return () if self.held_out is None else tuple(sorted(self.held_out.keys))


def parts_of(data: ShardSet, share: float) -> Parts:
    """Divide a training split; the parts depend on the keys of its samples and on the share only, not on their order.

    Parameters
    ----------
    data
        The training split; it is returned as it is where the share is 0.
    share
        Share of the samples that are held out, 0 to 0.5; at least two samples unless it is 0.

    Raises
    ------
    BadInput
        If fewer than three samples would stay.
    """
    if share == 0:
        return Parts(data, None)
    keys = held_out_keys(data.keys, share)
    if len(data) - len(keys) < LEAST_FITTED:
        raise BadInput(
            f"{data.folder}: train.holdout = {share:g} holds out {len(keys)} of {len(data)} training samples, and at least "
            f"{LEAST_FITTED} must stay; use 0, or pack more samples"
        )
    chosen = set(keys)
    rows = range(len(data))
    fitted, held_out = ([row for row in rows if (data.keys[row] in chosen) == out] for out in (False, True))
    return Parts(data.subset(fitted), data.subset(held_out))


def held_out_keys(keys: Sequence[str], share: float) -> list[str]:
    """Return the keys that are held out, sorted: the middle one of each of so many equal parts of the sorted keys.

    Examples
    --------
    >>> held_out_keys(["e", "d", "c", "b", "a", "f"], 0.3)
    ['b', 'e']
    """
    count = min(len(keys), max(_LEAST_HELD_OUT, math.floor(share * len(keys) + 0.5)))
    ordered = sorted(keys)
    return [ordered[position] for position in spread(len(keys), count)]


def spread(total: int, count: int) -> list[int]:
    """Return ``count`` of the numbers below ``total``, evenly spread and rising; all where there are not more.

    Examples
    --------
    >>> spread(10, 3)
    [1, 5, 8]
    """
    count = min(count, total)
    return [(2 * part + 1) * total // (2 * count) for part in range(count)]
