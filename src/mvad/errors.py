"""The exceptions for errors that a user can cause or encounter, with their exit codes.

    MvadError              1   base class, never raised itself
    |-- BadInput           3   a file, folder or value from outside is wrong
    |   |-- UnknownName    2   a dataset, category, method, preset, ... of this name does not exist
    |   `-- CannotWrite    3   the file system refuses to write; `is_general` where it will refuse everything else, too
    |-- MissingComponent   5   a library, driver or weights file is missing
    `-- PartlyDone         6   some scans failed and are listed in failed.jsonl, the others are finished

A message is one line: what is wrong, where, and what to do. ``cli.main`` holds the only handler.
Other usage errors are Typer's (2); interruption is 130, termination 143.
"""

from __future__ import annotations

import errno
from pathlib import Path

OUT_OF_MEMORY = "OutOfMemoryError"

DEVICE_REMEDIES = {
    OUT_OF_MEMORY: "choose a smaller train.batch or input.size (docs/gpu.md), free the card, or give --device cpu",
    "AcceleratorError": "the same command continues once the card works again; mvad --debug shows where it failed",
}
"""What to do about torch's errors of a device, by the names of their classes: torch is not imported to tell them."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


class MvadError(Exception):
    """An error that a user can understand and correct."""

    exit_code = 1


class BadInput(MvadError):
    """A file, folder or value given to mvad is missing, damaged or invalid."""

    exit_code = 3


class UnknownName(BadInput):
    """A name given to mvad is none of those that exist; see ``words.no_such``."""

    exit_code = 2


class CannotWrite(BadInput):
    """The file system refuses to write a file.

    Attributes
    ----------
    is_general
        Whether it will refuse all other files, too: it is full, or cannot be written at all.
    """

    def __init__(self, message: str, is_general: bool = False) -> None:
        super().__init__(message, is_general)
        self.is_general = is_general

    def __str__(self) -> str:
        return str(self.args[0])

    @classmethod
    def of(cls, path: Path, error: OSError) -> CannotWrite:
        """Return the error for a file or folder: why it cannot be written, and what to do."""
        remedy = ""
        if error.errno in _FULL:
            remedy = "; free some space, then run the same command again, which continues"
        elif error.errno in _FORBIDDEN:
            remedy = "; give a folder that you may write to (--out where the command has it, else --workspace)"
        message = f"{path}: cannot be written: {error.strerror or error}{remedy}"
        return cls(message, error.errno in (*_FULL, errno.EROFS))


class MissingComponent(MvadError):
    """A library, driver or weights file that the call needs is not on the machine."""

    exit_code = 5


class PartlyDone(MvadError):
    """The job finished, but some of its parts failed and are listed."""

    exit_code = 6
