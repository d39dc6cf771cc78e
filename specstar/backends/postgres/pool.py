"""The pool: asyncpg's, with fair turns, a deadline on every wait, and a short way back for connections that are clean."""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from asyncio import events
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import asyncpg

from specstar.backends.postgres.hosts import connect
from specstar.backends.postgres.session import Session
from specstar.errors import BackendUnavailable
from specstar.runtime import PoolUse

__all__ = ["SessionPool", "drop"]

logger: logging.Logger = logging.getLogger("specstar")

_RELEASE_SECONDS = 1.0
_IDLE_SECONDS = 300.0
_WORTH_OPENING = 16
# The driver forgets a statement that is cancelled while it is prepared; its server process keeps it, some 70 KiB, till it ends.
_MOST_INTERRUPTIONS = 100
# What a forked child inherited: kept for good, because the destructors would reach into the parent's event loop.
_inherited: list[Any] = []


class _Kept(NamedTuple):
    session: Session
    since: float


class SessionPool:
    """Connections of one event loop. Whoever takes one with `acquire` ends with `keep` or `give_back`.

    asyncpg's own release makes a task each time; a connection that is idle, outside a transaction and unharmed needs none
    of what it does, so `keep` lays it aside for the next caller. Everything else goes back by asyncpg's way.
    """

    def __init__(self, where: str, *, min_size: int, max_size: int, turn_seconds: float) -> None:
        self._where = where
        self._min_size = min_size
        self._max_size = max_size
        self._turn_seconds = turn_seconds
        self._pool: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._turns = asyncio.Semaphore(max_size)
        self._alone = asyncio.Semaphore(max_size)
        self._kept: deque[_Kept] = deque()
        self._sweep: asyncio.TimerHandle | None = None
        self._busy = 0
        self._waiting = 0
        self._taken = 0
        self.closing: bool = False
        sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._sessions = sessions

        class TrackedSession(Session):
            """A session that is known from its first moment, so that a fork at any time can let go of it."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                sessions.add(self)

        self.session_class: type[Session] = TrackedSession

    async def open(self, arguments: dict[str, Any], begin: Callable[[Session], Awaitable[None]]) -> None:
        """Open the first connection, or as many as are always kept. Raises what the driver raises."""
        self._loop = asyncio.get_running_loop()
        create_pool: Any = asyncpg.create_pool
        pool = create_pool(
            min_size=self._min_size,
            max_size=self._max_size,
            max_queries=1_000_000,
            max_inactive_connection_lifetime=_IDLE_SECONDS,
            connect=connect,
            init=begin,
            **arguments,
        )
        try:
            await pool
        except BaseException:
            pool.terminate()
            raise
        self._pool = pool

    @property
    def size(self) -> int:
        """The number of open connections."""
        return int(self._pool.get_size()) if self._pool is not None else 0

    @property
    def busy(self) -> int:
        """The number of connections in use."""
        return self._busy

    def at_once(self, statements: int, most: int) -> int:
        """How many of these statements of one call go side by side: on connections that are open and free, or on new ones if it
        is worth the ten round trips that one takes.
        """
        return most if statements >= _WORTH_OPENING else max(1, min(most, len(self._kept)))

    def use(self) -> PoolUse:
        """The state of the pool in numbers."""
        return PoolUse(in_use=self._busy, limit=self._max_size, waiting=self._waiting, taken=self._taken)

    def usage(self) -> str:
        """The state of the pool in words."""
        return f"pool of {self._max_size}: {self.size} open, {self._busy} in use, {self._waiting} calls waiting"

    async def acquire(self) -> Session:
        """A connection. Raises `BackendUnavailable` if no turn comes in time, and what the driver raises on connecting."""
        await self._take_turn(self._turns)
        self._busy += 1
        self._taken += 1
        try:
            if self.closing or self._pool is None:
                raise BackendUnavailable("the connection pool is closed", backend="postgres")
            while self._kept:
                session = self._kept.pop().session
                if _is_alive(session):
                    return session
                drop(session)
            fresh: Session = await self._pool.acquire()
            while fresh.interruptions >= _MOST_INTERRUPTIONS:  # of those laid aside none has so many
                drop(fresh)
                fresh = await self._pool.acquire()
        except BaseException:
            self._end_turn()
            raise
        return fresh

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """For a call that serves one caller only: at most as many as there are connections compete with the batches.

        A batch serves many callers, and few are under way: it must not stand in one row with thousands of single calls.
        Raises `BackendUnavailable` if no turn comes in time. Not to be nested.
        """
        await self._take_turn(self._alone)
        try:
            yield
        finally:
            self._alone.release()

    async def _take_turn(self, turns: asyncio.Semaphore) -> None:
        if not turns.locked():
            await turns.acquire()
            return
        self._waiting += 1
        try:
            async with asyncio.timeout(self._turn_seconds):
                await turns.acquire()
        except TimeoutError as error:
            raise BackendUnavailable(
                f"no free connection to {self._where} within {self._turn_seconds:g} s ({self.usage()}); "
                "raise pool_max_size, or retry",
                backend="postgres",
            ) from error
        finally:
            self._waiting -= 1

    def keep(self, session: Session) -> bool:
        """Take back a connection whose last statement ended well. False: it is not clean, so `give_back` must follow."""
        if self.closing or not _is_alive(session) or session.is_in_transaction():
            return False
        assert self._loop is not None
        self._kept.append(_Kept(session, self._loop.time()))
        if self._sweep is None:
            self._sweep = self._loop.call_later(_IDLE_SECONDS, self._sweep_idle)
        self._end_turn()
        return True

    def distrust(self) -> None:
        """Close what was laid aside: one connection broke or fell silent, and the others may have with it, unnoticed."""
        while self._kept:
            drop(self._kept.pop().session)

    async def give_back(self, session: Session, error: BaseException | None = None) -> None:
        """Take back a connection in any state, after this error: a statement that was cancelled is ended on the server, or it
        is dropped.
        """
        if isinstance(error, asyncio.CancelledError | TimeoutError) and _is_alive(session):
            session.interrupted()
        try:
            if self._pool is None:
                drop(session)
            else:
                await self._pool.release(session, timeout=_RELEASE_SECONDS)
        except Exception as failure:
            logger.debug("postgres: a connection was dropped instead of given back: %s", type(failure).__name__)
        finally:
            self._end_turn()

    def _end_turn(self) -> None:
        self._busy -= 1
        self._turns.release()

    def _sweep_idle(self) -> None:
        """Close what nobody needed for a while, beyond the connections that are always kept."""
        self._sweep = None
        if self._loop is None or self.closing:
            return
        oldest = self._loop.time() - _IDLE_SECONDS
        while self._kept and self._kept[0].since <= oldest and self.size > self._min_size:
            drop(self._kept.popleft().session)
        if self._kept:
            self._sweep = self._loop.call_later(_IDLE_SECONDS / 5, self._sweep_idle)

    async def aclose(self) -> None:
        """Wait for connections in use, then close all with a goodbye."""
        self._stop()
        if self._pool is None:
            return
        while self._kept:
            session = self._kept.pop().session
            with suppress(Exception):
                await self._pool.release(session, timeout=_RELEASE_SECONDS)
        await self._pool.close()
        self._pool = None

    def terminate(self) -> None:
        """Close all sockets at once; of this event loop, on it."""
        self._stop()
        pool, self._pool = self._pool, None
        self._kept.clear()
        for session in list(self._sessions):
            session.terminate()
        if pool is not None:
            pool.terminate()

    def abandon(self) -> None:
        """The same without the event loop: it is gone, or this is a forked child."""
        forked = os.getpid() != self._pid
        if not forked and self._loop is not None and events._get_running_loop() is self._loop:
            self.terminate()
            return
        self.closing = True
        pool, self._pool = self._pool, None
        sessions = list(self._sessions)
        if forked:
            _inherited.append((pool, sessions, self._kept, self._sweep, self._loop))
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            for session in sessions:
                session.let_go(null)
        finally:
            os.close(null)

    def _stop(self) -> None:
        self.closing = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None


def _is_alive(session: Session) -> bool:
    # The proxy of a connection that left the pool by itself refuses every call.
    try:
        return not session.is_closed()
    except asyncpg.InterfaceError:
        return False


def drop(session: Session) -> None:
    """Close a connection at once and let the pool know; it may have left the pool by itself already."""
    with suppress(asyncpg.InterfaceError):
        session.terminate()
