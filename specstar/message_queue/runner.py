"""The way of a delivery: claimed, run, settled in the state, ended at the broker. The state always comes first."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import msgspec

from specstar.errors import (
    BackendError,
    DecodeError,
    DuplicateResourceError,
    InvalidInputError,
    LimitExceededError,
    OutcomeUnknownError,
    ResourceNotFoundError,
    RevisionConflictError,
)
from specstar.escaping import escaped
from specstar.message_queue.attempt import Attempt, Failed, Interrupted, Stopped, Succeeded
from specstar.message_queue.claim import Decision, decide
from specstar.message_queue.codec import decode_record, failure_text
from specstar.message_queue.invoke import invoker
from specstar.message_queue.job import JobRecord, JobStatus
from specstar.message_queue.outcomes import GaveUp, Outcomes, cancelled, superseded
from specstar.message_queue.owner import run_is_gone
from specstar.message_queue.sender import seconds_until
from specstar.message_queue.state import CONFLICTS, Snapshot, contended
from specstar.resource_manager.ids import new_id
from specstar.roles import Delivery

if TYPE_CHECKING:
    from specstar.message_queue.queue import JobQueue
    from specstar.message_queue.worker import Worker

__all__ = ["JobRunner"]

R = TypeVar("R")
logger = logging.getLogger("specstar")
_PARTITION_GRACE_SECONDS = 2.0
# Workers renew the state of a last attempt that lost its delivery every second.
_SIGN_OF_LIFE_SECONDS = 5.0
_LEFT_ALONE_SECONDS = 10.0
_LOST_DELAY_SECONDS = 1.0
_replace = msgspec.structs.replace


class JobRunner:
    """Handles the deliveries of one queue in one worker. `attempts` are the jobs that run now, by id."""

    def __init__(self, worker: Worker, queue: JobQueue[Any]) -> None:
        self.attempts: dict[str, Attempt] = {}
        # The messages of the runs that have begun here or are about to, by the name of the run.
        self._in_hand: dict[str, Delivery] = {}
        self._queue = queue
        self._name = queue.name
        self._worker = worker
        self._state = queue._state()
        self._policy = queue._policy()
        self._outcomes = Outcomes(self._state, worker, self._name)
        # The scopes of this event loop themselves: asking which loop it is costs as much as the scope.
        self._new_scope = type(anyio.CancelScope())
        self._invoke = invoker(queue.handler, is_async=queue.is_async, caller=worker.caller, threads=worker.threads)

    @property
    def busy(self) -> int:
        """The number of runs that have begun here or are about to."""
        return max(len(self._in_hand), len(self.attempts))

    async def handle(self, delivery: Delivery) -> None:
        """Do all there is to do about a delivery. Raises nothing but a cancellation of the worker."""
        try:
            attempt = await self._claimed(delivery)
            if attempt is not None:
                await self._attempt(attempt)
        except GaveUp as error:
            # Left without an end: the delivery goes back with the consumer.
            logger.warning("job %s in %r is left to another worker: %s", delivery.message.id, self._name, error)
        except Exception as error:
            logger.exception("job %s in %r could not be handled", delivery.message.id, self._name)
            await self._put_off(delivery, error)

    async def _put_off(self, delivery: Delivery, error: Exception) -> None:
        """A fault of ours, not of the handler: try again later, as often as the job may fail."""
        message = delivery.message
        attempts = message.attempts + 1
        if attempts >= self._policy.max_attempts:
            await self._end(
                delivery.dead(_replace(message, attempts=attempts), reason=failure_text(error)[0]), delivery
            )
        else:
            later = max(self._policy.delay_after(attempts), 1.0)
            await self._end(delivery.retry(_replace(message, attempts=attempts), delay=later), delivery)

    # Claiming

    async def _claimed(self, delivery: Delivery) -> Attempt | None:
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
            self._queue._notify(message.id)
            await self._end(delivery.dead(message, reason=f"DecodeError: {error}"), delivery)
            return None
        if (delivery.redelivered or message.attempts) and self._adopted(delivery):
            return None
        if self._state is None:
            return await self._claim_without_state(record, delivery)
        # One name however often the beginning is tried: a mark that landed after all is known by it.
        run = self._worker.next_token()
        self._in_hand[run] = delivery
        attempt: Attempt | None = None
        try:
            try:
                attempt = await self._claim(record, delivery, run)
            except BackendError as error:
                attempt = await self._outcomes.again(lambda: self._claim(record, delivery, run), error)
        except DecodeError as error:
            # The stored state is damaged: nobody can tell whether to run it.
            await self._end(delivery.dead(message, reason=f"DecodeError: {error}"), delivery)
        finally:
            if attempt is None:
                del self._in_hand[run]
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
            self._in_hand[attempt.record.worker] = delivery
        return True

    def _holds(self, found: JobRecord) -> bool:
        """True if the job runs in this worker, whose message of it is safe until the end: no other one is needed."""
        if found.status is not JobStatus.running or found.worker is None:
            return False
        held = self._in_hand.get(found.worker)
        return held is not None and not held.lost

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
                    snapshot = await state.create(_replace(record, attempts=message.attempts))
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
                return Attempt(begun, await state.mark(snapshot, begun), delivery)
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
        again = _replace(delivery.message, attempts=found.attempts + 1, copy=new_id())
        await self._end(delivery.retry(again, delay=_LEFT_ALONE_SECONDS), delivery)

    async def _turned_down(self, decision: Decision, snapshot: Snapshot, delivery: Delivery) -> None:
        record, message = snapshot.record, delivery.message
        if decision is Decision.drop:
            if record.message_waits and self._state is not None:
                await self._state.settle(snapshot, _replace(record, message_waits=False))
            await self._end(delivery.ack(), delivery)
        elif decision is Decision.cancel:
            if self._state is not None:
                await self._state.settle(snapshot, cancelled(record))
            self._queue._notify(record.job_id)
            await self._end(delivery.ack(), delivery)
        elif decision is Decision.park:
            dead = _replace(message, attempts=record.attempts)
            await self._end(delivery.dead(dead, reason=record.error or "it failed"), delivery)
        elif decision is Decision.resend:
            again = _replace(message, attempts=record.attempts, copy=new_id())
            await self._end(delivery.retry(again, delay=seconds_until(record.scheduled_time)), delivery)
        elif self._state is not None:
            reason = f"WorkerLost: the worker died during attempt {record.attempts} of {self._policy.max_attempts}"
            failed = _replace(record, status=JobStatus.failed, error=reason, finished_time=datetime.now(UTC))
            await self._state.settle(snapshot, failed)
            self._log_dead(record.job_id, reason)
            self._queue._notify(record.job_id)
            await self._end(delivery.dead(_replace(message, attempts=record.attempts), reason=reason), delivery)

    async def _claim_without_state(self, record: JobRecord, delivery: Delivery) -> Attempt | None:
        message = delivery.message
        if delivery.redelivered:
            # The loss is counted in a new message before the job may run again: else it could kill workers for ever. Not at
            # once, so that the acknowledgement of the old message gets through before the next worker may die of it.
            delay = max(self._policy.delay_after(message.attempts + 1), _LOST_DELAY_SECONDS)
            lost = Failed("WorkerLost: the worker died during the attempt", None, delay=delay)
            await self._end(self._fail_message(delivery, lost, attempts=message.attempts + 1), delivery)
            return None
        begun = _replace(
            record,
            status=JobStatus.running,
            attempts=message.attempts + 1,
            delivery=message.attempts,
            started_time=datetime.now(UTC),
        )
        return Attempt(begun, None, delivery)

    # Running and settling

    async def _attempt(self, attempt: Attempt) -> None:
        job_id = attempt.record.job_id
        self.attempts[job_id] = attempt
        if self._worker.interrupted:
            attempt.stop(Stopped.shutdown)  # its claim was on the way when the others were told
        try:
            outcome = await attempt.run(self._invoke, self._queue._codec, self._queue.timeout, self._new_scope)
            await self._settle(attempt, outcome)
        finally:
            if self.attempts.get(job_id) is attempt:
                del self.attempts[job_id]
            if attempt.record.worker is not None:
                self._in_hand.pop(attempt.record.worker, None)

    async def _settle(self, attempt: Attempt, outcome: Succeeded | Failed | Interrupted) -> None:
        """Record the outcome first, then end the delivery."""
        record, now = attempt.record, datetime.now(UTC)
        if isinstance(outcome, Succeeded):
            done = _replace(
                record,
                status=JobStatus.succeeded,
                result=outcome.result,
                error=None,
                traceback=None,
                finished_time=now,
            )
            await self._record(attempt, done)
            await self._end_of(attempt, lambda delivery: delivery.ack())
        elif isinstance(outcome, Failed):
            await self._fail(attempt, outcome, now)
        elif outcome.reason is Stopped.cancelled:
            await self._record(attempt, cancelled(record))
            await self._end_of(attempt, lambda delivery: delivery.ack())
        else:
            # Not the job's fault: the attempt does not count.
            attempts = record.attempts - 1
            back = _replace(record, status=JobStatus.retrying, attempts=attempts, worker=None, scheduled_time=now)
            stands = await self._record(attempt, back)
            if superseded(attempt, stands):
                await self._end_of(attempt, lambda delivery: delivery.ack())
            elif outcome.reason is Stopped.shutdown and (record.partition_key is None or self._state is None):
                # One of a partition keeps its place: without an end it goes back as it came.
                again = _replace(attempt.delivery.message, attempts=attempts, copy=new_id())
                await self._end_of(attempt, lambda delivery: delivery.retry(again, delay=0))

    async def _fail(self, attempt: Attempt, outcome: Failed, now: datetime) -> None:
        """Park the job, or send it round again."""
        record = attempt.record
        failed = _replace(record, error=outcome.text, traceback=outcome.traceback)
        final = outcome.final or record.attempts >= self._policy.max_attempts
        delay = self._delay(outcome, record.attempts)
        if final:
            failed = _replace(failed, status=JobStatus.failed, finished_time=now)
        else:
            failed = _replace(failed, status=JobStatus.retrying, scheduled_time=now + timedelta(seconds=delay))
        if superseded(attempt, await self._record(attempt, failed)):
            await self._end_of(attempt, lambda delivery: delivery.ack())
            return
        if final:
            self._log_dead(record.job_id, outcome.text, outcome.traceback)
        else:
            logger.info(
                "job %s in %r is tried again in %g s: %s", record.job_id, self._name, delay, escaped(outcome.text)
            )
        await self._end_of(attempt, lambda delivery: self._fail_message(delivery, outcome, attempts=record.attempts))

    async def _fail_message(self, delivery: Delivery, outcome: Failed, *, attempts: int) -> None:
        failed = _replace(delivery.message, attempts=attempts)
        if outcome.final or attempts >= self._policy.max_attempts:
            await delivery.dead(failed, reason=outcome.text)
        else:
            await delivery.retry(failed, delay=self._delay(outcome, attempts))

    def _delay(self, outcome: Failed, attempts: int) -> float:
        return self._policy.delay_after(attempts) if outcome.delay is None else outcome.delay

    async def _record(self, attempt: Attempt, record: JobRecord) -> JobRecord | None:
        """Write an outcome, if the job is still this worker's; tell those who wait. Returns the record that stands then."""
        stands: JobRecord | None = record
        if self._state is not None:
            stands = await self._outcomes.write(attempt, record)
        self._queue._notify(record.job_id)
        return stands

    async def _end_of(self, attempt: Attempt, ending: Callable[[Delivery], Awaitable[None]]) -> None:
        """End the delivery of an attempt; one that took its place meanwhile too."""
        ended: Delivery | None = None
        while attempt.delivery is not ended:
            ended = attempt.delivery
            await self._end(ending(ended), ended)

    async def _end(self, ending: Awaitable[None], delivery: Delivery) -> None:
        """Confirm the end of a delivery. If that fails the broker delivers again, and the state tells what was done."""
        try:
            await ending
        except LimitExceededError as error:
            await self._outcomes.end_unsent(delivery, error)
            self._queue._notify(delivery.message.id)
        except (BackendError, InvalidInputError) as error:
            logger.warning(
                "job %s in %r: the broker did not take its end, it comes again: %s",
                delivery.message.id,
                self._name,
                error,
            )

    def _log_dead(self, job_id: str, reason: str, traceback: str | None = None) -> None:
        told = "\n" + escaped(traceback, keep="\n\t").rstrip() if traceback else ""
        logger.warning("job %s in %r failed for good: %s%s", job_id, self._name, escaped(reason), told)


def _lives(found: JobRecord, later: Snapshot, version: int) -> bool:
    """True if the run has shown since that `version` that it goes on."""
    record = later.record
    same_run = record.status is JobStatus.running and record.worker == found.worker
    return same_run and later.version != version and not record.cancel_requested
