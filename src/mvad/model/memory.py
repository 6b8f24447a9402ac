"""Memory of a processor's tensors that is used again, instead of being given back to the system and asked for anew.

The C library takes each large tensor from the system and returns it when it is freed. The system then clears each page anew
when it is touched, which took a fifth of a training step. Sources: mallopt(3), malloc_trim(3) of glibc.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections.abc import Iterator
from functools import cache

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_KEPT = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
"""No tensor has pages of its own, and no freed memory is given back."""
_USUAL = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}
"""Where glibc's own rule ends up in a program that frees large blocks."""

_lock = threading.Lock()
_inside = 0


@contextlib.contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Use the memory of freed tensors again while inside, and give it back to the system afterwards.

    It concerns the whole process, may be entered again while inside, and from several threads. Nothing happens where tensors
    lie on another device than the processor, or without glibc.

    Parameters
    ----------
    device
        Where the tensors lie.

    Examples
    --------
    >>> with kept_memory(torch.device("cpu")):
    ...     for _ in range(3):
    ...         large = torch.zeros(1000, 1000)
    """
    global _inside
    library = _glibc() if device.type == "cpu" else None
    if library is None:
        yield
        return
    with _lock:
        _inside += 1
        if _inside == 1:
            _set(library, _KEPT)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _set(library, _USUAL)
                library.malloc_trim(0)


def _set(library: ctypes.CDLL, values: dict[int, int]) -> None:
    for name, value in values.items():
        library.mallopt(name, value)


@cache
def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if all(hasattr(library, name) for name in ("gnu_get_libc_version", "mallopt", "malloc_trim")) else None
