"""The way of a delivery: claimed, run, settled in the state, ended at the broker. The state always comes first."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from specstar.escaping import escaped
from specstar.message_queue.attempt import Attempt, Failed, Interrupted, Stopped, Succeeded
from specstar.message_queue.claiming import Claims
from specstar.message_queue.endings import Endings
from specstar.message_queue.invoke import invoker
from specstar.message_queue.job import JobRecord, JobStatus
from specstar.message_queue.middleware import surrounded
from specstar.message_queue.outcomes import GaveUp, Outcomes, cancelled, superseded
from specstar.resource_manager.ids import new_id
from specstar.roles import Delivery

if TYPE_CHECKING:
    from specstar.message_queue.queue import JobQueue
    from specstar.message_queue.worker import Worker

__all__ = ["JobRunner"]

logger: logging.Logger = logging.getLogger("specstar")
_replace = msgspec.structs.replace


class JobRunner:
    """Handles the deliveries of one queue in one worker. `attempts` are the jobs that run now, by id."""

    def __init__(self, worker: Worker, queue: JobQueue[Any]) -> None:
        self.attempts: dict[str, Attempt] = {}
        self._queue = queue
        self._name = queue.name
        self._counts = queue._counts
        self._worker = worker
        self._state = queue._state()
        self._outcomes = Outcomes(self._state, worker, self._name)
        self._endings = Endings(queue, self._outcomes)
        self._policy = self._endings.policy
        self._claims = Claims(worker, queue, self._outcomes, self._endings)
        # The scopes of this event loop themselves: asking which loop it is costs as much as the scope.
        self._new_scope = type(anyio.CancelScope())
        handler = surrounded(queue.handler, queue._backend.middleware, is_async=queue.is_async)
        self._invoke = invoker(handler, is_async=queue.is_async, caller=worker.caller, threads=worker.threads)

    @property
    def busy(self) -> int:
        """The number of runs that have begun here or are about to."""
        return max(len(self._claims.in_hand), len(self.attempts))

    async def handle(self, delivery: Delivery) -> None:
        """Do all there is to do about a delivery. Raises nothing but a cancellation of the worker."""
        try:
            attempt = await self._claims.attempt(delivery)
            if attempt is not None:
                await self._attempt(attempt)
        except GaveUp as error:
            # Left without an end: the delivery goes back with the consumer.
            logger.warning("job %s in %r is left to another worker: %s", delivery.message.id, self._name, error)
        except Exception as error:
            logger.exception("job %s in %r could not be handled", delivery.message.id, self._name)
            await self._endings.put_off(delivery, error)

    async def _attempt(self, attempt: Attempt) -> None:
        job_id = attempt.record.job_id
        self.attempts[job_id] = attempt
        if self._worker.interrupted:
            attempt.stop(Stopped.shutdown)  # its claim was on the way when the others were told
        self._counts.began(attempt.record.started_time, attempt.due)
        try:
            try:
                outcome = await attempt.run(self._invoke, self._queue._codec, self._queue.timeout, self._new_scope)
            except BaseException:
                self._counts.interrupted += 1  # the loop ends, and the worker with it
                raise
            finally:
                self._counts.ran.add(time.monotonic() - attempt.began)
            await self._settle(attempt, outcome)
        finally:
            if self.attempts.get(job_id) is attempt:
                del self.attempts[job_id]
            if attempt.record.worker is not None:
                self._claims.in_hand.pop(attempt.record.worker, None)

    async def _settle(self, attempt: Attempt, outcome: Succeeded | Failed | Interrupted) -> None:
        """Record the outcome first, then end the delivery."""
        record, now = attempt.record, datetime.now(UTC)
        if isinstance(outcome, Succeeded):
            self._counts.succeeded += 1
            done = _replace(
                record,
                status=JobStatus.succeeded,
                result=outcome.result,
                error=None,
                traceback=None,
                finished_time=now,
            )
            if logger.isEnabledFor(logging.DEBUG):
                took = time.monotonic() - attempt.began
                logger.debug("job %s in %r succeeded in %.3f s", record.job_id, self._name, took)
            await self._record(attempt, done)
            await self._endings.end_of(attempt, lambda delivery: delivery.ack())
        elif isinstance(outcome, Failed):
            await self._fail(attempt, outcome, now)
        elif outcome.reason is Stopped.cancelled:
            self._counts.cancelled += 1
            await self._record(attempt, cancelled(record))
            await self._endings.end_of(attempt, lambda delivery: delivery.ack())
        else:
            # Not the job's fault: the attempt does not count.
            self._counts.interrupted += 1
            attempts = record.attempts - 1
            back = _replace(record, status=JobStatus.retrying, attempts=attempts, worker=None, scheduled_time=now)
            stands = await self._record(attempt, back)
            if superseded(attempt, stands):
                await self._endings.end_of(attempt, lambda delivery: delivery.ack())
            elif outcome.reason is Stopped.shutdown and (record.partition_key is None or self._state is None):
                # One of a partition keeps its place: without an end it goes back as it came.
                again = _replace(attempt.delivery.message, attempts=attempts, copy=new_id())
                await self._endings.end_of(attempt, lambda delivery: delivery.retry(again, delay=0))

    async def _fail(self, attempt: Attempt, outcome: Failed, now: datetime) -> None:
        """Park the job, or send it round again."""
        record = attempt.record
        failed = _replace(record, error=outcome.text, traceback=outcome.traceback)
        final = outcome.final or record.attempts >= self._policy.max_attempts
        delay = self._endings.delay(outcome, record.attempts)
        if final:
            self._counts.failed += 1
            failed = _replace(failed, status=JobStatus.failed, finished_time=now)
        else:
            self._counts.retried += 1
            failed = _replace(failed, status=JobStatus.retrying, scheduled_time=now + timedelta(seconds=delay))
        if superseded(attempt, await self._record(attempt, failed)):
            await self._endings.end_of(attempt, lambda delivery: delivery.ack())
            return
        if final:
            self._endings.log_dead(record.job_id, outcome.text, outcome.traceback)
        else:
            logger.info(
                "job %s in %r is tried again in %g s: %s", record.job_id, self._name, delay, escaped(outcome.text)
            )
        await self._endings.end_of(
            attempt, lambda delivery: self._endings.fail_message(delivery, outcome, attempts=record.attempts)
        )

    async def _record(self, attempt: Attempt, record: JobRecord) -> JobRecord | None:
        """Write an outcome, if the job is still this worker's; tell those who wait. Returns the record that stands then."""
        stands: JobRecord | None = record
        if self._state is not None:
            stands = await self._outcomes.write(attempt, record)
        self._queue._notify(record.job_id)
        return stands
