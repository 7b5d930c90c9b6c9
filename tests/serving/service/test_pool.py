"""The pool of workers: its queue is bounded, and work that nobody waits for is not begun."""

import asyncio
import threading

import pytest

from ccpml.serving.service.pool import WorkPool
from ccpml.serving.service.refused import RefusedError


def test_a_full_queue_refuses_and_takes_again_when_there_is_room():
    async def scenario():
        pool, release = WorkPool(workers=1, queue=2), threading.Event()
        waiting = [asyncio.ensure_future(pool.run(release.wait)) for _ in range(3)]
        await asyncio.sleep(0.02)
        with pytest.raises(RefusedError) as refused:
            await pool.run(lambda: 1)
        assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "1"})
        release.set()
        assert await asyncio.gather(*waiting) == [True] * 3
        assert await pool.run(lambda: 1) == 1
        pool.close()

    asyncio.run(scenario())


def test_work_that_was_given_up_before_it_began_is_not_done():
    async def scenario():
        pool, release, done = WorkPool(workers=1, queue=5), threading.Event(), []
        first = asyncio.ensure_future(pool.run(release.wait))
        await asyncio.sleep(0.02)
        second = asyncio.ensure_future(pool.run(lambda: done.append(2)))
        await asyncio.sleep(0.02)
        second.cancel()
        await asyncio.sleep(0.02)
        release.set()
        await first
        assert await pool.run(lambda: 3) == 3
        assert (done, pool.pending) == ([], 0)
        pool.close()

    asyncio.run(scenario())


def test_errors_of_the_work_reach_who_waits():
    async def scenario():
        pool = WorkPool(workers=1, queue=1)
        with pytest.raises(ZeroDivisionError):
            await pool.run(lambda: 1 // 0)
        assert pool.pending == 0
        pool.close()

    asyncio.run(scenario())
