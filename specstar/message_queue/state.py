"""The port through which queues and workers keep the state of jobs: few operations, conditional on what was seen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from msgspec import Struct

from specstar.errors import BackendUnavailable
from specstar.message_queue.job import JobRecord, JobStatus
from specstar.query import Condition, SortKey
from specstar.roles import ResourceMeta

__all__ = ["CONFLICTS", "MESSAGE_WAITS", "JobState", "Snapshot", "contended", "indexed_data"]

CONFLICTS = 16
"""How often a write that others were faster with is tried."""
MESSAGE_WAITS = "message waits"
"""The `updated_by` of a job with `message_waits`: by it a search finds these few among all that were cancelled."""


class Snapshot(Struct, frozen=True, gc=False):
    """The state of a job at one version. `row` is the meta row behind it, where there is one."""

    record: JobRecord
    version: int
    row: ResourceMeta | None


def contended(job_id: str) -> BackendUnavailable:
    """The error for a job that others were faster with each time."""
    return BackendUnavailable(f"job {job_id} is changed by others all the time", role="meta")


class JobState(ABC):
    """The records of the jobs of one spec. Called on the home loop; raises what the storage raises.

    The writes raise `RevisionConflictError` if the job was changed since the snapshot, `ResourceNotFoundError` if its
    record was erased.
    """

    @abstractmethod
    async def create(self, record: JobRecord) -> Snapshot:
        """Keep a new job. Raises `DuplicateResourceError` if its id is known."""

    @abstractmethod
    async def create_many(self, records: Sequence[JobRecord]) -> list[Snapshot | Exception]:
        """Keep new jobs, each by itself."""

    @abstractmethod
    def assume(self, record: JobRecord) -> Snapshot | None:
        """The state of a job whose first message has come, without reading: as it is if nothing happened since.

        A write on top of a wrong guess is refused. None: guessing would not be safe, read.
        """

    def waiting(self, job_id: str) -> JobRecord | None:
        """The record of a job that nothing has happened to since it was sent, if it is at hand: spares decoding its message."""
        return None

    @abstractmethod
    async def read(self, job_id: str) -> Snapshot | None:
        """The state, or None if there is no record of the job."""

    @abstractmethod
    async def mark(self, snapshot: Snapshot, record: JobRecord) -> Snapshot:
        """Write status, attempts, delivery, worker and started time alone: the cheap write of a run that begins."""

    @abstractmethod
    async def settle(self, snapshot: Snapshot, record: JobRecord) -> Snapshot:
        """Write all of the record."""

    @abstractmethod
    async def erase(self, job_id: str, *, expected_version: int | None = None) -> bool:
        """Forget a job. Raises `RevisionConflictError` if its version is another one."""

    async def withdraw(self, job_id: str) -> None:
        """Take back what `create` made, if nothing has changed it since. Raises `RevisionConflictError` if something has."""
        await self.erase(job_id, expected_version=_FIRST_VERSION)

    @abstractmethod
    async def search(
        self,
        condition: Condition | None,
        *,
        sort: Sequence[str | SortKey] = (),
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Snapshot]:
        """The matching jobs. Raises `QueryError`."""

    @abstractmethod
    async def count(self, condition: Condition | None) -> int:
        """The number of matching jobs. Raises `QueryError`."""


_FIRST_VERSION = 1


def indexed_data(record: JobRecord) -> dict[str, object]:
    """The searchable fields of a record, as `INDEXED_FIELDS` projects them."""
    return {
        "queue": record.queue,
        "status": _STATUS_TEXT[record.status],
        "attempts": record.attempts,
        "partition_key": record.partition_key,
        "idempotency_key": record.idempotency_key,
    }


# Plain str: what stores write and compare.
_STATUS_TEXT = {status: status.value for status in JobStatus}
