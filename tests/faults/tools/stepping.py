"""Runs a call step by step: counts where the tasks of a loop wait and wake, and cancels the call at the chosen point.

On asyncio a task factory counts every suspension, every wake-up that is on its way, and every end of a task; on trio an
instrument counts the steps of all tasks. Counted are the tasks of the call, those that it starts (batches, threads), and
those beside it: so a call is cancelled not only at its own awaits, but at each moment of the work done for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import traceback
from asyncio import events
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from typing import Any, Literal

import anyio
import trio

from specstar.runtime import Gate
from specstar.runtime.home import AsyncioHome

__all__ = ["Attempt", "Way", "run_stepped"]

Way = Literal["task", "scope"]
"""How an asyncio caller is cancelled: once, by `Task.cancel`, or by an anyio scope, which keeps at it. Trio has scopes."""

_LIMIT_SECONDS = 30.0
_HAND_OVER_SECONDS = 0.1


class Attempt:
    """How a call went: `value` if it `finished`, `error`, or `cancelled`. `points` were counted while it ran."""

    def __init__(self) -> None:
        self.finished = False
        self.cancelled = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.points = 0
        self.fired = False

    def __repr__(self) -> str:
        if self.error is not None:
            return "".join(traceback.format_exception(self.error))
        state = "finished" if self.finished else "was cancelled" if self.cancelled else "never ended"
        return f"<{state} after {self.points} points{', told to stop' if self.fired else ''}: {self.value!r}>"


class _Points:
    """Counts; at number `at` it cancels, once."""

    def __init__(self, at: int | None, attempt: Attempt, pause: float) -> None:
        self.at = at
        self.pause = pause
        self.attempt = attempt
        self.cancel: Callable[[], object] | None = None

    def count(self, _: object = None) -> None:
        cancel = self.cancel  # taken away by another thread, maybe
        if cancel is None:
            return  # the call has not begun, or is over
        self.attempt.points += 1
        if self.attempt.points == self.at:
            self.attempt.fired = True
            if self.pause:
                time.sleep(self.pause)
            cancel()

    def factory(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.Task(_Stepped(coroutine, self), loop=loop, **options)


class _Stepped(Coroutine[Any, Any, Any]):
    """The coroutine of a task, counted at each step."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], points: _Points) -> None:
        self._coroutine = coroutine
        self._points = points

    def send(self, value: Any) -> Any:
        return self._step(self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        return self._step(self._coroutine.throw, *error)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise AssertionError("tasks step it")

    def __getattr__(self, name: str) -> Any:
        if name == "_coroutine":
            raise AttributeError(name)
        return getattr(self._coroutine, name)  # anyio looks whether it has begun

    def _step(self, step: Callable[..., Any], *arguments: Any) -> Any:
        try:
            waits_for = step(*arguments)
        finally:
            self._points.count()
        if waits_for is not None:
            # Before the task's own callback: it has been answered, and does not know yet.
            waits_for.add_done_callback(self._points.count)
        return waits_for


class _Instrument(trio.abc.Instrument):
    def __init__(self, points: _Points) -> None:
        self._points = points

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._points.count()


def _in_asyncio() -> bool:
    return events._get_running_loop() is not None


@contextlib.contextmanager
def _counting_here(points: _Points) -> Iterator[None]:
    if _in_asyncio():
        loop = asyncio.get_running_loop()
        before = loop.get_task_factory()
        loop.set_task_factory(points.factory)
        try:
            yield
        finally:
            loop.set_task_factory(before)
    else:
        instrument = _Instrument(points)
        trio.lowlevel.add_instrument(instrument)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(instrument)


@contextlib.contextmanager
def _counting_there(points: _Points, home: AsyncioHome) -> Iterator[None]:
    """Count on a home in another thread."""

    def set_factory(factory: Any) -> None:
        done = threading.Event()

        def there() -> None:
            home.loop.set_task_factory(factory)
            done.set()

        with contextlib.suppress(RuntimeError):  # the call has closed the loop
            home.loop.call_soon_threadsafe(there)
            while home.alive() and not done.wait(0.01):
                pass

    set_factory(points.factory)
    try:
        yield
    finally:
        set_factory(None)


def _from_there(cancel: Callable[[], object]) -> Callable[[], object]:
    """Cancel the caller on its own loop, while the home's loop stands still at the point."""
    told = threading.Event()
    if _in_asyncio():
        loop = asyncio.get_running_loop()

        def in_asyncio() -> None:
            cancel()
            loop.call_soon(loop.call_soon, told.set)  # once the caller has passed it on

        def tell() -> None:
            loop.call_soon_threadsafe(in_asyncio)
            told.wait(_HAND_OVER_SECONDS)

    else:
        token = trio.lowlevel.current_trio_token()

        def in_trio() -> None:
            cancel()
            told.set()

        def tell() -> None:
            token.run_sync_soon(in_trio)
            told.wait(_HAND_OVER_SECONDS)

    return tell


async def run_stepped(
    call: Callable[[], Awaitable[Any]],
    *,
    gate: Gate,
    at: int | None,
    way: Way,
    pause: float = 0.0,
    before: Callable[[], Coroutine[Any, Any, None]] | None = None,
    after: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> Attempt:
    """Run `call` and cancel it at point `at` (None: never), with `before` and `after` started just before and after it.

    The loop stands still for `pause` seconds before it cancels: its threads get on meanwhile. The points are those of the
    gate's home, wherever it runs. An error of the neighbours is raised.
    """
    attempt = Attempt()
    points = _Points(at, attempt, pause)
    home = gate.home
    away = home is not None and not home.is_current()
    edge = way == "task" and _in_asyncio()

    async def stepped() -> None:
        with anyio.CancelScope() as scope:
            task = asyncio.current_task() if edge else None
            cancel: Callable[[], object] = task.cancel if task is not None else scope.cancel
            points.cancel = _from_there(cancel) if away else cancel
            try:
                attempt.value = await call()
                attempt.finished = True
            except asyncio.CancelledError:
                if task is None:
                    raise
                task.uncancel()
            except Exception as error:
                attempt.error = error
            finally:
                points.cancel = None
        attempt.cancelled = not attempt.finished and attempt.error is None

    if away:
        assert isinstance(home, AsyncioHome)
        counting = _counting_there(points, home)
    else:
        counting = _counting_here(points)
    with counting, anyio.fail_after(_LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            if before is not None:
                group.start_soon(before)
            group.start_soon(stepped)
            if after is not None:
                group.start_soon(after)
    return attempt
