"""Run one function over many items, here or on Dask workers; a failure belongs to its item alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from mvad.errors import MissingComponent

Item = TypeVar("Item")
Result = TypeVar("Result")

_ALLOWED_FAILURES = 2
"""An item whose worker died this often, plus once, is given up: it kills workers."""


def run_all(function: Callable[[Item], Result], items: Sequence[Item], jobs: int) -> Iterator[tuple[Item, Result | Exception]]:
    """Yield every item with its result or its exception, as they finish.

    Parameters
    ----------
    function
        A picklable function of one item.
    items
        Picklable items.
    jobs
        1 runs in this process; more start that many Dask worker processes with one thread each.

    Raises
    ------
    MissingComponent
        If a component is missing: then it is missing for every item.
    """
    run = _here if jobs <= 1 or len(items) <= 1 else _on_workers
    for item, result in run(function, items, jobs):
        if isinstance(result, MissingComponent):
            raise result
        yield item, result


def _here(function: Callable[[Any], Any], items: Sequence[Any], jobs: int) -> Iterator[tuple[Any, Any]]:
    for item in items:
        try:
            result = function(item)
        except Exception as error:
            yield item, error
        else:
            yield item, result


def _on_workers(function: Callable[[Any], Any], items: Sequence[Any], jobs: int) -> Iterator[tuple[Any, Any]]:
    import dask
    from distributed import Client, LocalCluster, as_completed

    settings = {
        "distributed.scheduler.allowed-failures": _ALLOWED_FAILURES,
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.admin.tick.limit": "60s",
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=min(jobs, len(items)), threads_per_worker=1, processes=True, dashboard_address=None,
            silence_logs="CRITICAL",
        ) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        futures = {client.submit(function, item, pure=False): item for item in items}
        for future in as_completed(list(futures)):
            error = future.exception()
            yield futures.pop(future), future.result() if error is None else error
