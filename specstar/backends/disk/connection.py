"""One root folder: its database, its temporary files, and the threads that work on it."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import anyio

from specstar.backends.disk.durable import TempFolder, disk_errors, fsync_folder, make_folder
from specstar.backends.disk.mounts import network_file_system
from specstar.backends.sqlite.database_file import DatabaseFile
from specstar.backends.sqlite.forks import fork_was_clean
from specstar.backends.sqlite.lanes import Lanes
from specstar.backends.sqlite.tables import ModelTables
from specstar.backends.sqlite.writes import EnsureModel
from specstar.runtime import Connection, Home, ServerInfo, run_in_thread

__all__ = ["SWEEP_SECONDS", "DiskConnection"]

logger: logging.Logger = logging.getLogger("specstar")
_DATABASE = "specstar.sqlite3"
_FILE_THREADS = 4
_BLOB_THREADS = 8
_BLOB_STREAMS = 64
_AHEAD_THREADS = 4
_THREAD_END_SECONDS = 1.0
# A writer that needs longer than this for one file is taken for dead.
SWEEP_SECONDS = 24 * 3600.0


class DiskConnection(Connection):
    """Everything open under one root folder. `root` is absolute."""

    def __init__(
        self, root: str, *, reader_threads: int, mmap_bytes: int, busy_timeout: float, batch_bytes: int
    ) -> None:
        self.root: Path = Path(root)
        self.batch_bytes = batch_bytes
        self.busy_timeout = busy_timeout
        self.temps: TempFolder = TempFolder(self.root / "_tmp")
        self.file_limit: anyio.CapacityLimiter = anyio.CapacityLimiter(_FILE_THREADS)
        self.blob_limit: anyio.CapacityLimiter = anyio.CapacityLimiter(_BLOB_THREADS)
        self.blob_streams: anyio.CapacityLimiter = anyio.CapacityLimiter(_BLOB_STREAMS)
        # Its threads start when first used.
        self.read_ahead: ThreadPoolExecutor = ThreadPoolExecutor(_AHEAD_THREADS, thread_name_prefix="specstar-ahead")
        self._file = DatabaseFile(
            str(self.root / _DATABASE), readers=reader_threads, busy_timeout=busy_timeout, mmap_bytes=mmap_bytes
        )
        self._pid = os.getpid()
        self._lanes: Lanes | None = None
        self._opening = anyio.Lock()

    async def open(self) -> None:
        """Make the folder if it is missing. The database opens when first used: blobs do without it."""
        await run_in_thread(self._open, limiter=self.file_limit)

    def _open(self) -> None:
        with disk_errors(self.root):
            make_folder(self.root)
            with suppress(PermissionError):
                # Who made it may have come no further. Where others own the folder above, it is theirs to settle.
                fsync_folder(self.root.parent)
        kind = network_file_system(self.root)
        if kind is not None:
            logger.warning(
                "%s lies on %s: SQLite's locks do not work there between machines; use a local disk, or PostgreSQL",
                self.root,
                kind,
            )

    def _open_database(self) -> None:
        with disk_errors(self.root):
            self.temps.prepare()
            self.temps.sweep(SWEEP_SECONDS)
            self._file.open()
            try:
                # The name of a new database must outlive a power loss as well as its content.
                fsync_folder(self.root)
            except OSError:
                self._file.drop()
                raise

    async def prepare(self, home: Home, tables: ModelTables) -> Lanes:
        """The way to the database, with the tables of the model in it."""
        async with self._opening:
            if self._lanes is None:
                await run_in_thread(self._open_database, limiter=self.file_limit)
                self._lanes = Lanes(home, self._file, batch_bytes=self.batch_bytes)
        await self._lanes.write(EnsureModel(tables))
        return self._lanes

    async def ping(self) -> ServerInfo:
        return await run_in_thread(self._ping, limiter=self.file_limit)

    def _ping(self) -> ServerInfo:
        import apsw

        self._file.check()
        with disk_errors(self.root):
            found = os.statvfs(self.root)
        free = found.f_bavail * found.f_frsize
        return ServerInfo(
            version=f"SQLite {apsw.sqlite_lib_version()}", detail=f"{self.root}, {free / (1 << 30):.1f} GiB free"
        )

    async def aclose(self) -> None:
        """Let what is under way finish, then close."""
        self.read_ahead.shutdown(wait=False)
        if self._lanes is not None:
            await self._lanes.drain()
        # Also without lanes: the call that opened it may have been cancelled.
        if self._file.is_open:
            await run_in_thread(self._close, limiter=self.file_limit)

    def _close(self) -> None:
        if self._lanes is not None:
            self._lanes.end(_THREAD_END_SECONDS)
        self._file.close()

    def abandon(self) -> None:
        """Close at once. In a forked child only the child's copies are closed, which the parent does not notice."""
        if os.getpid() == self._pid:
            self.read_ahead.shutdown(wait=False)
        if os.getpid() != self._pid and not fork_was_clean():
            self._file.leak()
        else:
            self._file.drop()
        if os.getpid() == self._pid and self._lanes is not None:
            self._lanes.end(_THREAD_END_SECONDS)
