"""What a Dask worker process does before its first scan (a Dask preload module)."""

from __future__ import annotations

import signal


def dask_setup(worker: object) -> None:
    """Leave Ctrl-C to the process that was started by hand: it stops its workers, and each would print a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
