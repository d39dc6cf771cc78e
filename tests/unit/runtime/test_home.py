"""How calls end with their loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from specstar.runtime.home import AsyncioHome, Outcome


@asynccontextmanager
async def held() -> AsyncIterator[None]:
    yield


def test_a_call_whose_generators_the_loop_closed_before_it_is_cancelled_counts_as_cancelled() -> None:
    async def short() -> Outcome[None]:
        loop = asyncio.get_running_loop()
        begun, told = asyncio.Event(), loop.create_future()

        async def work() -> None:
            async with held():
                begun.set()
                await asyncio.sleep(60)

        call = AsyncioHome(loop).submit(work, told.set_result)
        await begun.wait()
        # A loop that ends does so, and the home cancels what has come to it after the loop had cancelled its tasks.
        await loop.shutdown_asyncgens()
        call.cancel()
        outcome: Outcome[None] = await told
        return outcome

    outcome = asyncio.run(short())
    assert (outcome.cancelled, outcome.error) == (True, None)
