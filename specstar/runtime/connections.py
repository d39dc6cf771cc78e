"""Connections of a runtime: opened on first use, once, whoever races; shared by equal settings; closed in reverse order."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from asyncio import events
from collections.abc import Callable, Hashable
from typing import Any, ClassVar, Generic, TypeVar

import anyio
from msgspec import Struct

from specstar.errors import BackendUnavailable, twin_of

__all__ = ["Connection", "Connections", "LazyConnection", "PoolUse", "ServerInfo"]

logger: logging.Logger = logging.getLogger("specstar")


class ServerInfo(Struct, frozen=True, kw_only=True):
    """What a backend says of itself: its version, and anything worth showing in `check()`. Never a secret."""

    version: str
    detail: str = ""


class PoolUse(Struct, frozen=True, kw_only=True):
    """A pool's connections: how many are in use, of how many at most; how many calls wait for one, and how many have had one."""

    in_use: int
    limit: int
    waiting: int
    taken: int


class Connection(ABC):
    """A pool, client or folder that several stores share. Made closed; belongs to one home loop once opened.

    `portable` connections hold no resource of their loop (memory): they outlive it and serve the next one too.
    """

    portable: ClassVar[bool] = False

    @abstractmethod
    async def open(self) -> None:
        """Connect, within the configured timeout. On error or cancellation, leave nothing open.

        Raises `BackendUnavailable`, `BackendError`, `MissingDependencyError` or `ConfigError`.
        """

    @abstractmethod
    async def ping(self) -> ServerInfo:
        """Ask the server for its version, within the configured timeout."""

    def use(self) -> PoolUse | None:
        """The state of its pool now, from any thread; None if it has none."""
        return None

    @abstractmethod
    async def aclose(self) -> None:
        """Close: let what is in flight finish. The caller bounds the time and cancels; then `abandon` follows."""

    @abstractmethod
    def abandon(self) -> None:
        """Drop everything at once without the loop: it is gone, or this is a forked child. Must not touch the peer's state.

        In a forked child sockets are closed without a goodbye, so that the parent's session on them lives on.
        """


C = TypeVar("C", bound=Connection)


class LazyConnection(Generic[C]):
    """A connection that opens on first use."""

    def __init__(self, make: Callable[[], C], name: str) -> None:
        self.name = name
        self._make = make
        self._opened: C | None = None
        self._lock: tuple[object, anyio.Lock] | None = None
        # How many attempts have begun; whether the last one is under way, or has failed while others waited for it.
        self._attempts = 0
        self._opening = False
        self._failed: tuple[int, Exception] | None = None
        self._closed = False
        self._on_open: Callable[[LazyConnection[C]], None] | None = None

    @property
    def opened(self) -> C | None:
        """The connection if it is open, for hot paths: `c = lazy.opened or await lazy.get()`."""
        return self._opened

    @property
    def portable(self) -> bool:
        """True if it is open and holds nothing of its loop or of the system."""
        return self._opened is not None and self._opened.portable

    async def get(self) -> C:
        """The open connection. Raises what `Connection.open` raises; the next call tries again.

        Those who wait for an attempt get its error: one after another, each would wait for those of all before it.
        """
        if self._opened is not None:
            return self._opened
        lock = self._lock_here()
        awaited = self._attempts if self._opening else self._attempts + 1
        async with lock:
            if self._closed:
                raise BackendUnavailable(f"{self.name}: the connection is closed")
            if self._opened is None:
                failed = self._failed
                if not lock.statistics().tasks_waiting:
                    self._failed = None
                if failed is not None and failed[0] >= awaited:
                    raise twin_of(failed[1])
                connection = await self._open_new(lock)
                if self._closed:  # closed while it opened
                    connection.abandon()
                    raise BackendUnavailable(f"{self.name}: the connection is closed")
                self._opened = connection
                if self._on_open is not None:
                    self._on_open(self)
            return self._opened

    async def _open_new(self, lock: anyio.Lock) -> C:
        self._attempts += 1
        self._opening = True
        try:
            connection = self._make()
            await connection.open()
        except Exception as error:
            if lock.statistics().tasks_waiting:
                self._failed = self._attempts, error
            raise
        finally:
            self._opening = False
        return connection

    def _lock_here(self) -> anyio.Lock:
        """The lock of those who open it on this loop: one that has ended may have left waiters that nobody can wake."""
        loop: object = events._get_running_loop()
        if loop is None:
            import trio

            loop = trio.lowlevel.current_trio_token()
        if self._lock is None or self._lock[0] is not loop:
            self._lock = loop, anyio.Lock()
        return self._lock[1]

    async def aclose(self, timeout: float) -> None:
        """Close within `timeout` seconds: ask, wait, then drop. Cancelled by asyncio itself, drop at once."""
        self._closed = True
        connection, self._opened = self._opened, None
        if connection is None:
            return
        finished = False
        try:
            with anyio.move_on_after(timeout, shield=True):
                await connection.aclose()
                finished = True
            if not finished:
                logger.warning("closing %s took more than %g s: dropped", self.name, timeout)
        except Exception as error:
            logger.warning("closing %s failed, dropped: %s", self.name, error)
        finally:
            if not finished:
                self._drop(connection)

    def abandon(self) -> C | None:
        """Drop the connection without its loop; a portable one is returned alive instead."""
        self._closed = True
        connection, self._opened = self._opened, None
        if connection is None or connection.portable:
            return connection
        self._drop(connection)
        return None

    def _drop(self, connection: C) -> None:
        try:
            connection.abandon()
        except Exception as error:
            logger.debug("dropping %s: %s", self.name, error)


class Connections:
    """All connections of one runtime, by their key (type and connection options)."""

    def __init__(self) -> None:
        self._by_key: dict[Hashable, LazyConnection[Any]] = {}
        self._order: list[LazyConnection[Any]] = []
        self._carried: dict[Hashable, Connection] = {}
        self._closed = False

    def share(self, key: Hashable, make: Callable[[], C], name: str) -> LazyConnection[C]:
        """The connection of this key, made by `make` when first used. Raises `BackendUnavailable` while all are closed."""
        lazy = self._by_key.get(key)
        if lazy is None:
            if self._closed:
                raise BackendUnavailable(f"{name}: specstar is closing; call again")
            carried = self._carried.get(key)
            chosen: Callable[[], Any] = make if carried is None else lambda: carried
            lazy = LazyConnection(chosen, name)
            lazy._on_open = self._order.append
            self._by_key[key] = lazy
        return lazy

    def opened(self) -> list[LazyConnection[Any]]:
        """Those that are open, in the order in which they opened."""
        return [lazy for lazy in self._order if lazy.opened is not None]

    async def aclose(self, timeout: float) -> None:
        """Close all in reverse order of opening, each within `timeout` seconds. Cancelled, `abandon` does the rest."""
        self._closed = True
        for lazy in reversed(self._order):
            await lazy.aclose(timeout)
        for lazy in self._by_key.values():
            await lazy.aclose(timeout)

    async def leave(self, timeout: float) -> Connections:
        """Like `abandon`, before the loop is gone: what is not portable is closed in order, within `timeout` seconds each."""
        try:
            for lazy in reversed(self._order):
                if not lazy.portable:
                    await lazy.aclose(timeout)
        finally:
            self._closed = True
            heirs = self.abandon()
        return heirs

    def abandon(self) -> Connections:
        """Drop all without their loop; returns the connections of the next runtime, with the portable ones in it."""
        heirs = Connections()
        heirs._carried.update(self._carried)
        for key, lazy in self._by_key.items():
            survivor = lazy.abandon()
            if survivor is not None:
                heirs._carried[key] = survivor
        return heirs
