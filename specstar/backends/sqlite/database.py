"""One SQLite database: a file, memory, or bytes that came from elsewhere. Reads and writes it, and sees to its log."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import apsw

from specstar.backends.sqlite import opening
from specstar.backends.sqlite.faults import is_fatal, translate
from specstar.backends.sqlite.forks import working
from specstar.errors import BackendUnavailable, OutcomeUnknownError, SpecstarError

__all__ = ["Database", "Joined", "Operation"]

_STATEMENTS = 300


class Operation(Protocol):
    """A piece of work for `Database.write` or `Database.read`.

    A write that raises a `SpecstarError` must not have changed anything before.
    """

    def run(self, database: Database) -> Any:
        """Do it; what is returned is the caller's result."""


class Joined(ABC):
    """Operations that run as one, for speed."""

    __slots__ = ()

    @abstractmethod
    def run(self, database: Database) -> list[Any]:
        """Do them all; one entry for each: its result, or its own error."""


class _RetryOneByOne(Exception):
    """One operation of a batch failed in an unforeseen way."""


class Database:
    """A connection with the schema of specstar in it. Used by one thread at a time; it does not care which.

    `name` stands for it in errors. Raises `SchemaVersionError` for a foreign, newer or damaged database, which is left as
    it is; `OutcomeUnknownError` for a commit that the disk may or may not have kept; `BackendError` and `BackendUnavailable`
    for the rest.
    """

    def __init__(self, connection: apsw.Connection, name: str) -> None:
        self.connection = connection
        self.name = name
        self.prepared: set[str] = set()
        """What statements have made for this connection alone, by names of their own."""
        self._cursor = connection.cursor()
        self._lock = threading.Lock()
        self._busy_ms = 0
        self._interrupted = False

    @classmethod
    def open_file(
        cls,
        path: str,
        *,
        busy_timeout: float,
        read_only: bool = False,
        cache_bytes: int = 32 << 20,
        mmap_bytes: int = 0,
    ) -> Database:
        """Open a database file in WAL mode; made if it is not there. A `read_only` one must be there.

        A commit is durable when it returns (`synchronous=FULL`). `busy_timeout` in seconds. What is mapped (`mmap_bytes`)
        is read without a system call, but an error of the disk there is a SIGBUS.
        """
        opening.check_engine()
        with _translated(path):
            flags = apsw.SQLITE_OPEN_READWRITE | (0 if read_only else apsw.SQLITE_OPEN_CREATE)
            connection = apsw.Connection(path, flags=flags, statementcachesize=_STATEMENTS)
            database = cls(connection, path)
            try:
                database._busy_ms = int(busy_timeout * 1000)
                connection.set_busy_timeout(database._busy_ms)
                opening.settle(connection, cache_bytes=cache_bytes, mmap_bytes=mmap_bytes)
                if read_only:
                    opening.check_schema(connection, path)
                    database.execute("PRAGMA query_only=1")
                else:
                    opening.prepare_file(connection, path, busy_timeout)
            except BaseException:
                connection.close()
                raise
        return database

    @classmethod
    def in_memory(cls, name: str = "memory", *, page_size: int = opening.PAGE_SIZE) -> Database:
        """A new, empty database in memory."""
        with _translated(name):
            database = cls(apsw.Connection(":memory:", statementcachesize=_STATEMENTS), name)
            opening.settle(database.connection)
            opening.create_schema(database.connection, name, page_size=page_size)
        return database

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Database:
        """A private database in memory with the content that `serialize` gave."""
        with _translated(name):
            connection = apsw.Connection(":memory:", statementcachesize=_STATEMENTS)
            database = cls(connection, name)
            try:
                connection.deserialize("main", data)
                opening.settle(connection)
                opening.prepare_copy(connection, name)
            except BaseException:
                connection.close()
                raise
        return database

    def serialize(self) -> bytes:
        """The whole database as the bytes of a SQLite file. Only for databases in memory: a file's WAL is not in it."""
        with _translated(self.name):
            return self.connection.serialize("main")

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Run one statement; all its rows. The statement is prepared once and kept."""
        return self._cursor.execute(sql, values).fetchall()

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run one statement for each row of values."""
        self._cursor.executemany(sql, rows)

    def changes(self) -> int:
        """How many rows the last statement changed."""
        return self.connection.changes()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A write transaction; rolled back on any error. Errors of SQLite are translated."""
        with _translated(self.name), self._held():
            self.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._commit()
            finally:
                self._rollback()

    def _commit(self) -> None:
        try:
            self.execute("COMMIT")
        except apsw.IOError as error:
            self._take_back(error)
            raise

    def _take_back(self, error: apsw.IOError) -> None:
        """After a commit that failed, see that nobody takes it for made. Raises `OutcomeUnknownError` if that fails too."""
        # The log may hold the whole transaction, which whoever opens the file next would take for committed.
        self._rollback()
        if not self._write_over():
            raise OutcomeUnknownError(
                f"{self.name}: the disk reported an error at the end of a commit ({error}): it may be there when the database "
                "is opened again; check the disk (dmesg, smartctl) and read before repeating"
            ) from error

    def _write_over(self) -> bool:
        """Commit nothing, in the place of a commit that failed; False if that fails too."""
        try:
            self.execute("BEGIN IMMEDIATE")
            try:
                self.execute(f"PRAGMA user_version={opening.SCHEMA_VERSION}")
                self.execute("COMMIT")
            finally:
                self._rollback()
        except apsw.Error:
            return False
        return True

    def write(
        self,
        operations: Sequence[Operation],
        *,
        join: Callable[[Sequence[Operation]], Iterable[Operation | Joined]] | None = None,
        at_once: Operation | None = None,
    ) -> list[Any]:
        """Run operations in one transaction; one entry each: its result, or its own error. Raises if nothing was written.

        `join` puts together what runs faster as one; what fails then in an unforeseen way is done again one by one.
        `at_once` does all of them in one statement, outside of a transaction; it is tried first.
        """
        if at_once is not None and (results := self._write_at_once(at_once)) is not None:
            return results
        try:
            return self._write(operations if join is None else join(operations), one_by_one=False)
        except _RetryOneByOne:
            return self._write(operations, one_by_one=True)

    def _write_at_once(self, operation: Operation) -> list[Any] | None:
        """None if it must be done in another way; nothing is written then."""
        with _translated(self.name), self._held():
            try:
                results: list[Any] = operation.run(self)
            except apsw.IOError as error:
                self._take_back(error)
                raise
            except Exception as error:
                if is_fatal(error):
                    raise
                return None  # of one of them, which will be told
            return results

    def _write(self, operations: Iterable[Operation | Joined], *, one_by_one: bool) -> list[Any]:
        results: list[Any] = []
        with self.transaction():
            for operation in operations:
                try:
                    if one_by_one:
                        self.execute("SAVEPOINT one")
                    if isinstance(operation, Joined):
                        results += operation.run(self)
                    else:
                        results.append(operation.run(self))
                except SpecstarError as error:
                    results.append(error)
                except Exception as error:
                    if is_fatal(error):
                        raise
                    if not one_by_one:
                        raise _RetryOneByOne from error
                    self.execute("ROLLBACK TO one")
                    failure = translate(error, self.name)
                    failure.__cause__ = error
                    results.append(failure)
                if one_by_one:
                    self.execute("RELEASE one")
        return results

    def read(self, operations: Sequence[Operation]) -> list[Any]:
        """Run operations that only read, on one snapshot; one entry each: its result, or its own error."""
        results: list[Any] = []
        with _translated(self.name), self._held():
            self.execute("BEGIN")
            try:
                for operation in operations:
                    if self._interrupted:
                        raise apsw.InterruptError("interrupted")
                    try:
                        results.append(operation.run(self))
                    except SpecstarError as error:
                        results.append(error)
                    except apsw.InterruptError:
                        raise  # those behind it would keep the one who closes waiting
                    except (apsw.Error, UnicodeDecodeError) as error:
                        failure = translate(error, self.name)
                        failure.__cause__ = error
                        results.append(failure)
            finally:
                self._rollback()
        return results

    def log_pages(self) -> tuple[int, int]:
        """How many pages the write-ahead log has, and how many of them are in the database; zeros while it cannot be told."""
        with _translated(self.name), self._held():
            try:
                return self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
            except apsw.BusyError:
                return 0, 0

    def checkpoint(self) -> None:
        """Bring into the database what the log has at present. Waits for nobody, and does nothing while another is at it."""
        with _translated(self.name), self._held(), suppress(apsw.BusyError):
            self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def restart_log(self) -> bool:
        """Begin the log anew, if all of it is in the database and nobody reads from it; waits for nobody."""
        with _translated(self.name), self._held():
            self.connection.set_busy_timeout(0)
            try:
                self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
            except apsw.BusyError:
                return False
            finally:
                self.connection.set_busy_timeout(self._busy_ms)
            return True

    def close(self, *, fold: bool = True) -> None:
        """Close the connection; waits for a job that still uses it.

        The last one folds the write-ahead log into the database and removes it; not with `fold` False.
        """
        with self._held(), _translated(self.name):
            if not fold:
                self.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            self._cursor.close(True)
            self.connection.close()

    def interrupt(self) -> None:
        """Make the statement that runs at the moment fail, and all reads after it: it is about to be closed. From any thread."""
        self._interrupted = True
        with suppress(apsw.ConnectionClosedError):
            self.connection.interrupt()

    def optimize(self) -> None:
        """Refresh the planner's statistics where they are worth it; a database that is busy is left alone."""
        with suppress(apsw.BusyError, SpecstarError), _translated(self.name), self._held():
            self.execute("PRAGMA optimize")

    @contextmanager
    def _held(self) -> Iterator[None]:
        """One job at a time, and none while this process forks."""
        with working(), self._lock:
            yield

    def _rollback(self) -> None:
        if self.connection.in_transaction:
            self.execute("ROLLBACK")


@contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except (apsw.ConnectionClosedError, apsw.CursorClosedError) as error:
        raise BackendUnavailable(f"{name}: the database is closed") from error
    except (apsw.Error, MemoryError, UnicodeDecodeError) as error:
        raise translate(error, name) from error
