"""The packed data of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mvad.datasets.shards.loader import ShardSet
from mvad.errors import BadInput
from mvad.model.runs import RunFolder


def check_training(run: RunFolder, packed: Path) -> ShardSet:
    """Return the training split of a packed category after checking that a run was trained on it.

    Raises
    ------
    BadInput
        If the run was trained on other shards.
    """
    train = ShardSet(packed, "train")
    if train.sha256 != run.record.shards:
        raise BadInput(f"{packed}: is not what {run.name} was trained on; pack the same data, or train again")
    return train


def shown_fields(data: ShardSet, modalities: Sequence[str], also: Sequence[str] = ()) -> ShardSet:
    """Return a split that decodes only the fields that a detector reads, that pictures show, or that are in ``also``."""
    used = {*modalities, *also, *({"rgb", "normal"} & set(data.stored))}
    return data.select([name for name in data.stored if name in used])
