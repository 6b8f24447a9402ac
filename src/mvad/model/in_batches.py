"""Samples that are scored together where that is faster, each with the answer that it gets alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from mvad.datasets.shards.batches import read_ahead
from mvad.datasets.shards.loader import Batch, collate
from mvad.model.detector import AnomalyMaps
from mvad.model.devices import synchronise
from mvad.model.memory import kept_memory

Item = TypeVar("Item")
Read = TypeVar("Read")

_ON_GPU = 8


def samples_per_call(device: torch.device) -> int:
    """Return how many samples are scored together: 8 on a GPU, whose launches take as long for one; 1 on a processor."""
    return 1 if device.type == "cpu" else _ON_GPU


class Scorer:
    """Scores samples by a function of batches, several per call on a GPU, and reads the next ones on a thread meanwhile.

    Where the memory of the GPU does not suffice, half as many samples are scored per call from then on.

    Parameters
    ----------
    answer
        Returns the maps and scores of a batch.
    device
        Device on which it computes.

    Attributes
    ----------
    most
        Number of samples per call.
    seconds
        Time that the calls took so far, with the copies to the device and back.
    """

    def __init__(self, answer: Callable[[Batch], AnomalyMaps], device: torch.device) -> None:
        self._answer, self._device = answer, device
        self._size = self.most = samples_per_call(device)
        self.seconds = 0.0

    def each(
        self, items: Sequence[Item], read: Callable[[Sequence[Item]], Batch | None]
    ) -> Iterator[tuple[Batch, AnomalyMaps | None]]:  # fmt: skip
        """Yield each sample as a batch of one, with its maps and scores, or None where it has no view.

        Parameters
        ----------
        items
            What the samples are read from, such as their numbers.
        read
            Reads the samples of some items; None: there are none. Called on a thread where several are scored per call.
        """
        with kept_memory(self._device):
            for batch in self.groups(items, read):
                if batch is not None:
                    yield from zip(singles(batch), self.scored(batch), strict=True)

    def groups(self, items: Sequence[Item], read: Callable[[Sequence[Item]], Read]) -> Iterator[Read]:
        """Yield what is read of as many items at a time as are scored per call."""
        groups = [items[start : start + self._size] for start in range(0, len(items), self._size)]
        if self._size == 1:
            yield from map(read, groups)
        else:
            yield from read_ahead([partial(self._read, read, group) for group in groups], "mvad-read")

    def scored(self, batch: Batch) -> list[AnomalyMaps | None]:
        """Return the maps and scores of each sample of a batch, each as of a batch of one; None for one without a view."""
        there = batch.present.any(dim=1).tolist()
        seen = batch if all(there) else _joined([one for one, is_there in zip(singles(batch), there, strict=True) if is_there])
        answers = iter([] if seen is None else self._scored(seen))
        return [next(answers) if is_there else None for is_there in there]

    def _read(self, read: Callable[[Sequence[Item]], Read], group: Sequence[Item]) -> Read:
        found = read(group)
        return found.pin_memory() if isinstance(found, Batch) and self._device.type == "cuda" else found  # type: ignore[return-value]

    def _scored(self, batch: Batch) -> list[AnomalyMaps]:
        found: list[AnomalyMaps] = []
        while len(found) < len(batch.keys):
            part = batch.rows(len(found), len(found) + self.most)
            began = time.perf_counter()
            try:
                answer = self._answer(part)
            except torch.OutOfMemoryError:
                if len(part.keys) == 1:
                    raise
                self.most = len(part.keys) // 2
                torch.cuda.empty_cache()
                continue
            synchronise(self._device)
            self.seconds += time.perf_counter() - began
            found += [_row(answer, k) for k in range(len(part.keys))] if len(part.keys) > 1 else [answer]
        return found


def singles(batch: Batch) -> list[Batch]:
    """Return the samples of a batch as batches of one."""
    return [batch] if len(batch.keys) == 1 else [batch.rows(k, k + 1) for k in range(len(batch.keys))]


def _joined(batches: Sequence[Batch]) -> Batch | None:
    return collate(batches) if batches else None


def _row(answer: AnomalyMaps, k: int) -> AnomalyMaps:
    values = {field.name: getattr(answer, field.name) for field in fields(answer)}
    return AnomalyMaps(**{name: value[k : k + 1] if isinstance(value, Tensor) else value for name, value in values.items()})
