"""How a public coroutine enters: through the gate to the home loop, or, where it may, on the loop of its caller."""

from __future__ import annotations

import functools
from asyncio import events
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from specstar.runtime.blocking import Movable
from specstar.runtime.crossing import NotStarted
from specstar.runtime.gate import Gate
from specstar.runtime.interrupts import uninterrupted
from specstar.runtime.trio_home import in_trio

__all__ = ["Gated", "Portable", "gated", "portable"]

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Gated")


class Gated(Protocol):
    """A class whose public coroutines enter through a gate."""

    @property
    def _gate(self) -> Gate: ...


def gated(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Run the coroutine method on the home loop of `self._gate`."""

    @uninterrupted
    @functools.wraps(method)
    async def entry(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        home = self._gate.home
        if home is not None and home.is_current():
            return await method(self, *args, **kwargs)
        return await self._gate.cross(functools.partial(method, self, *args, **kwargs))

    return entry


class Portable(Gated, Movable, Protocol):
    """A class some of whose coroutines may run where they were called."""


A = TypeVar("A", bound=Portable)


def portable(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[A, P], Coroutine[Any, Any, R]]:
    """`gated` for a coroutine method that awaits batchers alone while `self._runs_anywhere()`: these send what they are given
    to the home loop by themselves, which costs less than a task there.
    """

    @uninterrupted
    @functools.wraps(method)
    async def entry(self: A, /, *args: P.args, **kwargs: P.kwargs) -> R:
        home = self._gate.home
        if home is not None:
            if home.is_current():
                return await method(self, *args, **kwargs)
            if self._runs_anywhere():
                try:
                    return await method(self, *args, **kwargs)
                except NotStarted:
                    if events._get_running_loop() is None and not in_trio():
                        raise  # `Gate.call` chooses the next home
        return await self._gate.cross(functools.partial(method, self, *args, **kwargs))

    return entry
