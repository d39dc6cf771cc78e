"""What the job tests share: workers that run beside a test, and waiting with a bound."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec

from specstar import SpecStar
from specstar.message_queue import WorkerStop

__all__ = ["Mail", "Receipt", "eventually", "workers"]


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
            stop.set()


async def eventually(condition: Callable[[], Any], *, within: float = 20.0) -> None:
    """Wait until the condition holds."""
    with anyio.fail_after(within):
        while not condition():
            await anyio.sleep(0.01)
