"""Calls that threads make ahead of who takes their results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def made_ahead(pool: ThreadPoolExecutor, calls: Iterable[Callable[[], Result]], ahead: int) -> Generator[Result]:
    """Yield the results of calls in order; up to ``ahead`` more are made meanwhile, which bounds memory.

    What a call raises is raised in its turn. Calls that were not begun when this is closed are not made.

    Examples
    --------
    >>> with ThreadPoolExecutor(2) as pool:
    ...     list(made_ahead(pool, [lambda: 1, lambda: 2], 1))
    [1, 2]
    """
    waiting: deque[Future[Result]] = deque()
    try:
        for call in calls:
            waiting.append(pool.submit(call))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
