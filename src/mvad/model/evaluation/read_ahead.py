"""New samples that are read before they are scored; on a GPU several at the same time, ahead of the network."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from mvad.cores import usable_cores
from mvad.datasets.shards.ahead import made_ahead
from mvad.errors import BadInput
from mvad.model.detector import Detector
from mvad.model.evaluation.decide import NewSample, Read, read_new

_MOST_READERS = 8
"""Samples that are read at the same time for a GPU."""


@dataclass(frozen=True)
class Earlier:
    """What a sample's row would be made from, and the row where it was made from that before."""

    made_from: list[str]
    row: dict[str, Any] | None


@dataclass(frozen=True)
class Found:
    """A sample with its row where it was scored before or cannot be read, else what was read of it."""

    sample: NewSample
    made_from: Sequence[str]
    row: dict[str, Any] | BadInput | None
    read: Read | None


def read_ahead(
    detector: Detector, samples: Iterable[NewSample], check: Callable[[NewSample], None], made: Callable[[NewSample], Earlier]
) -> Generator[Found]:
    """Yield the samples in order, each read unless it was scored before; on a GPU several are read ahead on threads.

    On a processor the network takes all cores, and a sample that is read meanwhile would only seem slow to read.
    """

    def found(sample: NewSample, refused: BadInput | None) -> Found:
        try:
            if refused is not None:
                raise refused
            earlier = made(sample)
            read = read_new(detector, sample) if earlier.row is None else None
            return Found(sample, earlier.made_from, earlier.row, read)
        except BadInput as error:
            if getattr(error, "is_general", False):
                raise
            return Found(sample, (), error, None)

    def calls() -> Iterator[Callable[[], Found]]:
        for sample in samples:
            refused: BadInput | None = None
            try:
                check(sample)
            except BadInput as error:
                refused = error
            yield partial(found, sample, refused)

    if detector.device.type == "cpu":
        yield from (call() for call in calls())
        return
    readers = min(_MOST_READERS, usable_cores())
    with ThreadPoolExecutor(readers) as pool, contextlib.closing(made_ahead(pool, calls(), readers)) as ahead:
        yield from ahead
