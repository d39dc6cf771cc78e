"""Job state that ends with the process: kept in a dictionary while jobs live, written behind into the (memory) stores."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import anyio

from specstar.errors import (
    DuplicateResourceError,
    OutcomeUnknownError,
    ResourceNotFoundError,
    RevisionConflictError,
    SpecstarError,
)
from specstar.message_queue.job import JobRecord
from specstar.message_queue.state import JobState, Snapshot
from specstar.message_queue.stored_state import StoredJobState, written
from specstar.query import Condition, SortKey
from specstar.roles import ResourceMeta, Storage
from specstar.roles.storage import StorageWrite
from specstar.runtime import Connection, Home, LazyConnection, Outage, ServerInfo

__all__ = ["LiveJobs", "LocalJobState"]

logger: logging.Logger = logging.getLogger("specstar")
_FLUSH_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
_FLUSH_ITEMS = 512
_MAX_UNWRITTEN = 20_000
# The row is not as it was taken to be.
_CONTESTED = (DuplicateResourceError, ResourceNotFoundError, RevisionConflictError, OutcomeUnknownError)


class _Entry:
    """One job. `version` counts the changes made here; `row` is what the store has of it, as of the change `written`."""

    __slots__ = ("record", "row", "version", "written")

    def __init__(self, record: JobRecord, version: int, row: ResourceMeta | None) -> None:
        self.record = record
        self.version = version
        self.row = row
        self.written = version if row is not None else 0


class LiveJobs(Connection):
    """The jobs that are not finished, and those whose last change is not written yet. Outlives the event loop."""

    portable = True

    def __init__(self) -> None:
        self.entries: dict[str, _Entry] = {}
        self.unwritten: dict[str, _Entry] = {}

    async def open(self) -> None:
        return

    async def ping(self) -> ServerInfo:
        return ServerInfo(version="in-process")

    async def aclose(self) -> None:
        self.abandon()

    def abandon(self) -> None:
        self.entries.clear()
        self.unwritten.clear()


class LocalJobState(JobState):
    """Nothing is gained by waiting for a store that ends with the process, so a change is made in the dictionary and written
    within 50 ms, several changes of one job as one. Reads look here first; a search writes first."""

    def __init__(self, home: Home, live: LazyConnection[LiveJobs], stored: StoredJobState, storage: Storage) -> None:
        self._home = home
        self._live = live
        self._stored = stored
        self._storage = storage
        self._writing = anyio.Lock()
        self._flusher_runs = False

    async def create(self, record: JobRecord) -> Snapshot:
        live = self._live.opened or await self._live.get()
        job_id = record.job_id
        # Other ids are new for certain; one made from an idempotency key may be known to the store alone.
        if record.idempotency_key is not None and job_id not in live.entries and await self._stored.read(job_id):
            raise DuplicateResourceError(job_id, model=record.queue)
        if job_id in live.entries:
            raise DuplicateResourceError(job_id, model=record.queue)
        entry = live.entries[job_id] = _Entry(record, 1, None)
        self._changed(live, entry)
        if len(live.unwritten) > _MAX_UNWRITTEN:
            await self._flush()
        return Snapshot(record, 1, None)

    async def create_many(self, records: Sequence[JobRecord]) -> list[Snapshot | Exception]:
        results: list[Snapshot | Exception] = []
        for record in records:
            try:
                results.append(await self.create(record))
            except SpecstarError as error:
                results.append(error)
        return results

    def assume(self, record: JobRecord) -> Snapshot | None:
        live = self._live.opened
        entry = live.entries.get(record.job_id) if live is not None else None
        # No guess about the store: several changes may have reached it as its first version.
        return None if entry is None else Snapshot(entry.record, entry.version, None)

    def waiting(self, job_id: str) -> JobRecord | None:
        live = self._live.opened
        entry = live.entries.get(job_id) if live is not None else None
        return entry.record if entry is not None and entry.version == 1 else None

    async def read(self, job_id: str) -> Snapshot | None:
        live = self._live.opened or await self._live.get()
        entry = live.entries.get(job_id)
        if entry is None:
            return await self._stored.read(job_id)
        return Snapshot(entry.record, entry.version, None)

    async def mark(self, snapshot: Snapshot, record: JobRecord) -> Snapshot:
        return await self.settle(snapshot, record)

    async def settle(self, snapshot: Snapshot, record: JobRecord) -> Snapshot:
        live = self._live.opened or await self._live.get()
        entry = live.entries.get(record.job_id)
        if entry is None:
            if snapshot.row is None:
                raise RevisionConflictError(record.job_id, model=record.queue)
            # Finished long ago, or left by an earlier process: the store has it.
            after = await self._stored.settle(snapshot, record)
            if not record.status.finished:
                live.entries[record.job_id] = _Entry(record, after.version, after.row)
            return after
        if entry.version != snapshot.version:
            raise RevisionConflictError(record.job_id, model=record.queue)
        entry.record = record
        entry.version += 1
        self._changed(live, entry)
        return Snapshot(record, entry.version, None)

    async def erase(self, job_id: str, *, expected_version: int | None = None) -> bool:
        live = self._live.opened or await self._live.get()
        async with self._writing:
            entry = live.entries.get(job_id)
            if entry is None:
                return await self._stored.erase(job_id, expected_version=expected_version)
            if expected_version is not None and entry.version != expected_version:
                raise RevisionConflictError(job_id, model=entry.record.queue)
            await self._remove(live, entry)
            return True

    async def withdraw(self, job_id: str) -> None:
        live = self._live.opened or await self._live.get()
        async with self._writing:
            entry = live.entries.get(job_id)
            # Several changes may have reached the store as its first version: what is there alone has ended.
            if entry is None or entry.version != 1:
                raise RevisionConflictError(job_id)
            await self._remove(live, entry)

    async def _remove(self, live: LiveJobs, entry: _Entry) -> None:
        job_id = entry.record.job_id
        del live.entries[job_id]
        live.unwritten.pop(job_id, None)
        if entry.row is not None:
            await self._stored.erase(job_id)

    async def search(
        self,
        condition: Condition | None,
        *,
        sort: Sequence[str | SortKey] = (),
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Snapshot]:
        await self._flush()
        found = await self._stored.search(condition, sort=sort, limit=limit, offset=offset)
        live = self._live.opened or await self._live.get()
        return [self._of_here(live, snapshot) for snapshot in found]

    @staticmethod
    def _of_here(live: LiveJobs, found: Snapshot) -> Snapshot:
        """What a search found, at the version that it has here: several changes reach the store as one."""
        entry = live.entries.get(found.record.job_id)
        if entry is None:
            return found
        is_last = entry.row is not None and entry.row.version == found.version
        return Snapshot(found.record, entry.written if is_last else 0, found.row)

    async def count(self, condition: Condition | None) -> int:
        await self._flush()
        return await self._stored.count(condition)

    def _changed(self, live: LiveJobs, entry: _Entry) -> None:
        live.unwritten[entry.record.job_id] = entry
        if not self._flusher_runs:
            self._flusher_runs = True
            self._home.spawn(self._write_behind, live)

    async def _write_behind(self, live: LiveJobs) -> None:
        outage, pause = Outage(), _FLUSH_SECONDS
        try:
            while live.unwritten:
                await anyio.sleep(pause)
                try:
                    await self._flush()
                    pause = _FLUSH_SECONDS
                except SpecstarError as error:
                    if self._live.opened is not live:
                        return  # closed: what it held is gone, or the next generation's
                    pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
                    if outage.fails() is not None:
                        logger.warning("the state of %d jobs is not written yet: %s", len(live.unwritten), error)
                    continue
                if (lasted := outage.works()) is not None:
                    logger.info("the state of jobs is written again, after %.0f s", lasted)
        finally:
            self._flusher_runs = False

    async def _flush(self) -> None:
        """Write what had changed when this was called. Raises what keeps the store from it: later, then."""
        live = self._live.opened or await self._live.get()
        async with self._writing:
            left = len(live.unwritten)
            while left > 0 and live.unwritten:
                batch = [
                    entry for entry, _ in zip(live.unwritten.values(), range(min(left, _FLUSH_ITEMS)), strict=False)
                ]
                left -= len(batch)
                await self._write(live, batch)

    async def _write(self, live: LiveJobs, batch: list[_Entry]) -> None:
        items: list[StorageWrite] = []
        afters: list[tuple[_Entry, int, ResourceMeta | None]] = []
        for entry in batch:
            record = entry.record
            first = record.revision_id if entry.row is None else f"{record.revision_id}.{entry.version}"
            item, after = written(record, entry.row, revision_id=first, payload_id=first)
            items.append(item)
            afters.append((entry, entry.version, after.row))
            del live.unwritten[record.job_id]
        try:
            errors = await self._storage.write_many(items)
        except BaseException:
            for entry in batch:
                live.unwritten.setdefault(entry.record.job_id, entry)
            raise
        failed: list[tuple[_Entry, Exception]] = []
        for (entry, version, row), error in zip(afters, errors, strict=True):
            if error is not None:
                live.unwritten.setdefault(entry.record.job_id, entry)
                failed.append((entry, error))
                continue
            entry.row, entry.written = row, version
            if entry.version == version and entry.record.status.finished:
                live.entries.pop(entry.record.job_id, None)
        # After all have been told apart: it may fail.
        for entry, error in failed:
            if not isinstance(error, _CONTESTED):
                raise error
            await self._look_again(entry, error)

    async def _look_again(self, entry: _Entry, error: Exception) -> None:
        """Someone else wrote the row, or an earlier write landed unseen: write over what is there."""
        found = await self._stored.read(entry.record.job_id)
        entry.row = found.row if found is not None else None
        logger.info("the state of job %s is written again: %s", entry.record.job_id, error)
