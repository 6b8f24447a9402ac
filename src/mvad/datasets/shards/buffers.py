"""Memory for batches that is used again: asking the kernel for fresh pages costs more than decoding into them."""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_KEPT_EACH = 4
"""Buffers of one size that wait to be used again: a few batches in flight, and no hoard."""


class Buffers:
    """Gives out tensors, and takes their memory back when nobody holds a tensor or a view of it any more.

    Safe for threads (a list's ``append`` and ``pop`` are atomic). A pickle carries no memory.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[NDArray[np.uint8]]] = {}

    def __reduce__(self) -> tuple[type[Buffers], tuple[()]]:
        return Buffers, ()

    def empty(self, shape: tuple[int, ...], dtype: str) -> tuple[Tensor, NDArray[Any]]:
        """Return an uninitialised tensor and the array that shares its memory; the array must not outlive the tensor."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        free = self._free.setdefault(size, [])
        try:
            buffer = free.pop()
        except IndexError:
            buffer = np.empty(size, np.uint8)
        # The tensor's storage holds this very array, and the array's end is what says that the memory is free.
        lease = np.frombuffer(buffer.data, dtype).reshape(shape)
        weakref.finalize(lease, _take_back, free, buffer).atexit = False
        return torch.from_numpy(lease), lease


def _take_back(free: list[NDArray[np.uint8]], buffer: NDArray[np.uint8]) -> None:
    if len(free) < _KEPT_EACH:
        free.append(buffer)
