"""Dask preload module: runs in each worker process before its first scan."""

from __future__ import annotations

import signal


def dask_setup(worker: object) -> None:
    """Ignore Ctrl-C in workers: the main process stops them, and each would print a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
