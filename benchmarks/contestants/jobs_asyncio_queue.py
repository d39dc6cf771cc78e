"""`asyncio.Queue` and as many consumers as specstar's worker has: nothing kept, nothing retried."""

from __future__ import annotations

import asyncio
import time

from benchmarks.contestant import Contestant, Sample

__all__ = ["AsyncioQueue"]

_CONSUMERS = 200


class AsyncioQueue(Contestant):
    """What a program without any library does."""

    async def measure_through(self, callers: int, seconds: float) -> Sample:
        """Jobs a second from the first `put` to the last handler."""
        total: int = self.setting["jobs"]
        queue: asyncio.Queue[int] = asyncio.Queue(1000)
        numbers = iter(range(total))

        async def handler(number: int) -> None:
            """Does nothing."""

        async def produce() -> None:
            for number in numbers:
                await queue.put(number)

        async def consume() -> None:
            while True:
                await handler(await queue.get())
                queue.task_done()

        consumers = [asyncio.create_task(consume()) for _ in range(_CONSUMERS)]
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(produce())
        await queue.join()
        elapsed = time.perf_counter() - started
        for consumer in consumers:
            consumer.cancel()
        return {"value": total / elapsed, "calls": total}
