"""The gate: every public coroutine enters here and runs on the home loop, whoever calls it and from where."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import logging
import os
import threading
import warnings
import weakref
from asyncio import events
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import anyio

from specstar.errors import BackendUnavailable, UsageError
from specstar.runtime.connections import Connections
from specstar.runtime.home import AsyncioHome, Home, Outcome, TrioHome, in_trio
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
        self._refusal: str | None = None
        self._held_home: Home | None = None
        _gates.add(self)

    def settle(self, *, blocking: bool = False) -> Home:
        """The live home; chosen now if there is none, or if its loop is gone. `blocking`: the caller has no loop."""
        with self._lock:
            if self._refusal is not None:
                raise UsageError(self._refusal)
            home = self.home
            if home is not None:
                if home.is_current() or home.alive():
                    return home
                logger.info("the event loop of the connections is gone: connecting anew")
                self._drop()
            self.home = self._choose(blocking)
            return self.home

    def renew(self, *, native: bool) -> None:
        """Begin a new generation for a new configuration; nothing may be open."""
        with self._lock:
            home, self.home = self.home, None
            self.connections = Connections()
            self.generation += 1
            self.native = native
        if isinstance(home, ThreadHome):
            home.stop()

    def require_asyncio(self) -> None:
        """A backend with an asyncio driver has joined: a home on trio will not do any more."""
        with self._lock:
            self.native = False
            if isinstance(self.home, TrioHome):
                self._drop()

    def refuse(self, message: str) -> None:
        """Answer every call with `UsageError(message)` until `admit`."""
        with self._lock:
            self._refusal = message
            self._held_home, self.home = self.home, None

    def admit(self) -> None:
        """Take `refuse` back."""
        with self._lock:
            self._refusal = None
            if self._held_home is not None:
                self.home, self._held_home = self._held_home, None

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

    async def run(self, function: Callable[[], Awaitable[R]]) -> R:
        """Run `function` on the home loop: here, if this is it."""
        if self.home is not None and self.home.is_current():
            return await function()
        return await self.cross(function)

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
        self.home = self._held_home = None
        self.generation += 1
        self.connections = self.connections.abandon()

    def end(self) -> None:
        """The program ends, or the owner is gone: drop what is open, and say so if it holds anything of the system's."""
        unclosed = [lazy.name for lazy in self.connections.opened() if not lazy.portable]
        if unclosed:
            names = ", ".join(unclosed)
            message = f"specstar was not closed (open: {names}); use `async with spec:` or `await spec.aclose()`"
            warnings.warn(message, ResourceWarning, stacklevel=2)
        with self._lock:
            self._drop()

    def __del__(self) -> None:
        if getattr(self, "home", None) is not None:
            self.end()


def _refuse_on_a_loop() -> None:
    if events._get_running_loop() is None and not in_trio():
        return
    kind = "trio" if in_trio() else "asyncio"
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
    try:
        await asyncio.shield(arrived)
    except asyncio.CancelledError as error:
        cancelled = error
        cancel()
        # In a shielded scope anyio does not cancel again and again while the work over there ends.
        with anyio.CancelScope(shield=True):
            while not arrived.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.shield(arrived)
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


def _at_exit() -> None:
    for gate in list(_gates):
        gate.end()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
