"""Clean-up that ends, whatever cancels its caller."""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import Awaitable, Callable

import anyio

__all__ = ["clean_up"]


async def clean_up(function: Callable[[], Awaitable[object]], *, seconds: float) -> None:
    """Run `function` to its end, at most `seconds`; a cancellation of the caller is raised afterwards.

    A shielded scope alone will not do: `Task.cancel()` of asyncio goes through it, and what had not begun never would.
    """
    loop = events._get_running_loop()
    if loop is None:
        await _bounded(function, seconds)
        return
    task = loop.create_task(_bounded(function, seconds))
    cancelled: asyncio.CancelledError | None = None
    # Shielded all the same: anyio cancels again and again.
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is None:
        task.result()
        return
    raise cancelled from None if task.cancelled() else task.exception()


async def _bounded(function: Callable[[], Awaitable[object]], seconds: float) -> None:
    with anyio.move_on_after(seconds, shield=True):
        await function()
