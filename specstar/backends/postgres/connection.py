"""The connection to one PostgreSQL server: runs statements on its pool and says how they ended."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg

from specstar.backends.postgres.dsn import lacks_root_certificate, parameters, server_name, unreadable_file
from specstar.backends.postgres.faults import is_bad_value, is_lost, is_misdirected, is_race, translate
from specstar.backends.postgres.hosts import connect
from specstar.backends.postgres.options import PostgresOptions
from specstar.backends.postgres.outcomes import AnswerLost, BadValue, ServerSession, WriteRace
from specstar.backends.postgres.pool import SessionPool, drop
from specstar.backends.postgres.session import Session, in_transaction
from specstar.errors import BackendError, ConfigError, SpecstarError
from specstar.runtime import Connection, PoolUse, ServerInfo

__all__ = ["PostgresConnection", "Row"]

logger: logging.Logger = logging.getLogger("specstar")

Row: TypeAlias = Any

_OLDEST = 14
_FILE_ERRORS = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
# Settings of the server have 31 bits.
_LONGEST_MILLISECONDS = 2**31 - 1
_NOBODY = ServerSession(None, None)
# How long a plan may be one for a table that has grown since.
_PLAN_SECONDS = 60
# Not the number that the driver was told at the start: PgBouncer makes that up.
_OWN_SESSION = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"


class PostgresConnection(Connection):
    """A pool of asyncpg connections, opened by `open`; the runtime that made it closes it.

    Waits: `acquire_timeout_seconds` for a turn, `connect_timeout_seconds` for a new connection, `command_timeout_seconds`
    for an answer. Every error is one of specstar's, except those of `attempt`.
    """

    def __init__(self, options: PostgresOptions) -> None:
        self.options = options
        self.where: str = server_name(options.dsn)
        self.pool: SessionPool = SessionPool(
            self.where,
            min_size=options.pool_min_size,
            max_size=options.pool_max_size,
            turn_seconds=options.acquire_timeout_seconds,
        )

    async def open(self) -> None:
        try:
            await self.pool.open(self._connect_arguments(), self._begin_session)
            async with self.session() as session:
                self._require(session)
            return
        except BaseException as error:
            self.pool.terminate()
            if isinstance(error, SpecstarError) or not isinstance(error, Exception):
                raise
            failure = error
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
            "connection_class": self.pool.session_class,
            "max_cached_statement_lifetime": _PLAN_SECONDS,
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
                "idle_in_transaction_session_timeout": str(_idle_milliseconds(options.command_timeout_seconds)),
            }
        given = parameters(options.dsn)
        arguments["server_settings"] = {name: value for name, value in settings.items() if name not in given}
        return arguments

    def _connect_error(self, error: Exception) -> SpecstarError:
        """To be raised outside of the `except` block: the driver quotes the part of a DSN that it stumbled over."""
        if isinstance(error, _FILE_ERRORS) and (name := unreadable_file(self.options.dsn)) is not None:
            return ConfigError(f"the file that {name} of the dsn of the postgres connection names cannot be read")
        if isinstance(error, ValueError) and not isinstance(error, OSError):
            if isinstance(error, asyncpg.ClientConfigurationError) and lacks_root_certificate(self.options.dsn):
                return ConfigError(
                    "sslmode of the dsn of the postgres connection has the server verified: name the root certificate with "
                    "sslrootcert, or put it where PostgreSQL looks for it (~/.postgresql/root.crt)"
                )
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
            row = await session.fetchrow(_OWN_SESSION)
            session.server_session = ServerSession(row[0], row[1]) if row is not None else _NOBODY

    @property
    def closing(self) -> bool:
        """True once closing has begun: nothing new is sent."""
        return self.pool.closing

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """A connection of the pool for the length of a block; given back in a state fit for the next one, or dropped."""
        session = await self._acquire()
        try:
            yield session
        except BaseException as error:
            await self.pool.give_back(session, error)
            raise
        await self.pool.give_back(session)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        """A connection in a transaction of its own. Driver errors are translated."""
        try:
            async with self.session() as session:
                try:
                    async with in_transaction(session):
                        yield session
                except Exception as error:
                    if is_misdirected(error):
                        self.leave(session)
                    raise
        except SpecstarError:
            raise
        except Exception as error:
            raise self.translated(error, "in a transaction") from error

    async def connect_alone(self) -> Session:
        """A connection outside the pool, for long background work; the caller terminates it."""
        try:
            return await connect(**self._connect_arguments())
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

    async def fetch_alone(self, sql: str, *args: Any, doing: str = "reading") -> list[Row]:
        """`fetch` for one caller only, which waits for its turn behind others of its kind, not before the batches."""
        async with self.pool.alone():
            return await self.fetch(sql, *args, doing=doing)

    async def attempt(self, sql: str, *args: Any, lock: str | None = None) -> list[Row]:
        """Run one writing statement once. `lock`: a statement before it in the same transaction, with the first argument.

        Raises `AnswerLost`, `WriteRace` or `BadValue`, or what the caller can only report, translated.
        """
        session = await self._acquire()
        served_by = _NOBODY
        try:
            served_by = session.server_session
            rows = await self._execute(session, sql, args, None, lock)
        except BaseException as error:
            if is_lost(error) or is_misdirected(error):
                self.leave(session)
            await self.pool.give_back(session, error)
            if isinstance(error, Exception):
                raise self._judged(error, served_by) from error
            raise
        if not self.pool.keep(session):
            await self.pool.give_back(session)
        return rows

    def leave(self, session: Session) -> None:
        """Use neither this connection again nor those laid aside."""
        drop(session)
        self.pool.distrust()

    def _judged(self, error: Exception, served_by: ServerSession) -> Exception:
        if is_lost(error):
            return AnswerLost(served_by, timed_out=isinstance(error, TimeoutError))
        if is_race(error):
            return WriteRace()
        return BadValue() if is_bad_value(error) else self.translated(error, "writing")

    async def _run(self, sql: str, args: tuple[Any, ...], timeout: float | None) -> list[Row]:
        session = await self._acquire()
        try:
            rows = await self._execute(session, sql, args, timeout)
        except BaseException as error:
            if isinstance(error, Exception) and is_lost(error):
                self.pool.distrust()
            await self.pool.give_back(session, error)
            raise
        if not self.pool.keep(session):
            await self.pool.give_back(session)
        return rows

    async def _execute(
        self, session: Session, sql: str, args: tuple[Any, ...], timeout: float | None, lock: str | None = None
    ) -> list[Row]:
        if not self.options.pgbouncer and lock is None:
            rows: list[Row] = await session.fetch(sql, *args, timeout=timeout)
            return rows
        async with in_transaction(session):
            if lock is not None:
                await session.fetch(lock, args[0], timeout=timeout)
            return list(await session.fetch(sql, *args, timeout=timeout))

    async def _acquire(self) -> Session:
        try:
            return await self.pool.acquire()
        except SpecstarError:
            raise
        except Exception as error:
            failure = error
        raise self._connect_error(failure)

    def translated(self, error: BaseException, doing: str) -> SpecstarError:
        """The error of specstar for a driver's."""
        return translate(error, doing=doing, where=self.where, timeout=self.options.command_timeout_seconds)

    def silence(self, lost: AnswerLost | None, size: int | None = None) -> str:
        """That the server gave no answer, and within which limit; `size`: how many bytes had to get there in it."""
        if lost is None or not lost.timed_out:
            return f"{self.where} did not answer"
        limit = f"{self.options.command_timeout_seconds:g} s (command_timeout_seconds)"
        return f"{self.where} did not answer within {limit}" + (f" to a statement of {size:,} bytes" if size else "")

    async def ping(self) -> ServerInfo:
        rows = await self.fetch("SELECT current_setting('server_version'), current_database()", doing="check")
        version, database = rows[0]
        return ServerInfo(version=f"PostgreSQL {version}", detail=f"database {database}, {self.pool.usage()}")

    def use(self) -> PoolUse:
        return self.pool.use()

    async def aclose(self) -> None:
        await self.pool.aclose()

    def abandon(self) -> None:
        self.pool.abandon()


def _idle_milliseconds(command_seconds: float) -> int:
    """How long a transaction may say nothing: longer than any statement of ours."""
    return int(min(command_seconds * 2000 + 1000, _LONGEST_MILLISECONDS))
