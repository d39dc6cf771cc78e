"""Calls that block a thread without an event loop, and coroutines that run in it."""

from __future__ import annotations

from asyncio import events
from collections.abc import Awaitable, Coroutine
from typing import Any, Protocol, TypeVar, cast

from specstar.errors import UsageError
from specstar.runtime.trio_home import in_trio

__all__ = ["Movable", "on_a_loop", "refuse_on_a_loop", "run_here"]

R = TypeVar("R")


class Movable(Protocol):
    """The owner of coroutines that may run on the caller's own loop, or in its thread, while it says so."""

    def _runs_anywhere(self) -> bool: ...


def run_here(portable_call: Awaitable[R]) -> R:
    """Run a coroutine that never suspends in a thread without a loop: it blocks the thread instead."""
    coroutine = cast("Coroutine[Any, Any, R]", portable_call)
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: R = end.value
        return result
    coroutine.close()
    raise RuntimeError("a portable method suspended in a thread without a loop")


def on_a_loop() -> bool:
    """True inside a running event loop, which a blocking call would stop."""
    return events._get_running_loop() is not None or in_trio()


def refuse_on_a_loop() -> None:
    """Raise `UsageError` inside a running event loop."""
    if not on_a_loop():
        return
    kind = "trio" if in_trio() else "asyncio"
    raise UsageError(
        f"a blocking specstar call inside a running {kind} event loop would stop that loop; "
        "use `from specstar import spec` and `await` there (a notebook has a running loop too: await works in its cells)"
    )
