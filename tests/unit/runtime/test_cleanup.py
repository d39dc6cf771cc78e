"""`clean_up`: it ends, however its caller is cancelled."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from specstar.runtime import clean_up


async def _slow(steps: list[int]) -> None:
    for step in range(5):
        await anyio.sleep(0.001)
        steps.append(step)


async def test_it_ends_in_a_scope_that_is_cancelled() -> None:
    steps: list[int] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        await clean_up(lambda: _slow(steps), seconds=10)
    assert steps == [0, 1, 2, 3, 4]


async def test_its_time_is_bounded_and_its_error_is_raised() -> None:
    await clean_up(anyio.sleep_forever, seconds=0.01)

    async def fails() -> None:
        await anyio.sleep(0)
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        await clean_up(fails, seconds=10)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestTaskCancel:
    """`Task.cancel()`, from which no scope shields."""

    @pytest.mark.parametrize("turns", range(5))
    async def test_it_ends_and_the_cancellation_is_raised_afterwards(self, turns: int) -> None:
        steps: list[int] = []
        task = asyncio.create_task(clean_up(lambda: _slow(steps), seconds=10))
        for _ in range(turns + 1):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert steps == [0, 1, 2, 3, 4]

    async def test_the_error_of_the_clean_up_is_the_cause_of_the_cancellation(self) -> None:
        async def fails() -> None:
            await anyio.sleep(0.01)
            raise OSError("disk")

        task = asyncio.create_task(clean_up(fails, seconds=10))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert isinstance(caught.value.__cause__, OSError)
