"""The way to one database file: one writer, one reader for rows by id, several for searches; a batch is one job of a thread."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine, Sequence
from itertools import islice
from typing import Any, Protocol

from specstar.backends.sqlite.checkpoints import Checkpoints
from specstar.backends.sqlite.database import Database, Operation
from specstar.backends.sqlite.database_file import DatabaseFile
from specstar.backends.sqlite.lane_threads import LaneThreads
from specstar.backends.sqlite.reads import prefetches
from specstar.backends.sqlite.row_batch import RowBatch
from specstar.backends.sqlite.search_lane import SearchLane
from specstar.errors import BackendError, SpecstarError
from specstar.runtime import Batcher, Home, portions

__all__ = ["Lanes"]

_MAX_WRITES = 1024
_MAX_READS = 256
_DRAIN_SECONDS = 60.0
_PORTION_ITEMS = 512
_SHARE_FROM = 16
# What a write costs the event loop, and a commit the writer's processor: only the order of magnitude matters.
_CALL_SECONDS = 15e-6
_COMMIT_SECONDS = 300e-6
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


class Lanes:
    """Carries the calls of one home to a database file. Made and used on the home loop."""

    def __init__(self, home: Home, file: DatabaseFile, *, batch_bytes: int) -> None:
        self._file = file
        # Half a batch, so that who writes many leaves room for others in it.
        self._portion_bytes = batch_bytes // 2
        self._writer = LaneThreads(home, "specstar-writer", 1)
        self._reader = LaneThreads(home, "specstar-reader", 1)
        self._searches = SearchLane(home, file)
        self._checkpoints = Checkpoints(home, file, self._writer)
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
        # Bound here: on the way of every call. Where a call is, the gate has seen to.
        self.write: Callable[[_Sized], Coroutine[Any, Any, Any]] = self._writes.submit_here
        self.read: Callable[[Operation], Coroutine[Any, Any, Any]] = self._reads.submit_here
        self.search: Callable[[Operation], Coroutine[Any, Any, Any]] = self._searches.search

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
        for batcher in (self._writes, self._reads, self._searches.batcher):
            if not await batcher.drain(_DRAIN_SECONDS):
                raise BackendError(f"{batcher.name}: still busy after {_DRAIN_SECONDS:g} s")

    def end(self, timeout: float) -> None:
        """End the threads; waits for each, `timeout` seconds at most. Blocks."""
        self._checkpoints.end(timeout)
        self._searches.end(timeout)
        for threads in (self._writer, self._reader):
            threads.end(timeout)

    async def _flush_writes(self, operations: list[_Sized]) -> list[Any]:
        # Here, since the writer's thread is what all wait for.
        rows = RowBatch.of(operations)
        self._frees_loop = rows is not None
        if rows is None:
            results = await self._writer.run(self._write, operations)
        else:
            results, waited = await self._writer.run(self._write_rows, (operations, rows))
            self._commit_seconds += (waited + _COMMIT_SECONDS - self._commit_seconds) * _FORGETTING
        self._checkpoints.begin_if_due()
        return results

    def _write_rows(self, batch: tuple[list[_Sized], RowBatch]) -> tuple[list[Any], float]:
        """The results, and for how many seconds the thread waited: for the disk, most of all."""
        begun, worked = time.perf_counter(), time.thread_time()
        results = self._file.write(*batch)
        return results, time.perf_counter() - begun - (time.thread_time() - worked)

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
        return self._file.read([*first, *operations])[len(first) :]
