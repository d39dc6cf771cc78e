"""From the home loop to the loop of a caller: the gate's crossing, the other way round."""

from __future__ import annotations

from asyncio import events
from collections.abc import Awaitable, Callable
from typing import TypeVar

from specstar.runtime.gate import _cross_from_asyncio, _cross_from_trio
from specstar.runtime.home import AsyncioHome, Home, TrioHome

__all__ = ["cross_to", "home_of_caller"]

R = TypeVar("R")


def home_of_caller() -> Home:
    """The running loop as a home, for work that comes to it from another loop."""
    loop = events._get_running_loop()
    return TrioHome() if loop is None else AsyncioHome(loop)


async def cross_to(home: Home, function: Callable[[], Awaitable[R]]) -> R:
    """Run `function` on that loop and wait for it here. Cancelling cancels it there, and waits until it is over."""
    if home.is_current():
        return await function()
    if events._get_running_loop() is not None:
        return await _cross_from_asyncio(home, function)
    return await _cross_from_trio(home, function)
