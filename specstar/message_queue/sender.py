"""Sending jobs: the record first, then the message, and what a broken or repeated attempt at that leaves behind."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import msgspec

from specstar.checks import checked_count, checked_text, made_of_each
from specstar.errors import (
    DuplicateResourceError,
    IdempotencyConflictError,
    InvalidInputError,
    OutcomeUnknownError,
    ResourceNotFoundError,
    RevisionConflictError,
    SpecstarError,
)
from specstar.message_queue.backend import JobBackend
from specstar.message_queue.codec import JobCodec, envelope
from specstar.message_queue.counts import JobCounts
from specstar.message_queue.job import JobRecord, JobStatus
from specstar.message_queue.middleware import headers_of
from specstar.message_queue.state import CONFLICTS, JobState
from specstar.resource_manager.ids import checked_id, new_id
from specstar.roles import Message, MessageQueue
from specstar.runtime import clean_up

__all__ = ["CLOCK_SKEW", "MAX_PRIORITY", "JobSender", "message_of", "seconds_until_due"]

MAX_PRIORITY = 9
CLOCK_SKEW = timedelta(seconds=5)
"""By how much the clock of a sender may be ahead."""
_MAX_KEY_BYTES = 255
# What is given once for several jobs.
_OF_ALL = ("partition_key", "priority")
_CLEANUP_SECONDS = 5.0
_CLEANUP_TASKS = 64


class JobSender:
    """Makes and sends the jobs of one queue, on the home loop."""

    def __init__(
        self,
        name: str,
        codec: JobCodec[Any],
        backend: JobBackend,
        counts: JobCounts,
        *,
        keep_state: bool,
        priority: int,
        max_priority: int | None,
    ) -> None:
        self._name = name
        self._counts = counts
        self._codec = codec
        self._backend = backend
        self._keep_state = keep_state
        self._priority = priority
        self._max_priority = max_priority

    def messages(self) -> MessageQueue:
        """The queue of now."""
        return self._backend.queue(self._name, max_priority=self._max_priority)

    def state(self) -> JobState | None:
        """The state of now; None if none is kept."""
        return self._backend.state() if self._keep_state else None

    async def send(self, record: JobRecord, delay: float, *, most_touches: int | None = None) -> JobRecord:
        """Keep the record and send the message; returns the record of the job, which may be an earlier one of its key.

        `most_touches`: for ticks, of which the first counts, whatever its payload. It is sent again only if its state was
        written fewer times than this since it was made.
        """
        messages, state = self.messages(), self.state()
        if state is None:
            await messages.publish(message_of(record), delay=delay)
            self._counts.enqueued += 1
            return record
        with self._backend.current().sendings:
            return await self._send(state, messages, record, delay, most_touches)

    async def _send(
        self, state: JobState, messages: MessageQueue, record: JobRecord, delay: float, most_touches: int | None
    ) -> JobRecord:
        for _ in range(CONFLICTS):
            try:
                await state.create(record)
            except DuplicateResourceError:
                known = await self._sent_before(state, messages, record, most_touches)
                if known is not None:
                    return known
                continue  # it was erased, or moved on, while we looked
            except BaseException as error:
                # A record that may be there all the same; one with a key is mended by whoever sends the key again.
                if record.idempotency_key is None and _may_have_landed(error):
                    await _forget(state, [record], in_flight=True)
                raise
            try:
                await messages.publish(message_of(record), delay=delay)
            except BaseException:
                # Nobody was told of this job. If the message went out after all, its worker makes the record again.
                await _forget(state, [record])
                raise
            self._counts.enqueued += 1
            return record
        raise RevisionConflictError(record.job_id, model=self._name)

    async def send_many(self, records: Sequence[JobRecord], delay: float) -> None:
        """Send several new jobs; after an error any of them may have been sent."""
        if not records:
            return
        messages, state = self.messages(), self.state()
        if state is None:
            await messages.publish_many([message_of(record) for record in records], delay=delay)
            self._counts.enqueued += len(records)
            return
        in_flight = True
        with self._backend.current().sendings:
            try:
                results = await state.create_many(records)
                in_flight = False
                for result in results:
                    if isinstance(result, Exception):
                        raise result
                await messages.publish_many([message_of(record) for record in records], delay=delay)
                self._counts.enqueued += len(records)
            except BaseException:
                await _forget(state, records, in_flight=in_flight)
                raise

    async def _sent_before(
        self, state: JobState, messages: MessageQueue, record: JobRecord, most_touches: int | None
    ) -> JobRecord | None:
        """The job that this idempotency key made before. None: look again."""
        snapshot = await state.read(record.job_id)
        if snapshot is None:
            return None
        known = snapshot.record
        if most_touches is None and not self._codec.same_payload(known.payload, record.payload):
            raise IdempotencyConflictError(record.idempotency_key or "", job_id=known.job_id)
        if known.status is not JobStatus.pending or known.attempts:
            return known
        if most_touches is not None and snapshot.version > most_touches:
            return known
        if not self._backend.current().factory.durable and messages.holds(known.job_id):
            return known
        # Its sender may have died, or be about to fail, between state and message: send it (again), after a touch of the
        # state that keeps a failing sender from taking the record back. A second copy is recognised and dropped.
        try:
            await state.mark(snapshot, known)
        except (RevisionConflictError, ResourceNotFoundError):
            return None
        again = msgspec.structs.replace(message_of(known), copy=new_id())
        await messages.publish(again, delay=seconds_until_due(known))
        return known

    def headers(self, given: Mapping[str, str] | None) -> dict[str, str] | None:
        """Those of what is sent now: of the middleware, and given. Raises what the middleware raises, and as `record` does."""
        return headers_of(self._name, given, self._backend.middleware)

    def record(
        self,
        payload: Any,
        delay: float | None,
        idempotency_key: str | None,
        partition_key: str | None,
        priority: int | None,
        headers: dict[str, str] | None = None,
    ) -> tuple[JobRecord, Any]:
        """A new job, checked but for its `delay` in seconds, and its payload as a worker will see it.

        Raises what `JobQueue.enqueue` does for wrong input.
        """
        now = datetime.now(UTC)
        if partition_key is not None:
            _checked_key(partition_key, "partition_key")
        if idempotency_key is None:
            # Nobody else ever sends this job: one name will do.
            job_id = revision_id = new_id()
        else:
            if not self._keep_state:
                raise InvalidInputError(
                    f"job {self._name!r} keeps no state (keep_state=False), so an idempotency key cannot be recognised",
                    field="idempotency_key",
                )
            job_id = self._id_of_key(_checked_key(idempotency_key, "idempotency_key"))
            revision_id = new_id()
        encoded, copy = self._codec.encode_payload(payload)
        record = JobRecord(
            job_id=job_id,
            queue=self._name,
            payload=encoded,
            created_time=now,
            revision_id=revision_id,
            priority=self._priority if priority is None else checked_count(priority, "priority", 0, MAX_PRIORITY),
            partition_key=partition_key,
            idempotency_key=idempotency_key,
            scheduled_time=now + timedelta(seconds=delay) if delay else None,
            headers=headers,
        )
        return record, copy

    def records(
        self,
        payloads: Sequence[Any],
        delay: float | None,
        partition_key: str | None,
        priority: int | None,
        headers: dict[str, str] | None,
    ) -> list[tuple[JobRecord, Any]]:
        """The same for each of several, in order. The error says which payload it is about."""
        return made_of_each(
            payloads,
            lambda payload: self.record(payload, delay, None, partition_key, priority, headers),
            field="payloads",
            of_all=_OF_ALL,
        )

    def _id_of_key(self, key: str) -> str:
        """One id for one key of this queue: whoever comes second finds the first's record, in any process."""
        digest = hashlib.sha256(f"{self._name}\0{key}".encode()).hexdigest()
        return f"key-{digest[:40]}"


def message_of(record: JobRecord) -> Message:
    """The first message of a job."""
    return Message(
        id=record.job_id,
        body=envelope(record),
        priority=record.priority,
        partition_key=record.partition_key,
        lineage=record.lineage,
    )


async def _forget(state: JobState, records: Sequence[JobRecord], *, in_flight: bool = False) -> None:
    """Take back the records of jobs that were not sent, as far as nobody has touched them yet.

    `in_flight`: a write of them may be on its way still. A second one of the same id ends after it, whichever wins.
    """
    waiting = iter(records)

    async def erase() -> None:
        for record in waiting:
            with contextlib.suppress(SpecstarError):
                if in_flight:
                    with contextlib.suppress(DuplicateResourceError):
                        await state.create(record)
                await state.withdraw(record.job_id)

    async def erase_all() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(min(len(records), _CLEANUP_TASKS)):
                group.start_soon(erase)

    await clean_up(erase_all, seconds=_CLEANUP_SECONDS)


def _may_have_landed(error: BaseException) -> bool:
    """True if a write that ended in this way may have been made: cancelled in flight, or its answer was lost."""
    return isinstance(error, OutcomeUnknownError) or not isinstance(error, Exception)


def seconds_until_due(record: JobRecord) -> float:
    """How long a job that is sent again has to wait; 0 if it is due.

    The clock that said when it is due may be far ahead of ours: no longer than from what went before it by that same clock.
    """
    due = record.scheduled_time
    if due is None:
        return 0.0
    before = record.started_time if record.attempts and record.started_time is not None else record.created_time
    return max(min((due - datetime.now(UTC)).total_seconds(), (due - before).total_seconds()), 0.0)


def _checked_key(key: str, field: str) -> str:
    return checked_id(checked_text(key, field=field, most_bytes=_MAX_KEY_BYTES), field=field)
