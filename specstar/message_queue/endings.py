"""The ends of deliveries at the broker, after the state has been written."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from specstar.errors import BackendError, InvalidInputError, LimitExceededError
from specstar.escaping import escaped
from specstar.message_queue.attempt import Attempt, Failed
from specstar.message_queue.codec import failure_text
from specstar.message_queue.outcomes import Outcomes
from specstar.roles import Delivery

if TYPE_CHECKING:
    from specstar.message_queue.queue import JobQueue
    from specstar.message_queue.retry import RetryPolicy

__all__ = ["Endings"]

logger: logging.Logger = logging.getLogger("specstar")
_replace = msgspec.structs.replace


class Endings:
    """Of the deliveries of one queue in one worker."""

    def __init__(self, queue: JobQueue[Any], outcomes: Outcomes) -> None:
        self.policy: RetryPolicy = queue._policy()
        self._queue = queue
        self._name = queue.name
        self._outcomes = outcomes

    async def end_of(self, attempt: Attempt, ending: Callable[[Delivery], Awaitable[None]]) -> None:
        """End the delivery of an attempt; one that took its place meanwhile too."""
        ended: Delivery | None = None
        while attempt.delivery is not ended:
            ended = attempt.delivery
            await self.end(ending(ended), ended)

    async def end(self, ending: Awaitable[None], delivery: Delivery) -> None:
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

    async def fail_message(self, delivery: Delivery, outcome: Failed, *, attempts: int) -> None:
        failed = _replace(delivery.message, attempts=attempts)
        if outcome.final or attempts >= self.policy.max_attempts:
            await delivery.dead(failed, reason=outcome.text)
        else:
            await delivery.retry(failed, delay=self.delay(outcome, attempts))

    def delay(self, outcome: Failed, attempts: int) -> float:
        return self.policy.delay_after(attempts) if outcome.delay is None else outcome.delay

    async def put_off(self, delivery: Delivery, error: Exception) -> None:
        """A fault of ours, not of the handler: try again later, as often as the job may fail."""
        # The state may count it as running: whatever its lineage is, this message is newer.
        message = _replace(delivery.message, lineage=None)
        attempts = message.attempts + 1
        if attempts >= self.policy.max_attempts:
            await self.end(delivery.dead(_replace(message, attempts=attempts), reason=failure_text(error)[0]), delivery)
        else:
            later = max(self.policy.delay_after(attempts), 1.0)
            await self.end(delivery.retry(_replace(message, attempts=attempts), delay=later), delivery)

    def log_dead(self, job_id: str, reason: str, traceback: str | None = None) -> None:
        told = "\n" + escaped(traceback, keep="\n\t").rstrip() if traceback else ""
        logger.warning("job %s in %r failed for good: %s%s", job_id, self._name, escaped(reason), told)
