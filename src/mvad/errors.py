"""The exceptions for errors that a user can cause or encounter, with their exit codes.

    MvadError              1   base class, never raised itself
    |-- BadInput           3   a file, folder or value from outside is wrong
    |-- MissingComponent   5   a library, driver or weights file is missing
    `-- PartlyDone         6   some scans failed and are listed in failed.jsonl, the others are finished

A message is one line: what is wrong, where, and what to do. ``cli.main`` holds the only handler.
Usage errors are Typer's (2); interruption is 130, termination 143.
"""

from __future__ import annotations


class MvadError(Exception):
    """An error that a user can understand and correct."""

    exit_code = 1


class BadInput(MvadError):
    """A file, folder or value given to mvad is missing, damaged or invalid."""

    exit_code = 3


class MissingComponent(MvadError):
    """A library, driver or weights file that the call needs is not on the machine."""

    exit_code = 5


class PartlyDone(MvadError):
    """The job finished, but some of its parts failed and are listed."""

    exit_code = 6
