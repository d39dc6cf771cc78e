"""`JobQueue`: what `@spec.job` makes of a handler. Sending jobs, looking at them, and the dead letters."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from specstar.checks import checked_count, listed
from specstar.errors import (
    BackendUnavailable,
    DecodeError,
    InvalidInputError,
    WaitTimeoutError,
)
from specstar.message_queue import clearing
from specstar.message_queue.attempt import Attempt
from specstar.message_queue.backend import JobBackend
from specstar.message_queue.codec import DEFAULT_MAX_PAYLOAD_BYTES, JobCodec
from specstar.message_queue.counts import JobCounts
from specstar.message_queue.job import DeadJob, Job, JobStatus, R_co
from specstar.message_queue.kept_jobs import KeptJobs
from specstar.message_queue.retry import RetryPolicy, checked_factor, checked_seconds
from specstar.message_queue.schedule import schedule_of
from specstar.message_queue.sender import MAX_PRIORITY, JobSender
from specstar.message_queue.signature import signature_of
from specstar.message_queue.state import JobState, Snapshot
from specstar.message_queue.ticks import Ticks, payload_of_ticks
from specstar.message_queue.watchers import Watchers
from specstar.query import Condition, SortKey
from specstar.resource_manager.ids import checked_id
from specstar.roles import MessageQueue
from specstar.runtime import gated

if TYPE_CHECKING:
    from specstar.message_queue.lane import Lane

__all__ = ["MAX_PRIORITY", "JobQueue"]

P = TypeVar("P")


class JobQueue(Generic[P, R_co]):
    """One job type: its queue, its handler and the state of its jobs. Made by `@spec.job` and `spec.add_job`.

    Every coroutine may be called from asyncio, trio and any thread's loop. All raise `NotConfiguredError` while no mq is
    configured, `BackendUnavailable` when a backend does not answer in time, and `BackendError` when it refuses. What looks
    at jobs raises `NotConfiguredError` if the job was declared with `keep_state=False`. Times are seconds, or a `timedelta`.
    """

    def __init__(
        self,
        backend: JobBackend,
        handler: Callable[[Job[P]], Any],
        *,
        name: str | None = None,
        payload_type: Any = None,
        result_type: Any = None,
        max_retries: int | None = None,
        retry_delay: float | timedelta | None = None,
        retry_backoff: float = 1.0,
        retry_max_delay: float | timedelta = 3600.0,
        timeout: float | timedelta | None = None,
        every: float | timedelta | None = None,
        cron: str | None = None,
        timezone: str | None = None,
        every_payload: P | None = None,
        keep_state: bool = True,
        priority: int = 0,
        max_priority: int | None = None,
        concurrency: int | None = None,
        max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
        forget_after: float | timedelta | None = None,
    ) -> None:
        signature = signature_of(handler)
        self.name: str = _checked_name(signature.name if name is None else name)
        self.handler = handler
        self.is_async: bool = signature.is_async
        self.payload_type: Any = signature.payload_type if payload_type is None else payload_type
        if self.payload_type is None:
            raise InvalidInputError(
                f"job {self.name!r} does not say what its payload is: annotate the handler's argument as Job[YourType], "
                "or use spec.add_job(YourType, handler)",
                field="payload_type",
            )
        self.result_type: Any = signature.result_type if result_type is None else result_type
        self.max_retries: int | None = (
            None if max_retries is None else checked_count(max_retries, "max_retries", 0, 1000)
        )
        self.concurrency: int | None = (
            None if concurrency is None else checked_count(concurrency, "concurrency", 1, 100_000)
        )
        self.retry_delay: float | None = (
            None if retry_delay is None else checked_seconds(retry_delay, field="retry_delay")
        )
        self.retry_backoff: float = checked_factor(retry_backoff, field="retry_backoff")
        self.retry_max_delay: float = checked_seconds(retry_max_delay, field="retry_max_delay")
        self.timeout: float | None = (
            None if timeout is None else checked_seconds(timeout, field="timeout", minimum=0.001)
        )
        schedule = schedule_of(every=every, cron=cron, timezone=timezone)
        self.every: float | None = None if schedule is None else schedule.every
        self.cron: str | None = None if schedule is None else schedule.cron
        self.timezone: str | None = None if schedule is None else schedule.timezone
        self.keep_state = keep_state
        if forget_after is not None and not keep_state:
            raise InvalidInputError(
                f"job {self.name!r} keeps no state (keep_state=False) to forget", field="forget_after"
            )
        self.forget_after: float | None = (
            None if forget_after is None else checked_seconds(forget_after, field="forget_after")
        )
        self.priority: int = checked_count(priority, "priority", 0, MAX_PRIORITY)
        self.max_priority: int | None = (
            None if max_priority is None else checked_count(max_priority, "max_priority", 0, MAX_PRIORITY)
        )
        self._codec: JobCodec[P, R_co] = JobCodec(
            self.name, self.payload_type, self.result_type, max_payload_bytes=max_payload_bytes
        )
        self._backend = backend
        self._gate = backend.gate
        self._counts = JobCounts()
        self._sender = JobSender(
            self.name,
            self._codec,
            backend,
            self._counts,
            keep_state=keep_state,
            priority=self.priority,
            max_priority=self.max_priority,
        )
        self._kept = KeptJobs(self.name, self._sender.state)
        self._ticks: Ticks | None = None
        if schedule is not None:
            payload = payload_of_ticks(self._codec, every_payload)
            self._ticks = Ticks(
                self.name, schedule, payload, self._sender, keep_state=keep_state, forget_after=self.forget_after
            )
        self._lanes: list[Lane] = []
        self._watchers = Watchers()
        functools.update_wrapper(self, handler, updated=())

    def __call__(self, job: Job[P]) -> Any:
        """Call the handler itself, without any queue: for tests, and for code that already runs as a job."""
        return self.handler(job)

    def __repr__(self) -> str:
        return f"JobQueue({self.name!r})"

    # Sending

    @gated
    async def enqueue(
        self,
        payload: P,
        *,
        delay: float | timedelta | None = None,
        idempotency_key: str | None = None,
        partition_key: str | None = None,
        priority: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Job[P, R_co]:
        """Send a job; returns once the broker has confirmed that it keeps it.

        `delay` is how long it may not run yet. Jobs with one `partition_key` run one at a time. The same `idempotency_key`
        gives the same job; with another payload it raises `IdempotencyConflictError`. `priority` 0 to 9, high first.
        `headers` travel beside the payload. Raises `InvalidInputError` for a payload that does not fit the type,
        `LimitExceededError` for one that is too large.
        """
        later = None if delay is None else checked_seconds(delay, field="delay")
        record, copy = self._sender.record(
            payload, later, idempotency_key, partition_key, priority, self._sender.headers(headers)
        )
        sent = await self._sender.send(record, later or 0.0)
        return self._codec.job_with(record, copy) if sent is record else self._codec.job_with(sent, copy, strict=False)

    @gated
    async def enqueue_many(
        self,
        payloads: Iterable[P],
        *,
        delay: float | timedelta | None = None,
        partition_key: str | None = None,
        priority: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> list[Job[P, R_co]]:
        """Send many jobs in the fewest steps, in order; returns once all are confirmed.

        After an error any of them may have been sent. Raises what `enqueue` raises.
        """
        later = None if delay is None else checked_seconds(delay, field="delay")
        batch, common = listed(payloads, field="payloads"), self._sender.headers(headers)
        made = self._sender.records(batch, later, partition_key, priority, common)
        await self._sender.send_many([record for record, _ in made], later or 0.0)
        return [self._codec.job_with(record, copy) for record, copy in made]

    # Looking

    @gated
    async def get(self, job_id: str) -> Job[P, R_co]:
        """The job as it stands. Raises `JobNotFoundError`, `DecodeError` if it does not fit the types of this program."""
        return self._codec.job((await self._kept.read(job_id)).record)

    @gated
    async def wait(self, job_id: str, *, timeout: float | timedelta | None = None) -> Job[P, R_co]:
        """Wait until the job has succeeded, failed for good or been cancelled, and return it.

        Raises `WaitTimeoutError` after `timeout`, and one second more if the stores do not answer (the job goes on), and
        `JobNotFoundError`. Learns at once of what this process runs, else by asking the stores, at first after 20 ms, later
        every second.
        """
        checked_id(job_id, field="job_id")
        seconds = None if timeout is None else checked_seconds(timeout, field="timeout")
        generation = self._gate.generation

        async def read(job_id: str) -> Snapshot:
            # Else the wait would open again what its program has closed.
            if self._gate.generation != generation:
                raise BackendUnavailable("specstar was closed while this waited")
            return await self._kept.read(job_id)

        snapshot = await self._watchers.until_finished(job_id, read, seconds)
        if snapshot is None:
            raise WaitTimeoutError(f"job {job_id} in {self.name!r}: its state could not be read within {seconds:g} s")
        record = snapshot.record
        if not record.status.finished:
            raise WaitTimeoutError(f"job {job_id} in {self.name!r} is still {record.status} after {seconds:g} s")
        return self._codec.job(record)

    @gated
    async def search(
        self,
        query: Condition | None = None,
        *,
        status: JobStatus | None = None,
        sort: Sequence[str | SortKey] = ("-created_time",),
        limit: int | None = 100,
        offset: int = 0,
    ) -> list[Job[P, R_co]]:
        """The jobs of this queue that match; jobs that do not decode are left out.

        Fields: `status`, `attempts`, `partition_key`, `idempotency_key` and those of every resource, such as
        `created_time`. Raises `QueryError`.
        """
        found = await self._kept.search(query, status, sort=sort, limit=limit, offset=offset)
        jobs: list[Job[P, R_co]] = []
        for snapshot in found:
            try:
                jobs.append(self._codec.job(snapshot.record))
            except DecodeError:
                continue
        return jobs

    @gated
    async def count(self, query: Condition | None = None, *, status: JobStatus | None = None) -> int:
        """The number of jobs of this queue that match. Raises `QueryError`."""
        return await self._kept.count(query, status)

    @gated
    async def depth(self) -> int:
        """The number of jobs that are ready to run, without delayed and dead ones."""
        return await self._messages().depth()

    # Changing

    @gated
    async def cancel(self, job_id: str) -> bool:
        """Cancel a job: one that waits never runs, one that runs is cancelled soon. False if it was finished already.

        A plain function that runs cannot be stopped; its outcome is dropped. Raises `JobNotFoundError`.
        """
        return await self._kept.cancel(job_id, self._running, self._notify)

    @gated
    async def purge(self) -> int:
        """Delete all jobs that wait, delayed ones too; returns how many messages went. Their state becomes cancelled.

        That of those that others send in the meantime, too, though the messages may stay, which do nothing then.
        If it raises, some of the messages may have gone, and the state of their jobs waits still: call it again.
        """
        began = datetime.now(UTC)
        purged = await self._messages().purge()
        state = self._state()
        if state is not None:
            await clearing.cancel_waiting(state, self._kept.condition(), began, self._notify)
        return purged

    @gated
    async def forget_finished(self, *, older_than: float | timedelta) -> int:
        """Erase the state of jobs that finished longer ago than `older_than`; returns how many.

        That of a job which was cancelled while it waited stays until its message has come to a worker, or is purged. One
        that was sent again by its idempotency key may have a second message, which runs it once more if it is forgotten
        before that comes (in a queue of this process it is kept until then).
        """
        state, messages = self._kept.state(), self._messages()
        before = datetime.now(UTC) - timedelta(seconds=checked_seconds(older_than, field="older_than"))
        in_process = not self._backend.current().factory.durable
        return await clearing.forget_finished(state, messages, self._kept.condition(), before, in_process=in_process)

    # Dead letters

    @gated
    async def list_dead(self, *, limit: int = 100) -> list[DeadJob[P]]:
        """The jobs that were given up, oldest first, with their reasons."""
        return [self._codec.dead_job(letter) for letter in await self._messages().dead_letters(limit=limit)]

    @gated
    async def requeue_dead(self, job_ids: Iterable[str] | None = None) -> int:
        """Send dead jobs (None: all that are dead now) back to work with no attempts counted; returns how many.

        Raises `LimitExceededError`, once all others are sent, if the broker takes some no more for their size: they stay.
        """
        messages, state = self._messages(), self._state()
        if job_ids is not None:
            job_ids = listed(job_ids, field="job_ids")
        if state is None:
            return await messages.requeue_dead(job_ids)
        return await clearing.requeue_dead(state, messages, self.name, job_ids)

    @gated
    async def purge_dead(self, job_ids: Iterable[str] | None = None) -> int:
        """Delete dead letters (None: all); returns how many. The state of their jobs stays."""
        return await self._messages().purge_dead(None if job_ids is None else listed(job_ids, field="job_ids"))

    # Inside

    def _messages(self) -> MessageQueue:
        return self._sender.messages()

    def _state(self) -> JobState | None:
        return self._sender.state()

    def _lanes_here(self) -> list[Lane]:
        """Those of this process: not of the parent, before a fork."""
        return [lane for lane in self._lanes if lane.pid == os.getpid()]

    def _running(self, job_id: str) -> Attempt | None:
        """The attempt at this job in this process, if there is one."""
        for lane in self._lanes_here():
            attempt = lane.attempts.get(job_id)
            if attempt is not None:
                return attempt
        return None

    def _sharing(self) -> tuple[bool, bool]:
        """Whether other processes may see the state, and whether the messages end with this process."""
        opened = self._backend.current()
        return self.keep_state and opened.state_is_durable, not opened.factory.durable

    def _policy(self) -> RetryPolicy:
        factory = self._backend.current().factory
        return RetryPolicy(
            max_retries=factory.max_retries if self.max_retries is None else self.max_retries,
            delay=factory.retry_delay_seconds if self.retry_delay is None else self.retry_delay,
            backoff=self.retry_backoff,
            max_delay=self.retry_max_delay,
        )

    def _notify(self, job_id: str) -> None:
        """Wake those who wait for this job in this process."""
        self._watchers.notify(job_id)


def _checked_name(name: str) -> str:
    checked_id(name, field="name")
    if name.startswith("<"):
        raise InvalidInputError("give the job a name=: that of a lambda says nothing", field="name")
    return name
