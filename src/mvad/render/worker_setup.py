"""Dask preload module: runs in each worker process before its first scan."""

from __future__ import annotations

import signal

from mvad.render.backends.choose import be_worker


def dask_setup(worker: object) -> None:
    """Ignore Ctrl-C in workers: the main process stops them, and each would print a traceback. Tell local ones their number.

    Dask names the workers of this machine 0, 1, ..., and a replaced one as the one before it; those of a scheduler have no numbers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    name = getattr(worker, "name", None)
    if isinstance(name, int):
        be_worker(name)
