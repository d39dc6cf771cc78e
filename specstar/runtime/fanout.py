"""The same work for many items, a bounded number at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

__all__ = ["for_each"]

T = TypeVar("T")
R = TypeVar("R")


async def for_each(items: Sequence[T], work: Callable[[T], Awaitable[R]], *, at_once: int) -> list[R]:
    """The results in the order of the items. The first error cancels the rest, waits for it, and is raised."""
    if len(items) <= 1:
        return [await work(item) for item in items]
    results: list[Any] = [None] * len(items)
    todo = iter(range(len(items)))

    async def worker() -> None:
        for index in todo:
            results[index] = await work(items[index])

    tasks = [asyncio.ensure_future(worker()) for _ in range(min(at_once, len(items)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return results
