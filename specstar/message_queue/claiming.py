"""The beginning of a run: a delivery is claimed in the state of its job, or ended otherwise."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from specstar.errors import (
    BackendError,
    DecodeError,
    DuplicateResourceError,
    OutcomeUnknownError,
    ResourceNotFoundError,
    RevisionConflictError,
)
from specstar.message_queue.attempt import Attempt, Failed
from specstar.message_queue.claim import Decision, decide
from specstar.message_queue.codec import decode_record
from specstar.message_queue.endings import Endings
from specstar.message_queue.job import JobRecord, JobStatus
from specstar.message_queue.outcomes import GaveUp, Outcomes, cancelled
from specstar.message_queue.owner import run_is_gone
from specstar.message_queue.sender import seconds_until_due
from specstar.message_queue.state import CONFLICTS, Snapshot, contended
from specstar.resource_manager.ids import new_id
from specstar.roles import Delivery

if TYPE_CHECKING:
    from specstar.message_queue.queue import JobQueue
    from specstar.message_queue.worker import Worker

__all__ = ["Claims"]

logger: logging.Logger = logging.getLogger("specstar")
_PARTITION_GRACE_SECONDS = 2.0
# Workers renew the state of a last attempt that lost its delivery every second.
_SIGN_OF_LIFE_SECONDS = 5.0
_LEFT_ALONE_SECONDS = 10.0
_LOST_DELAY_SECONDS = 1.0
_replace = msgspec.structs.replace


class Claims:
    """Of the jobs of one queue in one worker.

    `in_hand` are the messages of the runs that have begun here or are about to, by the name of the run.
    """

    def __init__(self, worker: Worker, queue: JobQueue[Any], outcomes: Outcomes, endings: Endings) -> None:
        self.in_hand: dict[str, Delivery] = {}
        self._queue = queue
        self._name = queue.name
        self._worker = worker
        self._state = queue._state()
        self._outcomes = outcomes
        self._endings = endings
        self._policy = endings.policy

    async def attempt(self, delivery: Delivery) -> Attempt | None:
        """Begin the next attempt, or end the delivery otherwise."""
        message = delivery.message
        try:
            record = self._state.waiting(message.id) if self._state is not None else None
            if record is None:
                record = decode_record(message.body, job_id=message.id)
            if record.queue != self._name or record.job_id != message.id:
                text = f"message {message.id!r} carries job {record.job_id!r} of queue {record.queue!r}"
                raise DecodeError(text, job_id=message.id)
        except DecodeError as error:
            logger.warning("jobs %r: a message goes to the dead letters: %s", self._name, error)
            await self._outcomes.undecodable(message, f"DecodeError: {error}")
            self._queue._counts.failed += 1
            self._queue._notify(message.id)
            await self._endings.end(delivery.dead(message, reason=f"DecodeError: {error}"), delivery)
            return None
        if (delivery.redelivered or message.attempts) and self._adopted(delivery):
            return None
        if self._state is None:
            return await self._claim_without_state(record, delivery)
        # One name however often the beginning is tried: a mark that landed after all is known by it.
        run = self._worker.next_token()
        self.in_hand[run] = delivery
        attempt: Attempt | None = None
        try:
            try:
                attempt = await self._claim(record, delivery, run)
            except BackendError as error:
                attempt = await self._outcomes.again(lambda: self._claim(record, delivery, run), error)
        except DecodeError as error:
            # The stored state is damaged: nobody can tell whether to run it.
            self._queue._counts.failed += 1
            await self._endings.end(delivery.dead(message, reason=f"DecodeError: {error}"), delivery)
        finally:
            if attempt is None:
                del self.in_hand[run]
        return attempt

    def _adopted(self, delivery: Delivery) -> bool:
        """Give a message that came again to the attempt of this process that lost it with its connection, and still runs."""
        attempt = self._queue._running(delivery.message.id)
        if attempt is None or not attempt.delivery.lost:
            return False
        lost, message = attempt.delivery.message, delivery.message
        same = delivery.redelivered and message.attempts == lost.attempts and message.copy == lost.copy
        if not same and message.attempts <= attempt.record.attempts:
            return False
        if attempt.reason is not None:
            return False  # it is being stopped, and leaves its message to the next attempt: this one
        logger.info("job %s in %r came again while it runs here: it goes on", delivery.message.id, self._name)
        attempt.delivery = delivery
        if attempt.record.worker is not None:
            self.in_hand[attempt.record.worker] = delivery
        return True

    def _holds(self, found: JobRecord) -> bool:
        """True if the job runs in this worker, whose message of it is safe until the end: no other one is needed."""
        if found.status is not JobStatus.running or found.worker is None:
            return False
        held = self.in_hand.get(found.worker)
        # Its name may be that of another job's run, after this process was restored from a snapshot of it.
        return held is not None and not held.lost and held.message.id == found.job_id

    async def _claim(self, record: JobRecord, delivery: Delivery, run: str) -> Attempt | None:
        state, message = self._state, delivery.message
        if state is None:
            raise AssertionError("called with state only")
        # The record of a key may be another than the message's: one sender took its own back, and another sent the key anew.
        first = not delivery.redelivered and not message.attempts and record.idempotency_key is None
        snapshot = (state.assume(record) if first else None) or await state.read(record.job_id)
        waited = False
        for _ in range(CONFLICTS):
            try:
                if snapshot is None:
                    snapshot = await state.create(
                        _replace(record, attempts=message.attempts, lineage=message.lineage or "")
                    )
                found, seen = snapshot.record, snapshot.version
                if found.worker == run:
                    return Attempt(found, snapshot, delivery)  # our mark had landed after all
                decision = (
                    Decision.drop
                    if self._holds(found)
                    else decide(
                        found,
                        message,
                        redelivered=delivery.redelivered,
                        max_attempts=self._policy.max_attempts,
                    )
                )
                losing = found.status is JobStatus.running and decision in {Decision.run, Decision.exhausted}
                if losing and not waited and not run_is_gone(found.worker or ""):
                    waited = True
                    if found.partition_key is not None:
                        snapshot = await self._later(record.job_id, _PARTITION_GRACE_SECONDS)
                        continue
                    if decision is Decision.exhausted:
                        snapshot = await self._later(record.job_id, _SIGN_OF_LIFE_SECONDS)
                        if snapshot is None or not _lives(found, snapshot, seen):
                            continue
                        await self._leave_alone(found, delivery)
                        return None
                if decision is not Decision.run:
                    await self._turned_down(decision, snapshot, delivery)
                    return None
                begun = _replace(
                    found,
                    status=JobStatus.running,
                    attempts=found.attempts + 1,
                    delivery=message.attempts,
                    copy=message.copy,
                    worker=run,
                    started_time=datetime.now(UTC),
                    scheduled_time=None,
                )
                return Attempt(begun, await state.mark(snapshot, begun), delivery, _due(found, found.attempts))
            except (RevisionConflictError, ResourceNotFoundError, DuplicateResourceError, OutcomeUnknownError):
                snapshot = await state.read(record.job_id)
        raise contended(record.job_id)

    async def _later(self, job_id: str, seconds: float) -> Snapshot | None:
        """A worker lost the message of a job with its connection and may live: its state after some time for that one."""
        if self._state is None:
            raise AssertionError("called with state only")
        await self._worker.sleep(seconds)
        if self._worker.stopping:
            raise GaveUp("the worker stops")
        return await self._state.read(job_id)

    async def _leave_alone(self, found: JobRecord, delivery: Delivery) -> None:
        """The last attempt is at work, without its message: look again later, with one that is newer than any run."""
        logger.info("job %s in %r is left to the worker that runs it without its message", found.job_id, self._name)
        again = _replace(delivery.message, attempts=found.attempts + 1, copy=new_id(), lineage=found.lineage)
        await self._endings.end(delivery.retry(again, delay=_LEFT_ALONE_SECONDS), delivery)

    async def _turned_down(self, decision: Decision, snapshot: Snapshot, delivery: Delivery) -> None:
        record, message = snapshot.record, delivery.message
        if decision is Decision.drop:
            if record.message_waits and self._state is not None:
                await self._state.settle(snapshot, _replace(record, message_waits=False))
            await self._endings.end(delivery.ack(), delivery)
        elif decision is Decision.cancel:
            if self._state is not None:
                await self._state.settle(snapshot, cancelled(record))
            self._queue._notify(record.job_id)
            await self._endings.end(delivery.ack(), delivery)
        elif decision is Decision.park:
            dead = _replace(message, attempts=record.attempts)
            await self._endings.end(delivery.dead(dead, reason=record.error or "it failed"), delivery)
        elif decision is Decision.resend:
            again = _replace(message, attempts=record.attempts, copy=new_id())
            await self._endings.end(delivery.retry(again, delay=seconds_until_due(record)), delivery)
        elif self._state is not None:
            reason = f"WorkerLost: the worker died during attempt {record.attempts} of {self._policy.max_attempts}"
            failed = _replace(
                record,
                status=JobStatus.failed,
                delivery=message.attempts,
                copy=message.copy,
                error=reason,
                finished_time=datetime.now(UTC),
            )
            await self._state.settle(snapshot, failed)
            self._endings.log_dead(record.job_id, reason)
            self._queue._counts.failed += 1
            self._queue._notify(record.job_id)
            await self._endings.end(delivery.dead(_replace(message, attempts=record.attempts), reason=reason), delivery)

    async def _claim_without_state(self, record: JobRecord, delivery: Delivery) -> Attempt | None:
        message = delivery.message
        if delivery.redelivered:
            # The loss is counted in a new message before the job may run again: else it could kill workers for ever. Not at
            # once, so that the acknowledgement of the old message gets through before the next worker may die of it.
            delay = max(self._policy.delay_after(message.attempts + 1), _LOST_DELAY_SECONDS)
            lost = Failed("WorkerLost: the worker died during the attempt", None, delay=delay)
            await self._endings.end(self._endings.fail_message(delivery, lost, attempts=message.attempts + 1), delivery)
            return None
        begun = _replace(
            record,
            status=JobStatus.running,
            attempts=message.attempts + 1,
            delivery=message.attempts,
            started_time=datetime.now(UTC),
        )
        return Attempt(begun, None, delivery, _due(record, message.attempts))


def _due(record: JobRecord, attempts: int) -> datetime | None:
    """When it should have begun; None if that is not known, as its worker died."""
    if record.scheduled_time is not None or attempts:
        return record.scheduled_time
    return record.created_time


def _lives(found: JobRecord, later: Snapshot, version: int) -> bool:
    """True if the run has shown since that `version` that it goes on."""
    record = later.record
    same_run = record.status is JobStatus.running and record.worker == found.worker
    return same_run and later.version != version and not record.cancel_requested
