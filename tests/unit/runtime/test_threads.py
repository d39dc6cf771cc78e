"""`run_in_thread`: a cancelled caller waits for its thread, however it was cancelled."""

from __future__ import annotations

import asyncio
import threading
import time

import anyio
import anyio.to_thread
import pytest

from specstar.runtime import run_in_thread


async def test_the_result_and_the_error_come_back() -> None:
    assert await run_in_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await run_in_thread(divmod, 7, 0)


async def test_a_cancelled_caller_waits_for_the_thread() -> None:
    release, ended = threading.Event(), threading.Event()

    def work() -> None:
        release.wait(10)
        time.sleep(0.02)
        ended.set()

    async def call() -> None:
        try:
            await run_in_thread(work)
        finally:
            assert ended.is_set()

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await anyio.sleep(0.01)
        group.cancel_scope.cancel()
        release.set()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestTaskCancel:
    """`Task.cancel()`, which anyio alone obeys at once."""

    async def test_it_waits_for_the_thread_and_keeps_its_place(self) -> None:
        begun, release, ended = threading.Event(), threading.Event(), threading.Event()
        limiter = anyio.CapacityLimiter(1)

        def work() -> None:
            begun.set()
            release.wait(10)
            ended.set()

        task = asyncio.create_task(run_in_thread(work, limiter=limiter))
        while not begun.is_set():  # noqa: ASYNC110  another thread sets it
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.sleep(0.02)
        assert not task.done()
        assert limiter.borrowed_tokens == 1
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()
        assert limiter.borrowed_tokens == 0

    async def test_what_waits_for_a_place_never_begins(self) -> None:
        release = threading.Event()
        limiter = anyio.CapacityLimiter(1)
        ran: list[int] = []
        first = asyncio.create_task(run_in_thread(release.wait, 10, limiter=limiter))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(run_in_thread(ran.append, 1, limiter=limiter))
        await asyncio.sleep(0.01)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        release.set()
        assert await first
        assert not ran

    async def test_cancelled_at_any_moment_it_ran_to_its_end_or_not_at_all(self) -> None:
        begun: list[int] = []
        ended: list[int] = []

        def work(number: int) -> None:
            begun.append(number)
            time.sleep(0.0005)
            ended.append(number)

        for number in range(200):
            task = asyncio.create_task(run_in_thread(work, number))
            for _ in range(number % 5):
                await asyncio.sleep(0)
            await asyncio.sleep((number % 7) * 0.0002)
            task.cancel()
            await asyncio.wait([task])
            assert begun == ended
        await asyncio.sleep(0.01)
        assert begun == ended
        assert ended
