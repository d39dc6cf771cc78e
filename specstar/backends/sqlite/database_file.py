"""The open connections to one database file, and how long its write-ahead log is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from specstar.backends.sqlite import descriptors
from specstar.backends.sqlite.database import Database, Operation
from specstar.backends.sqlite.faults import DISK_ERRORS
from specstar.backends.sqlite.forks import working
from specstar.backends.sqlite.reader_gate import ReaderGate
from specstar.backends.sqlite.whereabouts import Whereabouts
from specstar.backends.sqlite.writes import joined
from specstar.errors import BackendError, OutcomeUnknownError, SpecstarError

__all__ = ["DatabaseFile"]

# What is read by id is spread over the whole file; each search reads near to what it found.
_READER_CACHE_BYTES = 64 << 20
_SEARCHER_CACHE_BYTES = 16 << 20
# 32 MiB: pages that change often are written back to the database once in a while, not after every few batches.
WAL_PAGES = 8192
_LOOK_SECONDS = 0.02
# What a checkpoint beside the writer may leave to it, and how often it tries.
_FEW_PAGES = WAL_PAGES // 32
_PASSES = 6
# Searches that overlap keep the log from beginning anew. From 64 MiB on new ones are held back for it, while those under way
# end: for longer, the longer the log is.
_PATIENCE = ((WAL_PAGES * 32, 15.0), (WAL_PAGES * 8, 2.0), (WAL_PAGES * 2, 0.25))


class DatabaseFile:
    """The open connections to one database file. All methods block: call them in a thread."""

    def __init__(self, path: str, *, readers: int, busy_timeout: float, mmap_bytes: int = 0) -> None:
        self.path = path
        self._mmap_bytes = mmap_bytes
        self.readers = readers
        self._busy_timeout = busy_timeout
        self._opened: list[Database] = []
        self._renew_writer = False
        self._looked = 0.0
        self._checkpointer: Database | None = None
        self._entered: str | None = None
        self.log_is_long: bool = False
        """True if the write-ahead log should be brought into the database: `checkpoint`, then `finish_checkpoint`."""
        self.writer: Database
        self.reader: Database
        self._idle: list[Database] = []
        self._gate = ReaderGate()
        self._log_is_very_long = False
        self._place = Whereabouts()

    @property
    def is_open(self) -> bool:
        """True from `open` to `close` or `drop`."""
        return self._entered is not None

    def check(self) -> None:
        """Raise `BackendError` if what is open is no longer in its place."""
        self._place.check()

    def open(self) -> None:
        """Open all connections, unless they are; on an error none is left open."""
        if self.is_open:
            return
        self._entered = descriptors.enter(self.path)
        try:
            self.writer = self._open()
            self.reader = self._open(_READER_CACHE_BYTES)
            self._idle = [self._open(_SEARCHER_CACHE_BYTES) for _ in range(self.readers)]
            self._place.opened(self._entered)
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

        After an error of the disk the connection is opened anew first. Raises `BackendError` if the file is no longer in its
        place, and `OutcomeUnknownError` if that was seen only when the writes were made.
        """
        self._place.check()
        if self._renew_writer:
            # SQLite keeps a log that it could open only for reading, and never tries again.
            fresh = Database.open_file(self.path, busy_timeout=self._busy_timeout)
            self._opened[0], former = fresh, self.writer
            self.writer = fresh
            self._renew_writer = False
            former.close()
        try:
            results = self.writer.write(operations, join=joined, at_once=at_once)
        except BackendError as error:
            self._renew_writer = isinstance(error.__cause__, DISK_ERRORS)
            raise
        if not self._place.look():
            raise OutcomeUnknownError(
                f"{self.path}: it was removed, moved or replaced during the write, which may be in the file that is gone alone"
            )
        now = time.monotonic()
        if now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            # The write is made: whatever is wrong now, the next one will tell.
            with suppress(SpecstarError):
                self.log_is_long = self.writer.log_pages()[0] >= WAL_PAGES
        return results

    def checkpoint(self) -> None:
        """Bring the log into the database, all but a few pages, while others read and write. One thread at a time."""
        self._place.check()
        try:
            if self._checkpointer is None:
                with working():
                    self._checkpointer = self._open()
            before = -1
            for _ in range(_PASSES):
                self._checkpointer.checkpoint()
                # SQLite leaves this to whoever brings in the last page, while all writers wait.
                if self._entered is not None:
                    descriptors.sync(self._entered)
                pages, done = self._checkpointer.log_pages()
                # No further than before: a reader still needs what is there.
                if pages - done <= _FEW_PAGES or done <= before:
                    return
                before = done
        except SpecstarError:
            # As with the writer: it may be broken for good.
            broken, self._checkpointer = self._checkpointer, None
            if broken is not None:
                with suppress(SpecstarError, ValueError):
                    self._opened.remove(broken)
                    broken.close()
            raise

    def hold_readers(self) -> bool:
        """Where the log is very long: let no reader begin, and wait a while for those under way. True: none is left, until
        `let_readers`.
        """
        pages = 0 if self._checkpointer is None else self._checkpointer.log_pages()[0]
        patience = next((seconds for least, seconds in _PATIENCE if pages >= least), None)
        self._log_is_very_long = patience is not None
        return patience is not None and self._gate.clear(patience)

    def let_readers(self) -> None:
        """Take `hold_readers` back."""
        self._gate.open()

    def finish_checkpoint(self) -> bool:
        """The rest, in the writer's thread: a log of which all is in the database begins anew with the next write.

        False if something stands against it: a reader that has begun before, or another process.
        """
        self.log_is_long = False
        self._place.check()
        try:
            self.writer.checkpoint()
            pages, done = self.writer.log_pages()
            if done >= pages >= WAL_PAGES:
                return self.writer.restart_log()
        except BackendError as error:
            self._renew_writer = isinstance(error.__cause__, DISK_ERRORS)
            raise
        return done >= pages

    def search(self, operations: Sequence[Operation]) -> list[Any]:
        """Run searches on a reader that is free. At most `readers` threads may be inside. Raises like `write`."""
        self._place.check()
        database = self._idle.pop()
        try:
            # One snapshot for all is quicker, and keeps the log for as long as all of them take.
            apart = [[each] for each in operations] if self._log_is_very_long else [operations]
            results: list[Any] = []
            for some in apart:
                with self._gate.reading():
                    results += database.read(some)
            return results
        finally:
            self._idle.append(database)

    def read(self, operations: Sequence[Operation]) -> list[Any]:
        """Run reads by id, one thread at a time. Raises like `write`."""
        self._place.check()
        with self._gate.reading():
            return self.reader.read(operations)

    def close(self) -> None:
        """Close all connections, the writer last, which then folds the write-ahead log into the database."""
        if self._opened and self._place.look():
            self._opened[0].optimize()
        self._close_all()

    def drop(self) -> None:
        """Close all connections in a hurry; a statement under way is interrupted."""
        self._gate.open()
        for database in self._opened:
            database.interrupt()
        self._close_all()

    def _close_all(self) -> None:
        # The log of a database that is gone is not for the one that took its place.
        fold = self._place.look()
        while self._opened:
            self._opened.pop().close(fold=fold)
        self._place.closed()
        entered, self._entered = self._entered, None
        if entered is not None:
            descriptors.leave(entered)

    def leak(self) -> None:
        """Forget the connections without closing them: in a forked child that inherited them in the middle of a job."""
        _leaked.extend(self._opened)
        self._opened.clear()


_leaked: list[Database] = []
