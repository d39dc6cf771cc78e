"""The pool of connections to one PostgreSQL server, with a deadline on every wait."""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlsplit

import asyncpg

from specstar.backends.postgres.faults import is_bad_value, is_lost, is_race, translate
from specstar.backends.postgres.options import PostgresOptions
from specstar.backends.postgres.outcomes import AnswerLost, BadValue, ServerSession, Unsent, WriteRace
from specstar.backends.postgres.session import Session
from specstar.errors import BackendError, BackendUnavailable, ConfigError, SpecstarError
from specstar.runtime import Connection, ServerInfo

__all__ = ["PostgresConnection", "Row"]

logger = logging.getLogger("specstar")

Row: TypeAlias = Any

_RELEASE_SECONDS = 1.0
_IDLE_SECONDS = 300.0
_OLDEST = 14
_OWN_SESSION = "SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
# What a forked child inherited: kept for good, because the destructors would reach into the parent's event loop.
_inherited: list[Any] = []


class PostgresConnection(Connection):
    """A pool of asyncpg connections, opened by `open`; the runtime that made it closes it.

    Waits: `acquire_timeout_seconds` for a turn, `connect_timeout_seconds` for a new connection, `command_timeout_seconds`
    for an answer. Every error is one of specstar's, except those of `attempt`.
    """

    def __init__(self, options: PostgresOptions) -> None:
        self.options = options
        self.where = _server_name(options.dsn)
        self._pool: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._turns = asyncio.Semaphore(options.pool_max_size)
        self._waiting = 0
        self.closing = False
        sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._sessions = sessions

        class TrackedSession(Session):
            """A session that is known from its first moment, so that a fork at any time can let go of it."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                sessions.add(self)

        self._session_class = TrackedSession

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        options = self.options
        create_pool: Any = asyncpg.create_pool
        pool = create_pool(
            min_size=options.pool_min_size,
            max_size=options.pool_max_size,
            max_queries=1_000_000,
            max_inactive_connection_lifetime=_IDLE_SECONDS,
            init=self._begin_session,
            **self._connect_arguments(),
        )
        try:
            await pool
            self._pool = pool
            async with self.session() as session:
                self._require(session)
        except BaseException as error:
            self._pool = None
            pool.terminate()
            if isinstance(error, SpecstarError) or not isinstance(error, Exception):
                raise
            failure = error
        else:
            return
        raise self._connect_error(failure)

    def _require(self, session: Session) -> None:
        """Numbers need the infinity of `numeric`, new in 14; text needs every character, in the order of code points."""
        version = session.get_server_version()
        if version.major < _OLDEST:
            raise BackendError(
                f"{self.where} is version {version.major}; {_OLDEST} or later is needed", backend="postgres"
            )
        encoding = getattr(session.get_settings(), "server_encoding", "UTF8")
        if encoding != "UTF8":
            raise BackendError(
                f"{self.where} has the encoding {encoding}; create a database with ENCODING 'UTF8'", backend="postgres"
            )

    def _connect_arguments(self) -> dict[str, Any]:
        options = self.options
        arguments: dict[str, Any] = {
            "dsn": options.dsn,
            "timeout": options.connect_timeout_seconds,
            "command_timeout": options.command_timeout_seconds,
            "connection_class": self._session_class,
        }
        if options.pgbouncer:
            # PgBouncer refuses most start-up parameters, and statements prepared on one server are unknown to the next.
            arguments["statement_cache_size"] = 0
            settings = {"application_name": "specstar"}
        else:
            settings = {
                "application_name": "specstar",
                "jit": "off",
                "default_transaction_isolation": "read committed",
                "idle_in_transaction_session_timeout": f"{int(options.command_timeout_seconds * 2000) + 1000}",
            }
        given = {name for name, _ in parse_qsl(urlsplit(options.dsn).query)}
        arguments["server_settings"] = {name: value for name, value in settings.items() if name not in given}
        return arguments

    def _connect_error(self, error: Exception) -> SpecstarError:
        """To be raised outside of the `except` block: the driver quotes the part of a DSN that it stumbled over."""
        if isinstance(error, ValueError) and not isinstance(error, OSError):
            return ConfigError(
                "the dsn of the postgres connection cannot be parsed: check host, port and parameters, and percent-encode "
                "reserved characters in user and password"
            )
        limit = self.options.connect_timeout_seconds
        translated = translate(error, doing="connecting", where=self.where, timeout=limit)
        translated.__cause__ = error
        return translated

    async def _begin_session(self, session: Session) -> None:
        if not self.options.pgbouncer:
            session.started = await session.fetchval(_OWN_SESSION)

    @property
    def can_fence(self) -> bool:
        """True if a server process of ours can be found and ended: not behind PgBouncer, which shares them."""
        return not self.options.pgbouncer

    def usage(self) -> str:
        """The state of the pool in words, for errors and checks."""
        pool = self._pool
        size = pool.get_size() if pool is not None else 0
        busy = size - pool.get_idle_size() if pool is not None else 0
        return f"pool of {self.options.pool_max_size}: {size} open, {busy} in use, {self._waiting} calls waiting"

    @property
    def size(self) -> int:
        """The number of open connections."""
        return int(self._pool.get_size()) if self._pool is not None else 0

    @property
    def idle(self) -> int:
        """The number of open connections that nobody uses."""
        return int(self._pool.get_idle_size()) if self._pool is not None else 0

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """A connection of the pool for the length of a block; given back in a state fit for the next one, or dropped."""
        session = await self._acquire()
        try:
            yield session
        finally:
            await self._release(session)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        """A connection in a transaction of its own. Driver errors are translated."""
        try:
            async with self.session() as session, session.transaction(isolation="read_committed"):
                yield session
        except SpecstarError:
            raise
        except Exception as error:
            raise self.translated(error, "in a transaction") from error

    async def connect_alone(self) -> Session:
        """A connection outside the pool, for long background work; the caller terminates it."""
        try:
            session: Session = await asyncpg.connect(**self._connect_arguments())
            return session
        except Exception as error:
            failure = error
        raise self._connect_error(failure)

    async def fetch(self, sql: str, *args: Any, doing: str = "reading", timeout: float | None = None) -> list[Row]:
        """Run a statement that changes nothing; once more on a new connection if the first one was broken."""
        for last in (False, True):
            try:
                return await self._run(sql, args, timeout)
            except SpecstarError:
                raise
            except Exception as error:
                if last or isinstance(error, TimeoutError) or not is_lost(error):
                    raise self.translated(error, doing) from error
                logger.info("postgres: reading again on another connection: %s", type(error).__name__)
        raise AssertionError

    async def attempt(self, sql: str, *args: Any) -> list[Row]:
        """Run one writing statement once.

        Raises `AnswerLost`, `Unsent`, `WriteRace` or `BadValue`, or what the caller can only report, translated.
        """
        session = await self._acquire()
        try:
            if session.is_closed():
                raise Unsent
            served_by: ServerSession = session.server_session
            try:
                return await self._execute(session, sql, args, None)
            except Exception as error:
                if is_lost(error):
                    _drop(session)
                    raise AnswerLost(served_by, timed_out=isinstance(error, TimeoutError)) from error
                if is_race(error):
                    raise WriteRace from error
                if is_bad_value(error):
                    raise BadValue from error
                raise self.translated(error, "writing") from error
        finally:
            await self._release(session)

    async def _run(self, sql: str, args: tuple[Any, ...], timeout: float | None) -> list[Row]:
        session = await self._acquire()
        try:
            return await self._execute(session, sql, args, timeout)
        finally:
            await self._release(session)

    async def _execute(self, session: Session, sql: str, args: tuple[Any, ...], timeout: float | None) -> list[Row]:
        if not self.options.pgbouncer:
            rows: list[Row] = await session.fetch(sql, *args, timeout=timeout)
            return rows
        async with session.transaction(isolation="read_committed"):
            return list(await session.fetch(sql, *args, timeout=timeout))

    async def _acquire(self) -> Session:
        """A connection, after at most the time for a turn plus the time to connect."""
        turns = self._turns
        if turns.locked():
            await self._wait_for_turn()
        else:
            await turns.acquire()
        try:
            if self.closing or self._pool is None:
                raise BackendUnavailable("the connection pool is closed", backend="postgres")
            session: Session = await self._pool.acquire()
            return session
        except BaseException as error:
            turns.release()
            if isinstance(error, SpecstarError) or not isinstance(error, Exception):
                raise
            failure = error
        raise self._connect_error(failure)

    async def _wait_for_turn(self) -> None:
        limit = self.options.acquire_timeout_seconds
        self._waiting += 1
        try:
            async with asyncio.timeout(limit):
                await self._turns.acquire()
        except TimeoutError as error:
            raise BackendUnavailable(
                f"no free connection to {self.where} within {limit:g} s ({self.usage()}); raise pool_max_size, or retry",
                backend="postgres",
            ) from error
        finally:
            self._waiting -= 1

    async def _release(self, session: Session) -> None:
        try:
            if self._pool is None:
                _drop(session)
            else:
                await self._pool.release(session, timeout=_RELEASE_SECONDS)
        except Exception as error:
            logger.debug("postgres: a connection was dropped instead of given back: %s", type(error).__name__)
        finally:
            self._turns.release()

    def translated(self, error: BaseException, doing: str) -> SpecstarError:
        """The error of specstar for a driver's."""
        return translate(error, doing=doing, where=self.where, timeout=self.options.command_timeout_seconds)

    async def ping(self) -> ServerInfo:
        rows = await self.fetch("SELECT current_setting('server_version'), current_database()", doing="check")
        version, database = rows[0]
        return ServerInfo(version=f"PostgreSQL {version}", detail=f"database {database}, {self.usage()}")

    async def aclose(self) -> None:
        self.closing = True
        if self._pool is not None:
            await self._pool.close()
            self._pool = None

    def abandon(self) -> None:
        self.closing = True
        pool, self._pool = self._pool, None
        sessions = list(self._sessions)
        forked = os.getpid() != self._pid
        if not forked and self._loop is not None and _running_loop() is self._loop:
            for session in sessions:
                session.terminate()
            if pool is not None:
                pool.terminate()
            return
        if forked:
            _inherited.append((pool, sessions, self._loop))
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            for session in sessions:
                session.let_go(null)
        finally:
            os.close(null)


def _drop(session: Session) -> None:
    # A session whose socket broke may have left the pool by itself already.
    with suppress(asyncpg.InterfaceError):
        session.terminate()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _server_name(dsn: str) -> str:
    """Host, port and database of a DSN: what an error may show."""
    authority, _, path = dsn.partition("://")[2].partition("?")[0].partition("/")
    host = authority.rpartition("@")[2] or "the local socket"
    return f"PostgreSQL at {host}/{path}" if path else f"PostgreSQL at {host}"
