"""Blocking work in a thread, which its caller never leaves behind.

`anyio.to_thread.run_sync` waits for the thread when a scope of anyio or trio is cancelled. `Task.cancel()` of asyncio it obeys
at once: the thread goes on, and uses files and buffers that the caller believes to be its own again.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from asyncio import events
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar, TypeVarTuple

import anyio
import anyio.to_thread

from specstar.runtime.cleanup import wait_shielded

__all__ = ["run_in_thread"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _Ticket:
    """Whether the thread has begun and ended, agreed on between it and a caller that was cancelled."""

    __slots__ = ("_begun", "_left", "_lock", "_loop", "_over", "_taken_back")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = self._over = self._taken_back = False
        self._left: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()

    def begin(self) -> bool:
        """In the thread: False if the caller has taken the work back."""
        with self._lock:
            self._begun = True
            return not self._taken_back

    def end(self) -> None:
        """In the thread."""
        with self._lock:
            self._over = True
            left = self._left
        if left is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(_wake, left)

    async def give_back(self) -> None:
        """By the caller: take work back that has not begun, and wait for the end of work that has."""
        with self._lock:
            if not self._begun:
                self._taken_back = True
            if self._taken_back or self._over:
                return
            left = self._left = self._loop.create_future()
        await wait_shielded(left)


def _wake(left: asyncio.Future[None]) -> None:
    if not left.done():
        left.set_result(None)


async def run_in_thread(
    function: Callable[[*Ts], T], *arguments: *Ts, limiter: anyio.CapacityLimiter | None = None
) -> T:
    """Call `function` in a thread. Cancelled, it raises only once the thread is done with it, or if it never began.

    The result of a cancelled call may be lost: what must be released, the function itself hands to whoever releases it.
    """
    if events._get_running_loop() is None:  # trio waits by itself
        return await anyio.to_thread.run_sync(function, *arguments, limiter=limiter)
    ticket = _Ticket()

    def work() -> T:
        if not ticket.begin():
            raise asyncio.CancelledError  # nobody waits
        try:
            return function(*arguments)
        finally:
            ticket.end()

    room: Any = _Room(limiter or anyio.to_thread.current_default_thread_limiter(), ticket)
    return await anyio.to_thread.run_sync(work, limiter=room)


class _Room:
    """A place of a limiter, kept until the thread is over."""

    __slots__ = ("_limiter", "_ticket")

    def __init__(self, limiter: anyio.CapacityLimiter, ticket: _Ticket) -> None:
        self._limiter = limiter
        self._ticket = ticket

    async def __aenter__(self) -> None:
        await self._limiter.__aenter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if isinstance(exc, asyncio.CancelledError):
                await self._ticket.give_back()
        finally:
            await self._limiter.__aexit__(exc_type, exc, traceback)
