"""The way of searches: one thread while they are quick, further ones beside those that are slow.

Threads that give many rows to Python take turns at the interpreter, row by row: two made a quarter fewer searches than one.
"""

from __future__ import annotations

from typing import Any

import anyio
import apsw

from specstar.backends.sqlite.database import Database, Operation
from specstar.backends.sqlite.database_file import DatabaseFile
from specstar.backends.sqlite.lane_threads import LaneThreads
from specstar.errors import BackendUnavailable
from specstar.runtime import Batcher, Home

__all__ = ["SearchLane"]

_MAX_SEARCHES = 16
_SLOW_SECONDS = 0.02
_ANY = 1
_NONE = 1 << 30
# Some milliseconds of SQLite's work: asking takes the interpreter, for which others may wait.
_STEPS_BETWEEN_LOOKS = 200_000


class _Asked:
    """A search and whether anybody still waits for it: one that nobody does ends soon, and those behind it begin."""

    __slots__ = ("abandoned", "operation")

    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        self.abandoned = False

    def _is_abandoned(self) -> bool:
        return self.abandoned

    def run(self, database: Database) -> Any:
        if self.abandoned:
            raise BackendUnavailable(f"{database.name}: nobody waits for the search")
        look = database.connection.set_progress_handler
        look(self._is_abandoned, _STEPS_BETWEEN_LOOKS)
        try:
            return self.operation.run(database)
        except apsw.InterruptError as error:
            if self.abandoned:
                raise BackendUnavailable(f"{database.name}: nobody waits for the search any more") from error
            raise
        finally:
            look(None)


class SearchLane:
    """At most `file.readers` batches of searches at once, a second one only once the first turns out slow."""

    def __init__(self, home: Home, file: DatabaseFile) -> None:
        self._home = home
        self._file = file
        self._threads = LaneThreads(home, "specstar-searcher", file.readers)
        # The batches under way, by number: when each began.
        self._begun: dict[int, float] = {}
        self._last = 0
        self._watched = False
        self.batcher: Batcher[_Asked, Any] = Batcher(
            home,
            self._flush,
            name=f"{file.path}: searches",
            max_items=_MAX_SEARCHES,
            max_in_flight=file.readers,
            worth=self._worth,
        )

    async def search(self, operation: Operation) -> Any:
        """The result of a search. Cancelled, it ends soon in its thread as well. From any thread and loop."""
        asked = _Asked(operation)
        try:
            return await self.batcher.submit(asked)
        except BaseException:
            asked.abandoned = True
            raise

    async def _flush(self, operations: list[_Asked]) -> list[Any]:
        self._last = number = self._last + 1
        self._begun[number] = self._home.time()
        try:
            return await self._threads.run(self._file.search, operations)
        finally:
            del self._begun[number]

    def _all_are_slow(self) -> bool:
        latest = self._home.time() - _SLOW_SECONDS
        return sum(begun <= latest for begun in self._begun.values()) >= self.batcher.in_flight

    def _worth(self) -> int:
        """How many searches are worth a batch beside those under way."""
        if self._all_are_slow():
            return _ANY
        if not self._watched and not self._home.closing:
            self._watched = True
            self._home.spawn(self._watch)
        return _NONE

    async def _watch(self) -> None:
        """While others wait: notice what is slow, and let them pass."""
        try:
            while not self._all_are_slow():
                await anyio.sleep(_SLOW_SECONDS)
                self.batcher.hurry()
        finally:
            self._watched = False

    def end(self, timeout: float) -> None:
        """End the threads; waits for each, `timeout` seconds at most. Blocks."""
        self._threads.end(timeout)
