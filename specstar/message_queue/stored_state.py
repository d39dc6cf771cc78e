"""Job state in the meta and resource stores: one resource a job. What a run marks, and a plain success, is in its row."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from specstar.config.encoding import Encoding
from specstar.errors import DecodeError
from specstar.message_queue.codec import decode_record, encode_record
from specstar.message_queue.job import NO_RESULT, JobRecord, JobStatus
from specstar.message_queue.state import MESSAGE_WAITS, JobState, Snapshot, indexed_data
from specstar.query import QB, Condition, IndexedField, SortKey, build_query
from specstar.query.conditions import And, Compare, In
from specstar.resource_manager.ids import new_id
from specstar.roles import MetaWrite, ResourceMeta, RevisionInfo, Storage, StoredRevision
from specstar.roles.storage import StorageWrite

__all__ = ["MAX_RESULT_IN_ROW", "StoredJobState", "record_of", "told_by_row", "with_revisions", "written"]

logger: logging.Logger = logging.getLogger("specstar")

MAX_RESULT_IN_ROW = 1024
"""The longest result, in bytes of JSON, that is kept in the row; a longer one is a revision."""
_RESULT_FOLLOWS = "\n"


class StoredJobState(JobState):
    """State that other processes may share: every write is conditional on the version of the meta row.

    A job is created with its payload. `mark` touches the meta row alone, and so does the end of a run that succeeded with a
    short result; every other outcome is a revision with a payload of its own.
    """

    def __init__(self, storage: Storage, fields: tuple[IndexedField, ...], *, counts_outcomes: bool = True) -> None:
        self._storage = storage
        self._fields = fields
        # False: an outcome may have reached the store together with the creation of its job, as one revision.
        self._counts_outcomes = counts_outcomes

    async def create(self, record: JobRecord) -> Snapshot:
        item, snapshot = written(record, None, revision_id=record.revision_id)
        await self._storage.write(item)
        return snapshot

    async def create_many(self, records: Sequence[JobRecord]) -> list[Snapshot | Exception]:
        planned = [written(record, None, revision_id=record.revision_id) for record in records]
        errors = await self._storage.write_many([item for item, _ in planned])
        return [error or snapshot for error, (_, snapshot) in zip(errors, planned, strict=True)]

    def assume(self, record: JobRecord) -> Snapshot:
        return Snapshot(record, 1, _first_row(record, record.revision_id))

    async def read(self, job_id: str) -> Snapshot | None:
        found = await self._storage.read(job_id)
        if found is None:
            return None
        if not isinstance(found, StoredRevision):
            raise DecodeError(f"the state of job {job_id!r} has no revision", job_id=job_id)
        return _snapshot(found)

    async def mark(self, snapshot: Snapshot, record: JobRecord) -> Snapshot:
        row = _row(snapshot)
        return await self._touch(row, record, max(datetime.now(UTC), row.updated_time), _run_token(record))

    async def settle(self, snapshot: Snapshot, record: JobRecord) -> Snapshot:
        row, seen = _row(snapshot), snapshot.record
        # The outcome of the run that the row tells of: written out the same way, at a price.
        same_run = seen.worker is record.worker is not None and seen.started_time is record.started_time
        run = row.updated_by.partition(_RESULT_FOLLOWS)[0] if same_run and seen.delivery == record.delivery else None
        if run and record.finished_time is not None and (result := _result_in_row(seen, record)) is not None:
            return await self._touch(row, record, max(record.finished_time, row.updated_time), run + result)
        item, after = written(record, row, revision_id=new_id(), run=run)
        await self._storage.write(item)
        return after

    async def _touch(self, row: ResourceMeta, record: JobRecord, now: datetime, updated_by: str) -> Snapshot:
        """Write the row alone."""
        meta = ResourceMeta(
            resource_id=row.resource_id,
            current_revision_id=row.current_revision_id,
            revision_count=row.revision_count,
            version=row.version + 1,
            created_time=row.created_time,
            updated_time=now,
            created_by=row.created_by,
            updated_by=updated_by,
            schema_version=row.schema_version,
            indexed_data=indexed_data(record),
        )
        await self._storage.write(StorageWrite(MetaWrite(meta, None, row.version), None))
        return Snapshot(record, meta.version, meta)

    async def erase(self, job_id: str, *, expected_version: int | None = None) -> bool:
        return await self._storage.erase(job_id, expected_version=expected_version)

    async def search(
        self,
        condition: Condition | None,
        *,
        sort: Sequence[str | SortKey] = (),
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Snapshot]:
        query = build_query(self._narrowed(condition), fields=self._fields, sort=sort, limit=limit, offset=offset)
        snapshots: list[Snapshot] = []
        for found in await self._storage.search(query):
            try:
                snapshots.append(_snapshot(found))
            except DecodeError as error:
                # One that is damaged must not stand in the way of the others.
                logger.warning("the record of job %s is left out: %s", found.meta.resource_id, error)
        return snapshots

    async def count(self, condition: Condition | None) -> int:
        return await self._storage.count(self._narrowed(condition))

    def _narrowed(self, condition: Condition | None) -> Condition | None:
        return with_revisions(condition) if condition is not None and self._counts_outcomes else condition


def written(
    record: JobRecord,
    row: ResourceMeta | None,
    *,
    revision_id: str,
    run: str | None = None,
    payload_id: str | None = None,
) -> tuple[StorageWrite, Snapshot]:
    """The write of a whole record over `row` (None: a new resource), and the snapshot after it. `run`: its run, as text.

    `payload_id`: for stores where no write of another process can stand in for this one.
    """
    payload = encode_record(record)
    if row is None:
        # The revision is the one that the message names; the payload is of this write alone: refused, it must never discard
        # that of the write which won.
        payload_id = payload_id or new_id()
        meta = _first_row(record, revision_id)
        expected, parent, now = None, None, record.created_time
    else:
        now = max(record.finished_time or datetime.now(UTC), row.updated_time)
        payload_id = revision_id
        expected, parent = row.version, row.current_revision_id
        meta = ResourceMeta(
            resource_id=record.job_id,
            current_revision_id=revision_id,
            revision_count=row.revision_count + 1,
            version=row.version + 1,
            created_time=row.created_time,
            updated_time=now,
            created_by=row.created_by,
            updated_by=_run_token(record) if run is None else run,
            indexed_data=indexed_data(record),
        )
    revision = RevisionInfo(
        resource_id=record.job_id,
        revision_id=revision_id,
        parent_revision_id=parent,
        payload_id=payload_id,
        encoding=Encoding.json,
        size=len(payload),
        created_time=now,
        updated_time=now,
        updated_by=meta.updated_by,
    )
    return StorageWrite(MetaWrite(meta, revision, expected), payload), Snapshot(record, meta.version, meta)


def record_of(found: StoredRevision) -> JobRecord:
    """The record of a stored job as it is now. Raises `DecodeError`."""
    return told_by_row(found, decode_record(found.payload, job_id=found.meta.resource_id))


def told_by_row(found: StoredRevision, record: JobRecord) -> JobRecord:
    """The record in a stored revision, with what the row alone tells since then. Raises `DecodeError`."""
    try:
        return _told_by_row(found, record)
    except ValueError as error:
        job_id = found.meta.resource_id
        message = f"the row of job {job_id} tells what this version does not know: {error}"
        raise DecodeError(message, resource_id=job_id, job_id=job_id) from error


def _told_by_row(found: StoredRevision, record: JobRecord) -> JobRecord:
    meta, revision = found.meta, found.revision
    status = JobStatus(meta.indexed_data.get("status", record.status))
    touched = status is not record.status or (status is JobStatus.running and meta.updated_by != revision.updated_by)
    if not touched or revision.revision_id != meta.current_revision_id:
        return record
    # A run began, was taken back, or succeeded: see `mark` and `settle`.
    run, _, result = meta.updated_by.partition(_RESULT_FOLLOWS)
    message, _, rest = run.partition("@")
    delivery, names_copy, copy = message.partition(".")
    started, _, worker = rest.partition("@")
    record = msgspec.structs.replace(
        record,
        status=status,
        attempts=int(meta.indexed_data.get("attempts", record.attempts)),
        delivery=int(delivery) if delivery.isdecimal() else record.delivery,
        copy=copy if names_copy else None,
        started_time=datetime.fromisoformat(started) if started else record.started_time,
        worker=worker or None,
    )
    if status is not JobStatus.succeeded:
        return record
    return msgspec.structs.replace(
        record,
        result=msgspec.Raw(result.encode()) if result else NO_RESULT,
        error=None,
        traceback=None,
        scheduled_time=None,
        finished_time=meta.updated_time,
        cancel_requested=False,
        message_waits=False,
    )


def with_revisions(condition: Condition) -> Condition:
    """The same, with what follows from it: what failed, was cancelled or is retried has more than its first revision.

    By that a store finds these few among all that succeeded.
    """
    if any(_asks_for_revisions(part) for part in (condition.conditions if isinstance(condition, And) else [condition])):
        return condition & (QB["revision_count"] > 1)
    return condition


def _asks_for_revisions(condition: Condition) -> bool:
    if isinstance(condition, Compare) and condition.field == "status" and condition.op == "eq":
        return condition.value in _WITH_REVISIONS
    return isinstance(condition, In) and condition.field == "status" and _WITH_REVISIONS.issuperset(condition.values)


_WITH_REVISIONS = frozenset({JobStatus.failed.value, JobStatus.cancelled.value, JobStatus.retrying.value})


def _result_in_row(seen: JobRecord, record: JobRecord) -> str | None:
    """What follows the run in the row of a job that succeeds; None if its end is more than a row can tell."""
    if record.status is not JobStatus.succeeded or seen.status is not JobStatus.running:
        return None
    if record.cancel_requested or record.message_waits:
        return None
    if record.result is NO_RESULT:
        return ""
    result = bytes(record.result)
    if len(result) > MAX_RESULT_IN_ROW:
        return None
    try:
        return _RESULT_FOLLOWS + result.decode()
    except UnicodeDecodeError:
        return None


def _snapshot(found: StoredRevision) -> Snapshot:
    return Snapshot(record_of(found), found.meta.version, found.meta)


def _first_row(record: JobRecord, revision_id: str) -> ResourceMeta:
    return ResourceMeta(
        resource_id=record.job_id,
        current_revision_id=revision_id,
        created_time=record.created_time,
        updated_time=record.created_time,
        updated_by=MESSAGE_WAITS if record.message_waits else "",
        indexed_data=indexed_data(record),
    )


def _run_token(record: JobRecord) -> str:
    if record.worker is None:
        return MESSAGE_WAITS if record.message_waits else ""
    started = record.started_time.isoformat() if record.started_time is not None else ""
    message = str(record.delivery) if record.copy is None else f"{record.delivery}.{record.copy}"
    return f"{message}@{started}@{record.worker}"


def _row(snapshot: Snapshot) -> ResourceMeta:
    if snapshot.row is None:
        raise AssertionError("a stored snapshot has its meta row")
    return snapshot.row
