"""Every error that a user can cause or meet, with the exit code it ends in.

    MvadError              1   never raised itself
    |-- BadInput           3   a file, folder or value from outside is wrong
    |-- MissingComponent   5   a library, driver or weights file is not there
    `-- PartlyDone         6   some scans failed, the rest is finished; failed.jsonl has the list

A message is one line: what is wrong, where, and what to do. ``cli.main`` holds the only handler.
Usage errors are Typer's (2); interruption is 130, termination 143.
"""

from __future__ import annotations


class MvadError(Exception):
    """Something a user can understand and mend."""

    exit_code = 1


class BadInput(MvadError):
    """A file, a folder or a value that came from outside is not what it should be."""

    exit_code = 3


class MissingComponent(MvadError):
    """A library, a driver or a weights file that this call needs is not on the machine."""

    exit_code = 5


class PartlyDone(MvadError):
    """The job ran to its end, but some of its parts failed and are listed."""

    exit_code = 6
