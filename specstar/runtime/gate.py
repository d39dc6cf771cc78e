"""The gate: every public coroutine enters here and runs on the home loop, whoever calls it and from where."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import threading
import weakref
from asyncio import events
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from specstar.errors import BackendUnavailable, UsageError
from specstar.runtime.connections import Connections
from specstar.runtime.home import AsyncioHome, Home, Outcome, TrioHome
from specstar.runtime.thread_home import ThreadHome

__all__ = ["Gate", "Gated", "gated"]

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Gated")
logger = logging.getLogger("specstar")


class Gated(Protocol):
    """A class whose public coroutines enter through a gate."""

    @property
    def _gate(self) -> Gate: ...


def gated(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Run the coroutine method on the home loop of `self._gate`."""

    @functools.wraps(method)
    async def entry(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        gate = self._gate
        if gate.home is not None and gate.home.is_current():
            return await method(self, *args, **kwargs)
        return await gate.cross(functools.partial(method, self, *args, **kwargs))

    return entry


class Gate:
    """Holds the home and the connections of one configured spec, and moves calls to that home.

    The home is chosen by the first call: the caller's own loop on asyncio; on trio too, if every backend is `native`
    (needs no asyncio driver); else an asyncio loop in a background thread. When the home's loop is gone, the next call
    chooses again, and connections are opened anew; what is portable (memory) stays.
    """

    def __init__(self) -> None:
        self.home: Home | None = None
        self.connections = Connections()
        self.native = True
        self.generation = 0
        self.close_timeout = 10.0
        self._lock = threading.RLock()
        self._pid = os.getpid()
        _gates.add(self)

    def settle(self, *, blocking: bool = False) -> Home:
        """The live home; chosen now if there is none, or if its loop is gone. `blocking`: the caller has no loop."""
        with self._lock:
            home = self.home
            if home is not None:
                if home.is_current() or home.alive():
                    return home
                logger.info("the event loop of the connections is gone: connecting anew")
                self._drop()
            self.home = self._choose(blocking)
            return self.home

    def _choose(self, blocking: bool) -> Home:
        if not blocking:
            loop = events._get_running_loop()
            if loop is not None:
                return AsyncioHome(loop)
            if self.native:
                return TrioHome()
        return ThreadHome.start()

    def _drop(self) -> None:
        """Forget home and connections without their loop."""
        home, self.home = self.home, None
        self.connections = self.connections.abandon()
        self.generation += 1
        if isinstance(home, ThreadHome):
            home.stop()

    async def cross(self, function: Callable[[], Awaitable[R]]) -> R:
        """Run `function` on the home loop and wait for it here, on another loop. Cancelling waits until it is over."""
        home = self.settle()
        if home.is_current():
            return await function()
        if events._get_running_loop() is not None:
            return await _cross_from_asyncio(home, function)
        return await _cross_from_trio(home, function)

    def call(self, function: Callable[[], Awaitable[R]]) -> R:
        """Run `function` on the home loop and block this thread until it is done.

        Raises `UsageError` inside a running event loop, where blocking would stop the very loop that must do the work.
        """
        _refuse_on_a_loop()
        home = self.settle(blocking=True)
        ready = threading.Event()
        outcomes: list[Outcome[R]] = []

        def done(outcome: Outcome[R]) -> None:
            outcomes.append(outcome)
            ready.set()

        cancel = _submit(home, function, done)
        try:
            while not ready.wait(1.0):
                if not home.alive() and not ready.is_set():
                    raise BackendUnavailable("the event loop of the connections stopped while the call was in flight")
        except BaseException:
            # Ctrl-C: take the work back, and give it a moment to end cleanly.
            cancel()
            ready.wait(self.close_timeout)
            raise
        outcome = outcomes[0]
        if outcome.cancelled:
            raise BackendUnavailable("the call was cancelled: specstar is closing")
        return outcome.unwrap()

    async def aclose(self) -> None:
        """Close everything that is open, within `close_timeout` seconds a connection. Callable from anywhere."""
        home = self.home
        if home is None:
            return
        if not home.is_current() and not home.alive():
            with self._lock:
                self._drop()
            return
        if home.is_current():
            await self._close_here(home)
        elif events._get_running_loop() is not None:
            await _cross_from_asyncio(home, functools.partial(self._close_here, home))
        else:
            await _cross_from_trio(home, functools.partial(self._close_here, home))
        self._forget(home)

    def close(self) -> None:
        """Close everything from a thread without a loop."""
        home = self.home
        if home is None:
            return
        if not home.alive():
            with self._lock:
                self._drop()
            return
        self.call(functools.partial(self._close_here, home))
        self._forget(home)

    async def _close_here(self, home: Home) -> None:
        home.closing = True
        connections, self.connections = self.connections, Connections()
        try:
            await connections.aclose(self.close_timeout)
        finally:
            await home.cancel_tasks(self.close_timeout)

    def _forget(self, home: Home) -> None:
        with self._lock:
            if self.home is home:
                self.home = None
                self.generation += 1
        if isinstance(home, ThreadHome):
            home.stop()

    def after_fork(self) -> None:
        """In a forked child: nothing that the parent opened may be used or closed with a goodbye."""
        self._lock = threading.RLock()
        self.home = None
        self.generation += 1
        self.connections = self.connections.abandon()


def _refuse_on_a_loop() -> None:
    in_trio = False
    if events._get_running_loop() is None:
        import sys

        trio = sys.modules.get("trio")
        in_trio = trio is not None and trio.lowlevel.in_trio_run()
        if not in_trio:
            return
    kind = "trio" if in_trio else "asyncio"
    raise UsageError(
        f"a blocking specstar call inside a running {kind} event loop would stop that loop; "
        "use `from specstar import spec` and `await` there (a notebook has a running loop too: await works in its cells)"
    )


def _submit(home: Home, function: Callable[[], Awaitable[R]], done: Callable[[Outcome[R]], None]) -> Callable[[], None]:
    try:
        return home.submit(function, done)
    except RuntimeError as error:
        raise BackendUnavailable("the event loop of the connections is gone; call again") from error


async def _cross_from_asyncio(home: Home, function: Callable[[], Awaitable[R]]) -> R:
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[Outcome[R]] = loop.create_future()

    def arrive(outcome: Outcome[R]) -> None:
        if not arrived.done():
            arrived.set_result(outcome)

    def done(outcome: Outcome[R]) -> None:
        try:
            loop.call_soon_threadsafe(arrive, outcome)
        except RuntimeError:
            return  # the caller's loop is closed: nobody waits

    cancel = _submit(home, function, done)
    cancelled: asyncio.CancelledError | None = None
    while not arrived.done():
        try:
            await asyncio.shield(arrived)
        except asyncio.CancelledError as error:
            if arrived.cancelled():
                raise
            cancelled = error
            cancel()
    outcome = arrived.result()
    if cancelled is not None:
        raise cancelled
    if outcome.cancelled:
        raise BackendUnavailable("the call was cancelled: specstar is closing")
    return outcome.unwrap()


async def _cross_from_trio(home: Home, function: Callable[[], Awaitable[R]]) -> R:
    import outcome as outcomes
    import trio

    task = trio.lowlevel.current_task()
    token = trio.lowlevel.current_trio_token()
    raise_cancel: Callable[[], Any] | None = None

    def done(result: Outcome[R]) -> None:
        def arrive() -> None:
            if result.cancelled and raise_cancel is not None:
                trio.lowlevel.reschedule(task, outcomes.capture(raise_cancel))
            else:
                trio.lowlevel.reschedule(task, outcomes.Value(result))

        try:
            token.run_sync_soon(arrive)
        except trio.RunFinishedError:
            return

    cancel = _submit(home, function, done)

    def abort(raise_it: Callable[[], Any]) -> trio.lowlevel.Abort:
        nonlocal raise_cancel
        raise_cancel = raise_it
        cancel()
        return trio.lowlevel.Abort.FAILED  # wait until the work over there is truly over

    result: Outcome[R] = await trio.lowlevel.wait_task_rescheduled(abort)
    if result.cancelled:
        raise BackendUnavailable("the call was cancelled: specstar is closing")
    return result.unwrap()


_gates: weakref.WeakSet[Gate] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for gate in list(_gates):
        gate.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
