"""What the job tests share: workers that run beside a test, and waiting with a bound."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import msgspec

from specstar import SpecStar
from specstar.message_queue import DeadJob, JobQueue, WorkerStop

__all__ = ["Mail", "Receipt", "dead_jobs", "eventually", "eventually_gives", "workers"]

T = TypeVar("T")
P = TypeVar("P")


class Mail(msgspec.Struct):
    """A payload."""

    to: str = "nobody@example.org"
    number: int = 0


class Receipt(msgspec.Struct):
    """A result."""

    to: str
    number: int


@asynccontextmanager
async def workers(spec: SpecStar, *, concurrency: int = 10, **options: Any) -> AsyncIterator[WorkerStop]:
    """Run the workers of `spec` while the block runs; they are stopped, and drain, at its end."""
    stop = WorkerStop()

    async def run() -> None:
        await spec.run_workers(concurrency=concurrency, stop=stop, handle_signals=False, **options)

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        try:
            yield stop
        finally:
            if not stop.calls:
                stop.set()


async def eventually(condition: Callable[[], Any], *, within: float = 20.0) -> None:
    """Wait until the condition holds."""

    async def holds() -> Any:
        return condition()

    await eventually_gives(holds, within=within)


async def eventually_gives(look: Callable[[], Awaitable[T]], *, within: float = 20.0) -> T:
    """Look again and again until the answer is true, and return it."""
    with anyio.fail_after(within):
        answer = await look()
        while not answer:
            await anyio.sleep(0.01)
            answer = await look()
    return answer


async def dead_jobs(queue: JobQueue[P], count: int = 1) -> list[DeadJob[P]]:
    """The dead letters of a queue, once there are `count`."""

    async def look() -> list[DeadJob[P]]:
        found = await queue.list_dead()
        return found if len(found) >= count else []

    return await eventually_gives(look)
