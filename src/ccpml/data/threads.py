"""Work in a pool of threads, with the results in order."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["in_threads"]

T = TypeVar("T")
R = TypeVar("R")


def in_threads(work: Callable[[T], R], items: Iterable[T]) -> Generator[tuple[T, R], None, None]:
    """Yield each item and the result of ``work``, in order; the threads work a few items ahead.

    If the iteration is stopped, by Ctrl-C for example, only the items in progress are finished.
    """
    threads = min(16, os.cpu_count() or 1)
    ahead = deque[tuple[T, Future[R]]]()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ccpml-data")
    try:
        for item in items:
            ahead.append((item, pool.submit(work, item)))
            if len(ahead) >= 4 * threads:
                first, future = ahead.popleft()
                yield first, future.result()
        for first, future in ahead:
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
