"""The packed data of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.datasets.shards.reader import read_manifest
from mvad.datasets.shards.schema import MANIFEST
from mvad.errors import BadInput
from mvad.model.runs import RunFolder


def has_training_data(run: RunFolder, packed: Path) -> bool:
    """Return whether a packed category lists the very training shards that a run was trained on; no file is read but its manifest."""
    if not (packed / MANIFEST).exists():
        return False
    listed = {entry["file"]: entry["sha256"] for entry in read_manifest(packed)["shards"] if entry["split"] == "train"}
    return listed == dict(run.record.shards)


def not_trained_on(run: RunFolder, packed: Path) -> BadInput:
    """Return the error for a packed category that a run was not trained on."""
    return BadInput(f"{packed}: is not what {run.name} was trained on; pack the same data, or train again")


def check_training(run: RunFolder, packed: Path) -> ShardSet:
    """Return the training split of a packed category after checking that a run was trained on it.

    Raises
    ------
    BadInput
        If the run was trained on other shards.
    """
    train = ShardSet(packed, "train")
    if train.sha256 != run.record.shards:
        raise not_trained_on(run, packed)
    return train


def shown_fields(data: ShardSet, modalities: Sequence[str], also: Sequence[str] = ()) -> ShardSet:
    """Return a split that decodes only the fields that a detector reads, that pictures show, or that are in ``also``."""
    used = {*modalities, *also, *({"rgb", "normal"} & set(data.stored))}
    return data.select([name for name in data.stored if name in used])


def read_with_views(data: ShardSet, rows: Sequence[int], views: Sequence[int]) -> Batch:
    """Return samples of a split in which all views but ``views`` count as missing; empty: none does."""
    return with_views(data.batch(rows), views) if views else data.batch(rows)


def with_views(batch: Batch, views: Sequence[int]) -> Batch:
    """Return a batch in which all other views count as missing. Their pixels stay in the batch; detectors must ignore them."""
    kept = torch.zeros_like(batch.present)
    kept[:, list(views)] = True
    return replace(batch, present=batch.present & kept)
