"""Reused memory for batches: new pages from the kernel cost more than decoding into them."""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_KEPT_EACH = 4
"""Greatest number of free buffers kept per size: enough for a few batches that are in use at the same time."""


class Buffers:
    """Allocates tensors, and reuses their memory when no tensor or view of it is referenced any more.

    Thread-safe (a list's ``append`` and ``pop`` are atomic). A pickle contains no memory.
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
        # The tensor's storage references this array, so the memory is free when the array is finalised.
        array = np.frombuffer(buffer.data, dtype).reshape(shape)
        weakref.finalize(array, _release, free, buffer).atexit = False
        return torch.from_numpy(array), array


def _release(free: list[NDArray[np.uint8]], buffer: NDArray[np.uint8]) -> None:
    if len(free) < _KEPT_EACH:
        free.append(buffer)
