"""Run one function over many items: in this process, on threads, or on Dask workers; a failure affects only its item.

Dask provides retries, replacement of dead workers, and workers on one machine or many. Workers are spawned, never forked:
forked GL contexts and thread pools crash.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol

from mvad.cores import usable_cores
from mvad.errors import BadInput, MissingComponent, MvadError

_ALLOWED_FAILURES = 2
"""Worker deaths after which Dask still runs an item again; after one more it gives the item up."""

_RETRIES = 2
"""How often an item is run again after an error that the item did not cause (an error of a network file system, say)."""

_MIN_ITEMS_FOR_WORKERS = 40
"""Starting worker processes takes seconds; with fewer items than this one process is as fast."""

_WAIT_FOR_WORKERS_S = 60
_PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH)


@dataclass(frozen=True)
class Workers:
    """The processes and threads that do the work.

    Attributes
    ----------
    jobs
        Number of worker processes on this machine; 1: this process alone; 0: chosen by the number of items.
    threads
        Number of items that each process handles at the same time.
    scheduler
        Address of a running Dask scheduler (``tcp://host:port``) whose workers are used instead; "": none.
    recycle
        Number of items after which a local worker is replaced by a new process, to free memory that libraries leak.
    """

    jobs: int = 1
    threads: int = 1
    scheduler: str = ""
    recycle: int = 1000

    def jobs_for(self, items: int) -> int:
        """Return the number of worker processes on this machine for a number of items; 1 is this process."""
        if self.scheduler:
            return 1
        return min(self.jobs or (usable_cores() if items >= _MIN_ITEMS_FOR_WORKERS else 1), max(items, 1))


class Run(Protocol):
    """Yield every item with its result or its exception, in the order in which they finish."""

    def __call__(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Run a picklable function on picklable items."""


@contextlib.contextmanager
def started(workers: Workers, items: int) -> Iterator[Run]:
    """Start workers for about ``items`` items, yield a ``Run`` that uses them, and stop them at the end.

    The functions and items must be picklable. ``MissingComponent`` is raised, not yielded, because it affects all items.

    Raises
    ------
    BadInput
        If no scheduler answers at the address, or no worker joins it.
    MissingComponent
        If a function raised it.
    """
    jobs = workers.jobs_for(items)
    if workers.scheduler:
        context = _remote_cluster(workers.scheduler)
    elif jobs > 1:
        context = _local_cluster(workers, jobs)
    else:
        context = _this_process(workers.threads)
    with context as run:
        yield lambda function, items: _without_missing(run(function, items))


def _without_missing(results: Iterator[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    for item, result in results:
        if isinstance(result, MissingComponent):
            raise result
        yield item, result


def _outcome(function: Callable[[Any], Any], item: Any) -> Any:
    """Return the function's result, or its error where the item caused it, so that Dask does not run the item again."""
    try:
        return function(item)
    except Exception as error:
        if _interrupted(error):
            raise KeyboardInterrupt from error
        if isinstance(error, MvadError) and not _may_pass(error):
            return error
        raise


def _may_pass(error: MvadError) -> bool:
    """Return whether an error comes from a file system that may answer at the next try, as one over a network does."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _PASSING


def _interrupted(error: BaseException | None) -> bool:
    """Return whether an error is a KeyboardInterrupt, or a library's exception that wraps one."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def _this_process(threads: int) -> Iterator[Run]:
    def run(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        for item in items:
            try:
                yield item, _outcome(function, item)
            except Exception as error:
                yield item, error

    if threads <= 1:
        yield run
        return
    with ThreadPoolExecutor(threads) as pool:
        yield lambda function, items: _on_threads(pool, threads, function, items)


def _on_threads(
    pool: ThreadPoolExecutor, threads: int, function: Callable[[Any], Any], items: Sequence[Any]
) -> Iterator[tuple[Any, Any]]:
    """Keep one item more than there are threads submitted, so that an interruption waits only for those."""
    remaining, running = iter(items), dict[Future[Any], Any]()
    while True:
        for item in remaining:
            running[pool.submit(_outcome, function, item)] = item
            if len(running) > threads:
                break
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            error = future.exception()
            if error is not None and not isinstance(error, Exception):
                raise error
            yield running.pop(future), future.result() if error is None else error


@contextlib.contextmanager
def _local_cluster(workers: Workers, jobs: int) -> Iterator[Run]:
    import dask
    from distributed import Client, LocalCluster

    settings = {
        "distributed.scheduler.allowed-failures": _ALLOWED_FAILURES,
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.worker.preload": ["mvad.render.worker_setup"],
        # Dask's default makes malloc return freed blocks to the kernel at once; rendering then waits for newly zeroed pages.
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": str(256 << 20),
        "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "distributed.admin.tick.limit": "60s",
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=jobs, threads_per_worker=max(workers.threads, 1), processes=True, dashboard_address="127.0.0.1:0",
            silence_logs="CRITICAL", memory_limit=0,  # its default kills a worker for its share of the memory, however large a scan is
        ) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        # Not Dask's own worker lifetime: with it the last items of a run waited forever for workers that had ended.
        def run(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
            batch = max(workers.recycle, 1) * jobs
            for first in range(0, len(items), batch):
                if first:
                    client.restart()
                yield from _on_workers(client, function, items[first : first + batch])

        yield run


@contextlib.contextmanager
def _remote_cluster(scheduler: str) -> Iterator[Run]:
    from distributed import Client

    try:
        client = Client(scheduler, timeout="5s")
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(
            f"--scheduler {scheduler}: no Dask scheduler answers there ({reason}); start one with: dask scheduler"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_WAIT_FOR_WORKERS_S)
        except TimeoutError as error:
            raise BadInput(
                f"--scheduler {scheduler}: no worker has joined it; start some with: dask worker {scheduler}"
            ) from error
        yield lambda function, items: _on_workers(client, function, items)


def _on_workers(client: Any, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    from distributed import KilledWorker, as_completed

    futures = {client.submit(_outcome, function, item, pure=False, retries=_RETRIES): item for item in items}
    suspects = []
    for future in as_completed(list(futures)):
        error = future.exception()
        item = futures.pop(future)
        if isinstance(error, KilledWorker):
            suspects.append(item)
        else:
            yield item, future.result() if error is None else error
    # Dask gives up every item that the dead worker held. Each is run once more, alone, so that only the faulty one fails.
    for item in suspects:
        alone = client.submit(_outcome, function, item, pure=False, retries=_RETRIES)
        error = alone.exception()
        yield item, alone.result() if error is None else error
