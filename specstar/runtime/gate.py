"""The gate: calls go through it to the home loop, whoever makes them and from where."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import warnings
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import TypeVar

import anyio

from specstar.errors import BackendUnavailable, OutcomeUnknownError, UsageError
from specstar.runtime.blocking import Movable, refuse_on_a_loop, run_here
from specstar.runtime.closing import HURRIED_SECONDS, End, close_in_order
from specstar.runtime.connections import Connections
from specstar.runtime.counts import Batches
from specstar.runtime.crossing import NotStarted, block_on, choose_home, reach
from specstar.runtime.home import Home
from specstar.runtime.interrupts import uninterrupted
from specstar.runtime.process import join, keep_for_good, stay_if_exiting
from specstar.runtime.thread_home import ThreadHome
from specstar.runtime.trio_home import TrioHome

__all__ = ["Gate", "inside_worker"]

R = TypeVar("R")
inside_worker: ContextVar[object] = ContextVar("specstar-inside-worker", default=None)
"""The one of `Gate.workers` that the running code is part of."""
logger: logging.Logger = logging.getLogger("specstar")
_SENDINGS = 3
# How often a caller looks whether what another one ends is over.
_POLL_SECONDS = 0.005
_THREAD_END_SECONDS = 5.0
# What a closer on another loop hears of a loop that ended, or cancelled all, before the closing was over: then the rest is
# dropped, and all is closed.
_LOOP_ENDED = (BackendUnavailable, OutcomeUnknownError)


class Gate:
    """Holds the home and the connections of one configured spec, and moves calls to that home.

    The home is chosen by the first call: the caller's own loop on asyncio; on trio too, if every backend is `native`
    (needs no asyncio driver); else an asyncio loop in a background thread. When the home's loop is gone, the next call
    chooses again, and connections are opened anew; what is portable (memory) stays.
    """

    def __init__(self) -> None:
        self.home: Home | None = None
        self.connections: Connections = Connections()
        self.batches: Batches = Batches()
        """Of all homes that this gate has had."""
        self.native: bool = True
        self.generation: int = 0
        self.close_timeout: float = 10.0
        self.workers: dict[object, End] = {}
        """What ends in good order first, on the home loop, while everything else still works. By its owner."""
        self.sendings: dict[object, End] = {}
        """What ends next, while the connections are open."""
        self._lock = threading.RLock()
        self._refusal: str | None = None
        self._held_home: Home | None = None
        self._left_open: list[str] = []
        join(self)

    def settle(self, *, blocking: bool = False) -> Home:
        """The live home; chosen now if there is none, or if its loop is gone. `blocking`: the caller has no loop.

        Raises `UsageError` after `refuse`.
        """
        home = self.home
        if home is not None and (home.is_current() or home.alive()):
            return home
        with self._lock:
            if self._refusal is not None:
                raise UsageError(self._refusal)
            home = self.home
            if home is not None:
                if home.is_current() or home.alive():
                    return home
                logger.info("the event loop of the connections is gone: connecting anew")
                self._drop()
            home = choose_home(native=self.native, blocking=blocking)
            home.batches = self.batches
            home.at_end(_Ending(self, home))
            self.home = home
            return home

    def renew(self, *, native: bool) -> None:
        """Begin a new generation for a new configuration; nothing may be open."""
        with self._lock:
            home = self.home or self._held_home
            self.home = self._held_home = self._refusal = None
            self.connections.abandon()  # one that is being opened drops itself
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
            self._held_home, self.home = self.home or self._held_home, None

    def admit(self) -> None:
        """Take `refuse` back."""
        with self._lock:
            self._refusal = None
            if self._held_home is not None:
                self.home, self._held_home = self._held_home, None

    def _drop(self) -> None:
        """Forget home and connections without their loop."""
        home = self.home or self._held_home
        self.home = self._held_home = None
        self.generation += 1
        self._forget_owners()  # ended with the loop, or will see that it is not theirs any more
        if isinstance(home, ThreadHome):
            home.stop()  # first: nothing may use the connections any more
        self.connections = self.connections.abandon()
        if home is not None:
            home.not_at_end()
            if not home.alive():
                home.lose_calls()

    @uninterrupted
    async def run(self, function: Callable[[], Awaitable[R]]) -> R:
        """Run `function` on the home loop: here, if this is it."""
        home = self.home
        if home is not None and home.is_current():
            return await function()
        return await self.cross(function)

    @uninterrupted
    async def cross(self, function: Callable[[], Awaitable[R]]) -> R:
        """Run `function` on the home loop and wait for it here, on another loop. Cancelling waits until it is over.

        Raises `OutcomeUnknownError` if the home's loop ends while the call is under way.
        """
        sendings = 0
        while True:
            home = self.settle()
            if home.is_current():
                return await function()
            try:
                return await reach(home, function)
            except NotStarted:
                sendings += 1
                if sendings == _SENDINGS:
                    raise
                self._gone(home)
                while self._is_ending(home):  # noqa: ASYNC110  on another loop
                    await anyio.sleep(_POLL_SECONDS)

    def call(self, function: Callable[[], Awaitable[R]], owner: Movable | None = None) -> R:
        """Run `function` on the home loop and block this thread until it is done. A `portable` method of `owner` runs here
        while it can, and blocks where it sends something.

        Raises `UsageError` inside a running event loop, where blocking would stop the very loop that must do the work, and
        `OutcomeUnknownError` if the home's loop ends while the call is under way.
        """
        refuse_on_a_loop()
        sendings = 0
        while True:
            stay_if_exiting()
            home = self.settle(blocking=True)
            try:
                if owner is not None and owner._runs_anywhere():
                    return run_here(function())
                return block_on(home, function)
            except NotStarted:
                sendings += 1
                if sendings == _SENDINGS:
                    raise
                self._gone(home)
                while self._is_ending(home):
                    time.sleep(_POLL_SECONDS)
            except Exception:
                stay_if_exiting()
                raise

    def _gone(self, home: Home) -> None:
        """A home took a call no more: the next call chooses another."""
        with self._lock:
            if self.home is home and not home.closing:
                self._drop()

    def _is_ending(self, home: Home) -> bool:
        """True while `loop_ends` closes what this home has open: bounded, and then the next home is chosen."""
        return self.home is home and home.ending and home.alive()

    @uninterrupted
    async def aclose(self, *, hurried: bool = False) -> None:
        """Close everything that is open, within `close_timeout` seconds a connection. Callable from anywhere.

        Cancelled, it drops what is still open; called by a job handler, it goes on without it instead. `hurried`: the
        program was interrupted and must end within two seconds.
        """
        while (home := self._begin_closing()) is None:
            if not self._is_claimed():
                return
            await self.until_closed()
        with self._closing(home, hurried) as close:
            await (close() if home.is_current() else reach(home, close))
        if isinstance(home, ThreadHome):
            with anyio.move_on_after(_THREAD_END_SECONDS, shield=True):
                while home.thread.is_alive():  # noqa: ASYNC110  a thread sets no event when it is truly gone
                    await anyio.sleep(0.001)

    async def until_closed(self) -> None:
        """Wait while another caller closes."""
        # Maybe on another loop, where no event of this one could be set.
        while self._is_claimed():  # noqa: ASYNC110
            await anyio.sleep(_POLL_SECONDS)

    def wait_closed(self) -> None:
        """The same in a thread without a loop."""
        while self._is_claimed():
            time.sleep(_POLL_SECONDS)

    def _is_claimed(self) -> bool:
        """True while someone closes, on a loop that lives."""
        home = self.home or self._held_home
        return home is not None and home.claimed and (home.is_current() or home.alive())

    def close(self, *, hurried: bool = False) -> None:
        """Close everything from a thread without a loop. Otherwise like `aclose`."""
        if self.home is None and self._held_home is None:
            return
        refuse_on_a_loop()
        while (home := self._begin_closing()) is None:
            if not self._is_claimed():
                return
            self.wait_closed()
        with self._closing(home, hurried) as close:
            block_on(home, close)
        if isinstance(home, ThreadHome):
            home.thread.join(_THREAD_END_SECONDS)

    def _begin_closing(self) -> Home | None:
        """The live home, for the one caller that closes it; None: there is nothing (more) to close."""
        with self._lock:
            home = self.home or self._held_home
            if home is None:
                return None
            if not home.is_current() and not home.alive():
                self._drop()
                return None
            if home.claimed:
                return None
            home.claimed = True
            return home

    @contextlib.contextmanager
    def _closing(self, home: Home, hurried: bool) -> Iterator[End]:
        began = False

        async def close() -> None:
            nonlocal began
            began = True
            await self._close_here(home, hurried)

        try:
            yield close
        except _LOOP_ENDED:
            self._forget(home)
        finally:
            if not began:
                home.claimed = False  # cancelled on the way there: the next caller closes

    @property
    def in_worker(self) -> bool:
        """True in a handler, whose worker ends before the connections are closed."""
        return inside_worker.get() in self.workers

    async def _close_here(self, home: Home, hurried: bool) -> None:
        if self.in_worker:
            # A handler closes its own spec, and is cancelled when its worker ends: that must not end the closing.
            home.spawn(self._close_all, home, hurried)
            await self.until_closed()
        else:
            await self._close_all(home, hurried)

    async def _close_all(self, home: Home, hurried: bool) -> None:
        try:
            await close_in_order(
                home,
                self.connections,
                workers=self.workers,
                sendings=self.sendings,
                limit=self.close_timeout,
                hurried=hurried,
            )
        finally:
            self._forget(home)

    def _forget_owners(self) -> None:
        self.workers.clear()
        self.sendings.clear()

    async def loop_ends(self, home: Home) -> None:
        """The loop of the home is about to end, and nobody has closed: do it now. The next call may come on another loop."""
        with self._lock:
            if self.home is not home:
                return
            closes = home.claimed
            home.claimed = home.closing = home.ending = True
            self._left_open = [] if closes else self._unclosed()
        if closes:
            await home.cancel_tasks(HURRIED_SECONDS)  # a closing that goes on by itself
            return
        connections = self.connections
        heirs = Connections()
        try:
            heirs = await connections.leave(HURRIED_SECONDS / max(1, len(self._left_open)))
        finally:
            try:
                await home.cancel_tasks(HURRIED_SECONDS)
            finally:
                with self._lock:
                    if self.home is home:
                        self.home = None
                        self.connections = heirs
                        self.generation += 1

    def _unclosed(self) -> list[str]:
        return [lazy.name for lazy in self.connections.opened() if not lazy.portable]

    def _forget(self, home: Home) -> None:
        home.not_at_end()
        with self._lock:
            self._left_open = []
            if self.home is home or self._held_home is home:
                self.home = self._held_home = None
                self._forget_owners()
                self.connections.abandon()
                self.connections = Connections()
                self.generation += 1
        if isinstance(home, ThreadHome):
            home.stop(0)

    def after_fork(self) -> None:
        """In a forked child: nothing that the parent opened may be used or closed with a goodbye."""
        self._lock = threading.RLock()
        keep_for_good(self.home, self._held_home)
        self.home = self._held_home = None
        self._left_open = []
        self._forget_owners()
        self.generation += 1
        self.connections = self.connections.abandon()

    def end(self) -> None:
        """The program ends, or the owner is gone: drop what is open, and say so if it holds anything of the system's."""
        unclosed = self._unclosed() or self._left_open
        self._left_open = []
        try:
            if unclosed:
                names = ", ".join(unclosed)
                message = f"specstar was not closed (open: {names}); use `async with spec:` or `await spec.aclose()`"
                warnings.warn(message, ResourceWarning, stacklevel=2)
        finally:
            with self._lock:
                self._drop()

    def __del__(self) -> None:
        if any(getattr(self, name, None) for name in ("home", "_held_home", "_left_open")):
            self.end()


class _Ending:
    """What a home calls at the end of its loop; it does not keep the gate alive."""

    def __init__(self, gate: Gate, home: Home) -> None:
        self._gate = weakref.ref(gate)
        self._home = weakref.ref(home)

    async def __call__(self) -> None:
        gate, home = self._gate(), self._home()
        if gate is not None and home is not None:
            await gate.loop_ends(home)
