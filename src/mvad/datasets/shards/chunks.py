"""Encode and decode one chunk of an HDF5 dataset, outside of the HDF5 library.

A chunk is ``compress(array) + fletcher32(compressed)``, the same bytes as from the library's filters, so any HDF5 reader
opens it. Without the library, threads do not wait for its global lock, a loader's worker needs no open HDF5 handle, and
untrusted bytes are processed by the codec alone.

Sources: HDF5 file format specification (fletcher32 filter, id 3); registered filters 32004 (lz4) and 32015 (zstd).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from mvad.errors import BadInput
from mvad.words import no_such

_codecs: Any = imagecodecs  # its stubs lack arrays to decode into and memory views
DEFLATE, FLETCHER32, LZ4, ZSTD = 1, 3, 32004, 32015
_SUM_BYTES = 4


class DamagedChunkError(Exception):
    """The bytes of a chunk are not what was written."""


@dataclass(frozen=True)
class Filter:
    """A compression of chunks: its name on the command line, its filter number in HDF5, its levels.

    ``field_levels`` are the defaults of fields for which another level than ``default_level`` is better.
    """

    name: str
    number: int
    default_level: int
    greatest_level: int
    field_levels: Mapping[str, int] = field(default_factory=dict)


FILTERS = {
    # Measured on views of a real category: from level 3 to 6 colours are 3 % smaller and read faster, other fields do not change.
    "zstd": Filter("zstd", ZSTD, 3, 22, {"rgb": 6, "mask": 6, "seen": 6}),
    "lz4": Filter("lz4", LZ4, 0, 0),
    "gzip": Filter("gzip", DEFLATE, 4, 9),
    "none": Filter("none", 0, 0, 0),
}
PIPELINES: dict[tuple[int, ...], str] = {
    ((f.number, FLETCHER32) if f.number else (FLETCHER32,)): f.name for f in FILTERS.values()
}
"""Filter numbers of a dataset, in order, and the name of the compression; no other pipeline is read."""

_ENCODE: dict[str, Callable[[Any, int], bytes]] = {
    "zstd": lambda data, level: _codecs.zstd_encode(data, level=level),
    "lz4": lambda data, level: _codecs.lz4h5_encode(data),
    "gzip": lambda data, level: _codecs.zlib_encode(data, level=level),
    "none": lambda data, level: bytes(data),
}
_DECODE: dict[str, Callable[[Any, NDArray[np.uint8]], Any]] = {
    "zstd": lambda data, out: _codecs.zstd_decode(data, out=out),
    "lz4": lambda data, out: _codecs.lz4h5_decode(data, out=out),
    "gzip": lambda data, out: _codecs.zlib_decode(data, out=out),
}


def check_filter(name: str, level: int | None) -> None:
    """Check that the filter exists and has this level.

    Raises
    ------
    BadInput
        If not; the message lists the filters or levels.
    """
    if name not in FILTERS:
        raise no_such("--filter", name, FILTERS)
    greatest = FILTERS[name].greatest_level
    if level is not None and not 1 <= level <= greatest:
        raise BadInput(f"--level {level}: {name} takes {f'1 to {greatest}' if greatest else 'no level'}")


def level_of(name: str, level: int | None, field_name: str) -> int:
    """Return the level for a field: the given one, or the filter's default for the field where it is None."""
    chosen = FILTERS[name]
    return chosen.field_levels.get(field_name, chosen.default_level) if level is None else level


def encode(array: NDArray[Any], name: str, level: int) -> bytes:
    """Return the chunk of an array of any shape and number type, with its fletcher32 checksum."""
    data = _ENCODE[name](_bytes_of(np.ascontiguousarray(array)), level)
    return data + struct.pack("<I", _codecs.h5checksum_fletcher32(data))


def check(chunk: memoryview) -> None:
    """Compare a chunk with its checksum.

    Raises
    ------
    DamagedChunkError
        If they differ.
    """
    data = chunk[:-_SUM_BYTES]
    if len(chunk) < _SUM_BYTES or struct.pack("<I", _codecs.h5checksum_fletcher32(data)) != chunk[-_SUM_BYTES:]:
        raise DamagedChunkError("its fletcher32 sum differs")


def decode_into(chunk: memoryview, name: str, out: NDArray[Any]) -> None:
    """Check a chunk and decompress it into a contiguous array, which must be filled exactly.

    Raises
    ------
    DamagedChunkError
        If the checksum differs, or the content has another length.
    """
    check(chunk)
    flat, data = _bytes_of(out), chunk[:-_SUM_BYTES]
    try:
        if name == "none":
            flat[:] = np.frombuffer(data, np.uint8)
            return
        decoded = _DECODE[name](data, flat)
    except Exception as error:  # each codec has its own exception
        raise DamagedChunkError(f"it does not decompress ({' '.join(str(error).split())[:80]})") from error
    if len(decoded) != flat.size:
        raise DamagedChunkError(f"it holds {len(decoded)} bytes, expected {flat.size}")


def _bytes_of(array: NDArray[Any]) -> NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)
