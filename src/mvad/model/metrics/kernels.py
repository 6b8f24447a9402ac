"""Loops over float32 scores: their bits as integers that sort like the numbers, and the bins in which they fall."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

CELL_BITS = 17
"""Keys that differ only in this many lowest bits are in one cell: cells are a 64th of an octave wide."""

SEVERAL = 0xFFFFFFFF
"""Instead of the only key of a bin: it has several."""


def floats_of(keys: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return the float32 of each key; the inverse of ``keys_of``.

    Examples
    --------
    >>> floats_of(np.array([2**31, 2**31 + 1, 2**31 - 2]))
    array([ 0.e+00,  1.e-45, -1.e-45], dtype=float32)
    """
    wide = keys.astype(np.uint32)
    patterns = np.where(wide >> 31, wide & np.uint32(0x7FFFFFFF), ~wide)
    return np.ascontiguousarray(patterns, np.uint32).view(np.float32)


@njit(nogil=True, cache=True)
def _key_of(bits):  # type: ignore[no-untyped-def]  # numba infers the types
    """Return a float32's bit pattern as an integer that sorts like the number: inverted for negative numbers; -0 counts as 0."""
    return (~bits & 0xFFFFFFFF) if bits > 0x80000000 else (bits | 0x80000000)


@njit(nogil=True, cache=True)
def keys_of(patterns, keys):  # type: ignore[no-untyped-def]
    """Write the key of each score (N,) uint32; return False if one of them is not finite."""
    finite = True
    for k in range(len(patterns)):
        bits = patterns[k]
        finite &= (bits & 0x7F800000) != 0x7F800000
        keys[k] = _key_of(bits)
    return finite


@njit(nogil=True, cache=True)
def _note(only, at, key):  # type: ignore[no-untyped-def]
    """Keep the only key of a bin; 0: none yet, SEVERAL: different ones."""
    before = only[at]
    if before != key and before != SEVERAL:
        only[at] = SEVERAL if before else key


@njit(nogil=True, cache=True)
def count(keys, first, shift, counts, only):  # type: ignore[no-untyped-def]
    """Count keys by bin; see ``bins.Bins`` and ``bins.BinCounts``."""
    for k in range(len(keys)):
        cell = keys[k] >> CELL_BITS
        at = first[cell] + ((keys[k] & ((1 << CELL_BITS) - 1)) >> shift[cell])
        counts[at] += 1
        _note(only, at, keys[k])


@njit(nogil=True, cache=True)
def count_twice(keys, first, shift, counts, only, first_coarse, shift_coarse, counts_coarse):  # type: ignore[no-untyped-def]
    """Count keys by fine bins and by coarse bins."""
    for k in range(len(keys)):
        cell, rest = keys[k] >> CELL_BITS, keys[k] & ((1 << CELL_BITS) - 1)
        at = first[cell] + (rest >> shift[cell])
        counts[at] += 1
        _note(only, at, keys[k])
        counts_coarse[first_coarse[cell] + (rest >> shift_coarse[cell])] += 1


@njit(nogil=True, cache=True)
def mark(keys, weights, first, shift, negative, positive, sums):  # type: ignore[no-untyped-def]
    """Move one count for each key from ``negative`` to ``positive``, and sum the weights by bin."""
    for k in range(len(keys)):
        cell = keys[k] >> CELL_BITS
        at = first[cell] + ((keys[k] & ((1 << CELL_BITS) - 1)) >> shift[cell])
        negative[at] -= 1
        positive[at] += 1
        sums[at] += weights[k]


@njit(nogil=True, cache=True)
def chosen(keys, first, shift, wanted, places):  # type: ignore[no-untyped-def]
    """Write the places of keys whose bin is wanted; return how many there are."""
    found = 0
    for k in range(len(keys)):
        cell = keys[k] >> CELL_BITS
        places[found] = k
        found += wanted[first[cell] + ((keys[k] & ((1 << CELL_BITS) - 1)) >> shift[cell])]
    return found
