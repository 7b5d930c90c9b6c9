"""A bounded number of threads, and a bounded number of requests that wait for them."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from ccpml.serving.service.refused import RefusedError

__all__ = ["WorkPool"]

T = TypeVar("T")


class WorkPool:
    """Threads for work that takes the processor, with a queue that refuses when it is full.

    Args:
        workers: Number of threads.
        queue: Number of pieces of work that may wait for a thread.
    """

    def __init__(self, workers: int, queue: int) -> None:
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="ccpml-serve")
        self._workers, self._limit = workers, workers + queue
        self._lock = threading.Lock()
        self.pending = 0

    def start(self) -> None:
        """Start all threads, so that no request is the first to learn that there is none for it.

        Raises:
            RuntimeError: If one cannot be started.
        """
        started = threading.Event()
        try:
            for _ in range(self._workers):
                self._threads.submit(started.wait)
        finally:
            started.set()

    async def run(self, work: Callable[[], T]) -> T:
        """Do the work in a thread and return its result; work whose client has gone is not begun.

        Raises:
            RefusedError: If the queue is full.
        """
        with self._lock:
            if self.pending >= self._limit:
                raise RefusedError(503, "the service is busy; try again in a moment", {"Retry-After": "1"})
            self.pending += 1
        future = self._threads.submit(work)
        future.add_done_callback(self._done)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Drop what waits, and wait for what is under way."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _done(self, future: "Future[Any]") -> None:
        with self._lock:
            self.pending -= 1
