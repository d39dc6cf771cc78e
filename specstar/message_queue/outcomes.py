"""Writing what has come of a run into the state of its job: as often as it takes, and only while the job is this worker's."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import msgspec

from specstar.errors import (
    BackendError,
    DecodeError,
    LimitExceededError,
    OutcomeUnknownError,
    ResourceNotFoundError,
    RevisionConflictError,
)
from specstar.message_queue.attempt import Attempt
from specstar.message_queue.job import JobRecord, JobStatus
from specstar.message_queue.state import CONFLICTS, JobState, contended
from specstar.roles import Delivery, Message
from specstar.runtime import Outage

if TYPE_CHECKING:
    from specstar.message_queue.worker import Worker

__all__ = ["GaveUp", "Outcomes", "cancelled", "superseded"]

R = TypeVar("R")
logger: logging.Logger = logging.getLogger("specstar")


class GaveUp(Exception):
    """The worker ends before an outcome could be written."""


class Outcomes:
    """Of the jobs of one queue in one worker. `state` is None where none is kept."""

    def __init__(self, state: JobState | None, worker: Worker, queue: str) -> None:
        self._state = state
        self._worker = worker
        self._name = queue
        self._outage = Outage()

    async def write(self, attempt: Attempt, record: JobRecord) -> JobRecord | None:
        """Write an outcome, if the job is still this worker's. Returns the record that stands then; None: it is erased."""
        try:
            return await self._write(attempt, record)
        except BackendError as error:
            return await self.again(lambda: self._write(attempt, record), error)

    async def _write(self, attempt: Attempt, record: JobRecord) -> JobRecord | None:
        state, snapshot = self._state, attempt.snapshot
        if state is None or snapshot is None:
            return record
        for _ in range(CONFLICTS):
            try:
                await state.settle(snapshot, record)
                return record
            except (RevisionConflictError, OutcomeUnknownError, ResourceNotFoundError):
                found = await state.read(record.job_id)
            if found is None:
                return None  # erased while it ran
            mine = found.record.worker == attempt.record.worker
            given_up = found.record.status is JobStatus.failed and record.status is JobStatus.succeeded
            # A run that was taken for dead, and has done its work all the same, is right.
            if not mine or not (found.record.status is JobStatus.running or given_up):
                if found.record.status is not record.status:
                    logger.warning(
                        "job %s in %r: another worker has it; this outcome is dropped", record.job_id, record.queue
                    )
                return found.record
            attempt.snapshot = snapshot = found
            if found.record.cancel_requested:
                # Whoever cancelled it was told so: that stands, whatever has come of the run.
                record = cancelled(found.record)
        raise contended(record.job_id)

    async def undecodable(self, message: Message, reason: str) -> None:
        """The message goes to the dead letters as it is: a job that waits for it has failed."""
        try:
            await self._give_up(message.id, reason, waiting_for=message)
        except BackendError as failure:
            await self.again(lambda: self._give_up(message.id, reason, waiting_for=message), failure)

    async def end_unsent(self, delivery: Delivery, error: LimitExceededError) -> None:
        """The broker takes no message of this size, neither a retry nor a dead letter: the job ends for good without one."""
        job_id = delivery.message.id
        logger.error("job %s in %r ends without a dead letter: %s", job_id, self._name, error)
        try:
            try:
                await self._give_up(job_id, str(error))
            except BackendError as failure:
                await self.again(lambda: self._give_up(job_id, str(error)), failure)
            await delivery.ack()
        except (BackendError, GaveUp) as failure:
            logger.warning("job %s in %r comes again: %s", job_id, self._name, failure)

    async def _give_up(self, job_id: str, reason: str, *, waiting_for: Message | None = None) -> None:
        if self._state is None:
            return
        for _ in range(CONFLICTS):
            with contextlib.suppress(RevisionConflictError, OutcomeUnknownError, ResourceNotFoundError):
                try:
                    found = await self._state.read(job_id)
                except DecodeError:
                    return  # damaged: there is nothing to write
                if found is None or found.record.status.finished:
                    return
                if waiting_for is not None and not _waits_for(found.record, waiting_for, self._name):
                    return
                text = found.record.error or ""
                if reason not in text:
                    text = f"{text}; {reason}" if text else reason
                failed = msgspec.structs.replace(
                    found.record, status=JobStatus.failed, error=text, worker=None, finished_time=datetime.now(UTC)
                )
                await self._state.settle(found, failed)
                return
        raise contended(job_id)

    async def again(self, operation: Callable[[], Awaitable[R]], error: BackendError) -> R:
        """Repeat what has failed while the state's backend fails. Raises `GaveUp` when the worker ends before it is back."""
        pause = 0.1
        while True:
            if self._worker.interrupted:
                raise GaveUp(str(error)) from error
            if (lasted := self._outage.fails()) is not None:
                since = f" for {lasted:.0f} s" if lasted else ""
                logger.warning("jobs %r: the state of jobs cannot be kept%s, tried again: %s", self._name, since, error)
            await self._worker.sleep(pause, even_when_stopping=True)
            pause = min(pause * 2, 5.0)
            try:
                result = await operation()
            except BackendError as failure:
                error = failure
                continue
            if (lasted := self._outage.works()) is not None:
                logger.info("jobs %r: the state of jobs is kept again, after %.0f s", self._name, lasted)
            return result


def _waits_for(record: JobRecord, message: Message, queue: str) -> bool:
    waits = record.status is JobStatus.pending or record.status is JobStatus.retrying
    return waits and record.queue == queue and message.attempts >= record.attempts


def cancelled(record: JobRecord) -> JobRecord:
    return msgspec.structs.replace(record, status=JobStatus.cancelled, finished_time=datetime.now(UTC), worker=None)


def superseded(attempt: Attempt, stands: JobRecord | None) -> bool:
    """True if the job was cancelled, or another worker has it with a message of its own: the attempt's is needed no more."""
    if stands is None or attempt.record.worker is None:
        return False
    if stands.status is JobStatus.cancelled:
        return not stands.message_waits
    return stands.worker is not None and stands.worker != attempt.record.worker
