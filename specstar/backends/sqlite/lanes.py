"""The way to one database file: one writer, one reader for rows by id, several for searches; a batch is one job of a thread."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any, Protocol

from specstar.backends.sqlite.database import Database, Operation
from specstar.backends.sqlite.faults import DISK_ERRORS
from specstar.backends.sqlite.lane_threads import LaneThreads
from specstar.backends.sqlite.reads import prefetches
from specstar.backends.sqlite.row_batch import RowBatch
from specstar.backends.sqlite.writes import joined
from specstar.errors import BackendError, SpecstarError
from specstar.runtime import Batcher, Home, portions

__all__ = ["DatabaseFile", "Lanes"]

_MAX_WRITES = 1024
_MAX_READS = 256
_MAX_SEARCHES = 16
# What is read by id is spread over the whole file; each search reads near to what it found.
_READER_CACHE_BYTES = 64 << 20
_SEARCHER_CACHE_BYTES = 16 << 20
_DRAIN_SECONDS = 60.0
_PORTION_ITEMS = 512
_SHARE_FROM = 16
# What a write costs the event loop, and the writer beside its commit: only the order of magnitude matters.
_CALL_SECONDS = 15e-6
_ROW_SECONDS = 6e-6
_FIRST_COMMIT_SECONDS = 0.01
_PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
_FORGETTING = 0.1


class _Sized(Operation, Protocol):
    size: int


def _size_of(operation: _Sized) -> int:
    return operation.size


class _Several:
    """Operations of one caller, each of them with a result of its own."""

    __slots__ = ("operations", "size")

    def __init__(self, operations: list[_Sized]) -> None:
        self.operations = operations
        self.size = sum(operation.size for operation in operations)

    def run(self, database: Database) -> Any:
        raise AssertionError("taken apart by the lane")


class DatabaseFile:
    """The open connections to one database file. All methods block: call them in a thread."""

    def __init__(self, path: str, *, readers: int, busy_timeout: float, mmap_bytes: int = 0) -> None:
        self.path = path
        self._mmap_bytes = mmap_bytes
        self.readers = readers
        self._busy_timeout = busy_timeout
        self._opened: list[Database] = []
        self._renew_writer = False
        self.writer: Database
        self.reader: Database
        self._idle: list[Database] = []

    def open(self) -> None:
        """Open all connections; on an error none is left open."""
        try:
            self.writer = self._open()
            self.reader = self._open(_READER_CACHE_BYTES)
            self._idle = [self._open(_SEARCHER_CACHE_BYTES) for _ in range(self.readers)]
        except BaseException:
            self.drop()
            raise

    def _open(self, read_with: int | None = None) -> Database:
        """A connection that writes, or one that only reads, with at most so many bytes of cache."""
        if read_with is None:
            database = Database.open_file(self.path, busy_timeout=self._busy_timeout)
        else:
            database = Database.open_file(
                self.path,
                busy_timeout=self._busy_timeout,
                read_only=True,
                cache_bytes=read_with,
                mmap_bytes=self._mmap_bytes,
            )
        self._opened.append(database)
        return database

    def write(self, operations: Sequence[Operation], at_once: Operation | None = None) -> list[Any]:
        """Run writes, one thread at a time. `at_once`: those very writes as one.

        After an error of the disk the connection is opened anew first.
        """
        if self._renew_writer:
            # SQLite keeps a log that it could open only for reading, and never tries again.
            fresh = Database.open_file(self.path, busy_timeout=self._busy_timeout)
            self._opened[0], former = fresh, self.writer
            self.writer = fresh
            self._renew_writer = False
            former.close()
        try:
            return self.writer.write(operations, join=joined, at_once=at_once)
        except BackendError as error:
            self._renew_writer = isinstance(error.__cause__, DISK_ERRORS)
            raise

    def search(self, operations: Sequence[Operation]) -> list[Any]:
        """Run searches on a reader that is free. At most `readers` threads may be inside."""
        database = self._idle.pop()
        try:
            return database.read(operations)
        finally:
            self._idle.append(database)

    def close(self) -> None:
        """Close all connections, the writer last, which then folds the write-ahead log into the database."""
        if self._opened:
            self._opened[0].optimize()
        while self._opened:
            self._opened.pop().close()

    def drop(self) -> None:
        """Close all connections in a hurry; a statement under way is interrupted."""
        for database in self._opened:
            database.interrupt()
        while self._opened:
            self._opened.pop().close()

    def leak(self) -> None:
        """Forget the connections without closing them: in a forked child that inherited them in the middle of a job."""
        _leaked.extend(self._opened)
        self._opened.clear()


_leaked: list[Database] = []


class Lanes:
    """Carries the calls of one home to a database file. Made and used on the home loop."""

    def __init__(self, home: Home, file: DatabaseFile, *, batch_bytes: int) -> None:
        self._file = file
        # Half a batch, so that who writes many leaves room for others in it.
        self._portion_bytes = batch_bytes // 2
        self._writer = LaneThreads(home, "specstar-writer", 1)
        self._reader = LaneThreads(home, "specstar-reader", 1)
        self._searchers = LaneThreads(home, "specstar-searcher", file.readers)
        self._frees_loop = False
        self._commit_seconds = _FIRST_COMMIT_SECONDS
        self._writes: Batcher[_Sized, Any] = Batcher(
            home,
            self._flush_writes,
            name=f"{file.path}: writes",
            max_items=_MAX_WRITES,
            max_bytes=batch_bytes,
            max_in_flight=2,
            worth=self._worth_a_commit,
            size_of=_size_of,
            writes=True,
        )
        self._reads: Batcher[Operation, Any] = Batcher(
            home,
            self._flush_reads,
            name=f"{file.path}: reads",
            max_items=_MAX_READS,
            # SQLite fetches the rows of one without the interpreter, while the answers of the other are handed out.
            max_in_flight=1 if _PROCESSORS == 1 else 2,
            worth=lambda: _SHARE_FROM,
        )
        self._searches: Batcher[Operation, Any] = Batcher(
            home,
            self._flush_searches,
            name=f"{file.path}: searches",
            max_items=_MAX_SEARCHES,
            max_in_flight=file.readers,
        )
        # Bound here: on the way of every call.
        self.write = self._writes.submit
        self.read = self._reads.submit
        self.search = self._searches.submit

    async def write_all(self, operations: Sequence[_Sized]) -> list[Any]:
        """Write several, each by itself; one entry each: its result or its own error."""
        results: list[Any] = []
        # Bounded pieces, between which other writers get their turn.
        for portion in portions(operations, _size_of, max_bytes=self._portion_bytes, max_items=_PORTION_ITEMS):
            try:
                results += await self.write(_Several(portion))
            except SpecstarError as error:
                results += [error] * len(portion)
        return results

    def _worth_a_commit(self) -> int:
        """How many writes are worth a commit of their own beside another: preparing them takes as long as it."""
        # Other batches than `RowBatch` need the interpreter all the time, and gain nothing from being two.
        if not self._frees_loop or _PROCESSORS == 1:
            return _MAX_WRITES
        return max(_SHARE_FROM, int(self._commit_seconds / _CALL_SECONDS / 2))

    async def drain(self) -> None:
        """Wait until nothing is under way."""
        for batcher in (self._writes, self._reads, self._searches):
            if not await batcher.drain(_DRAIN_SECONDS):
                raise BackendError(f"{batcher.name}: still busy after {_DRAIN_SECONDS:g} s")

    def end(self, timeout: float) -> None:
        """End the threads; waits for each, `timeout` seconds at most. Blocks."""
        for threads in (self._writer, self._reader, self._searchers):
            threads.end(timeout)

    async def _flush_writes(self, operations: list[_Sized]) -> list[Any]:
        # Here, since the writer's thread is what all wait for.
        rows = RowBatch.of(operations)
        self._frees_loop = rows is not None
        if rows is None:
            return await self._writer.run(self._write, operations)
        results, took = await self._writer.run(self._write_rows, (operations, rows))
        self._commit_seconds += (took - len(operations) * _ROW_SECONDS - self._commit_seconds) * _FORGETTING
        return results

    def _write_rows(self, batch: tuple[list[_Sized], RowBatch]) -> tuple[list[Any], float]:
        """The results, and how many seconds it took."""
        begun = time.perf_counter()
        return self._file.write(*batch), time.perf_counter() - begun

    def _write(self, operations: list[_Sized]) -> list[Any]:
        write = self._file.write
        if not any(type(operation) is _Several for operation in operations):
            return write(operations)
        flat: list[_Sized] = []
        for operation in operations:
            flat += operation.operations if isinstance(operation, _Several) else [operation]
        results = iter(write(flat))
        return [
            list(islice(results, len(operation.operations))) if isinstance(operation, _Several) else next(results)
            for operation in operations
        ]

    async def _flush_reads(self, operations: list[Operation]) -> list[Any]:
        return await self._reader.run(self._read, operations)

    def _read(self, operations: list[Operation]) -> list[Any]:
        first: list[Operation] = list(prefetches(operations))
        return self._file.reader.read([*first, *operations])[len(first) :]

    async def _flush_searches(self, operations: list[Operation]) -> list[Any]:
        return await self._searchers.run(self._file.search, operations)
