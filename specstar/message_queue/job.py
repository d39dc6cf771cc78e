"""What a job is: its public form, its record (envelope and stored state in one), and the exceptions that steer retries."""

from __future__ import annotations

import enum
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Generic, cast

from msgspec import Raw, Struct

from specstar.message_queue.retry import checked_seconds
from specstar.query import IndexedField

if sys.version_info >= (3, 13):
    from typing import TypeVar
else:
    from typing_extensions import TypeVar

__all__ = [
    "FORMAT",
    "INDEXED_FIELDS",
    "MODEL_NAME",
    "NO_RESULT",
    "DeadJob",
    "DelayRetry",
    "Job",
    "JobRecord",
    "JobStatus",
    "NoRetry",
]

P = TypeVar("P")
R_co = TypeVar("R_co", covariant=True, default=Any)
"""What a handler returns. With a default: `Job[Payload]` is a job whose result may be anything."""
FORMAT = 1
MODEL_NAME = "specstar.jobs"
"""The model under which the state of all jobs is kept."""
INDEXED_FIELDS: tuple[str | IndexedField, ...] = (
    "queue",
    "status",
    # Every run writes the row twice, and each index with it: what is seldom searched for alone has none.
    IndexedField("attempts", kinds=frozenset({"number"}), index=False),
    IndexedField("partition_key", kinds=frozenset({"string"}), index=False),
    IndexedField("idempotency_key", kinds=frozenset({"string"}), index=False),
)
"""The fields of a job that can be searched, besides those of every resource (`created_time`, `updated_time`, ...)."""


NO_RESULT = Raw(b"null")
"""The result of a job that has none (yet)."""


class JobStatus(enum.StrEnum):
    """Where a job stands. The last three are final."""

    pending = "pending"
    running = "running"
    retrying = "retrying"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"

    @property
    def finished(self) -> bool:
        """True if nothing more will happen to the job by itself."""
        return self in _FINISHED


_FINISHED = frozenset({JobStatus.succeeded, JobStatus.failed, JobStatus.cancelled})


class Job(Struct, Generic[P, R_co], frozen=True, kw_only=True):
    """One job as handlers and callers see it: a snapshot. Times are aware and in UTC.

    `attempts` counts the runs begun so far, the present one included. `result` is what the handler
    returned, None until it has succeeded. `error` is the last failure as text, `traceback` the
    end of its traceback. `scheduled_time` is when a delayed or retried job is due. `headers` are what its sender
    and the sender's `JobMiddleware` gave it.
    """

    job_id: str
    queue: str
    payload: P
    status: JobStatus = JobStatus.pending
    attempts: int = 0
    result: R_co = cast(Any, None)
    error: str | None = None
    traceback: str | None = None
    created_time: datetime
    scheduled_time: datetime | None = None
    started_time: datetime | None = None
    finished_time: datetime | None = None
    partition_key: str | None = None
    idempotency_key: str | None = None
    priority: int = 0
    headers: Mapping[str, str] = {}


class DeadJob(Struct, Generic[P], frozen=True, kw_only=True):
    """A job that was given up: the reason, the time, headers, and the payload (None if it does not decode, see `reason`)."""

    job_id: str
    queue: str
    payload: P | None
    attempts: int
    reason: str
    dead_time: datetime
    headers: Mapping[str, str] = {}


class JobRecord(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The state of a job, kept as a resource; as it is when enqueued, it is also the body of the message.

    `payload` and `result` are JSON. `delivery` and `copy` are the `attempts` and `copy` of the message that was in work
    last, `worker` the run that has or had it: they fence off messages and workers that come too late. `copy` is None if an
    earlier version began the run. `lineage` is that of the messages since the job was last sent back from the dead letters.
    While a job runs, its status, attempts, message, worker and start are kept in the meta row alone, until its outcome is
    written. `message_waits`: it was cancelled before a worker had its message, which must find this record.
    """

    job_id: str
    queue: str
    payload: Raw
    created_time: datetime
    revision_id: str
    format: int = FORMAT
    status: JobStatus = JobStatus.pending
    attempts: int = 0
    delivery: int = 0
    copy: str | None = None
    lineage: str = ""
    priority: int = 0
    partition_key: str | None = None
    idempotency_key: str | None = None
    scheduled_time: datetime | None = None
    started_time: datetime | None = None
    finished_time: datetime | None = None
    headers: dict[str, str] | None = None
    worker: str | None = None
    cancel_requested: bool = False
    message_waits: bool = False
    result: Raw = NO_RESULT
    error: str | None = None
    traceback: str | None = None


class NoRetry(Exception):
    """Raised by a handler: give the job up at once; it goes to the dead letters with this message as its reason."""


class DelayRetry(Exception):
    """Raised by a handler: try again after `seconds` (or a `timedelta`). The attempt counts, so that no job is tried for ever."""

    def __init__(self, seconds: float | timedelta, message: str = "") -> None:
        self.seconds: float = checked_seconds(seconds, field="seconds")
        super().__init__(message or f"the handler asked to be tried again in {self.seconds:g} s")
