"""Arrays of the NumPy format: their header is read before their data, so that none is larger than expected."""

from __future__ import annotations

import zipfile
import zlib
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

UNREADABLE = (
    zipfile.BadZipFile, zlib.error, OSError, ValueError, LookupError, EOFError, RuntimeError, NotImplementedError,
)  # fmt: skip
"""What reading damaged NPY and NPZ files raises."""


def npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype of an array.

    Raises
    ------
    ValueError
        If it is not of the format.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def read_npy(file: IO[bytes]) -> NDArray[Any]:
    """Read an array of numbers whose header was checked.

    Raises
    ------
    ValueError
        If it is not of the format, cut off, or holds Python objects.
    """
    return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
