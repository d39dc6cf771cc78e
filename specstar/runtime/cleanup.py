"""Clean-up, and waiting, that goes on to its end, whatever cancels its caller."""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

__all__ = ["clean_up", "wait_shielded"]


async def clean_up(function: Callable[[], Awaitable[object]], *, seconds: float) -> None:
    """Run `function` to its end, at most `seconds`; a cancellation of the caller is raised afterwards.

    A shielded scope alone will not do: `Task.cancel()` of asyncio goes through it, and what had not begun never would.
    """
    loop = events._get_running_loop()
    if loop is None:
        await _bounded(function, seconds)
        return
    task = loop.create_task(_bounded(function, seconds))
    cancelled = await wait_shielded(task)
    if cancelled is None:
        task.result()
        return
    raise cancelled from None if task.cancelled() else task.exception()


async def wait_shielded(future: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until it is done, whatever cancels its waiter; returns the cancellation for the waiter to raise. On asyncio."""
    cancelled: asyncio.CancelledError | None = None
    # `Task.cancel()` comes through the scope; without it, anyio would cancel again and again.
    with anyio.CancelScope(shield=True):
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as error:
                cancelled = error
    return cancelled


async def _bounded(function: Callable[[], Awaitable[object]], seconds: float) -> None:
    with anyio.move_on_after(seconds, shield=True):
        await function()
