"""Checkpoints beside the writer, which else would stop for each: the pages of some 32 MiB, and an fsync of the database.

SQLite lets one connection bring the write-ahead log into the database while another appends to it. The log begins anew only
once all of it is there, so the last few pages are the writer's own work, between two batches.
"""

from __future__ import annotations

import logging

import anyio

from specstar.backends.sqlite.database_file import DatabaseFile
from specstar.backends.sqlite.lane_threads import LaneThreads
from specstar.errors import BackendUnavailable, SpecstarError
from specstar.runtime import Home

__all__ = ["Checkpoints"]

logger: logging.Logger = logging.getLogger("specstar")
# After an error, and while a long search holds the log.
_PAUSE_SECONDS = 5.0
_BLOCKED_SECONDS = 0.25


class Checkpoints:
    """Keeps the log of one file short. `writer` is its thread for writes."""

    def __init__(self, home: Home, file: DatabaseFile, writer: LaneThreads) -> None:
        self._home = home
        self._file = file
        self._writer = writer
        self._beside = LaneThreads(home, "specstar-checkpointer", 1)
        self._under_way = False

    def begin_if_due(self) -> None:
        """Have the log brought into the database if it is long. After a write, on the home loop."""
        if self._file.log_is_long and not self._under_way and not self._home.closing:
            self._under_way = True
            self._home.spawn(self._run)

    async def _run(self) -> None:
        try:
            await self._beside.run(DatabaseFile.checkpoint, self._file)
            held = await self._beside.run(DatabaseFile.hold_readers, self._file)
            try:
                finished = await self._writer.run(DatabaseFile.finish_checkpoint, self._file)
            finally:
                if held:
                    self._file.let_readers()
            if not finished:
                await anyio.sleep(_BLOCKED_SECONDS)
        except BackendUnavailable:
            return  # closed meanwhile
        except SpecstarError as error:
            logger.warning("the write-ahead log could not be brought into the database yet: %s", error)
            await anyio.sleep(_PAUSE_SECONDS)
        finally:
            self._under_way = False

    def end(self, timeout: float) -> None:
        """End the thread; waits `timeout` seconds at most. Blocks."""
        self._beside.end(timeout)
