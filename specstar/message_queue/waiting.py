"""What waits in a worker for its turn: after a while it goes to other workers, as if it had never been here."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from specstar.errors import SpecstarError
from specstar.resource_manager.ids import new_id
from specstar.roles import Consumer, Delivery

if TYPE_CHECKING:
    from specstar.message_queue.queue import JobQueue
    from specstar.message_queue.worker import Worker

__all__ = ["Waiting"]

logger = logging.getLogger("specstar")
_LOOK_SECONDS = 0.25
_PATIENCE_SECONDS = 5.0
# Of the time that the broker lets a worker hold a message.
_PART_OF_HOLD = 0.25
_HAND_OVER_SECONDS = 5.0


class _Entry:
    """A delivery that no handler has begun."""

    __slots__ = ("may_go", "scope", "since")

    def __init__(self, delivery: Delivery) -> None:
        self.may_go = _may_go(delivery)
        self.scope = anyio.CancelScope()
        self.since = time.monotonic()


class Waiting:
    """The deliveries of one lane that wait for others to end.

    A delivery that the broker takes back is marked as redelivered, which counts as an attempt where no state is kept, and
    towards the delivery limit of a quorum queue. So it is sent anew, at the end of the queue, when there is nothing else in
    it. First the consumer pauses, until there is room here: what was given away does not come back to a busy worker.
    """

    def __init__(self, worker: Worker, queue: JobQueue[Any], *, limit: int) -> None:
        self._worker = worker
        self._messages = queue._messages()
        self._name = queue.name
        self._keeps_state = queue.keep_state
        self._limit = limit
        self._entries: dict[_Entry, None] = {}  # in order of arrival
        self._narrow = False

    async def until(self, delivery: Delivery, ready: Callable[[], Awaitable[object]]) -> bool:
        """Wait for `ready`. False if the delivery went to others instead."""
        entry = _Entry(delivery)
        self._entries[entry] = None
        try:
            with entry.scope:
                await ready()
                return True
            entry.may_go = False
            if await self._hand_over(delivery):
                return False
            await ready()
            return True
        finally:
            del self._entries[entry]

    async def leave(self, delivery: Delivery) -> None:
        """The worker stops before it has begun. Without an end it goes back to its place when the consumer is left."""
        if _may_go(delivery) and not self._keeps_state:
            await self._hand_over(delivery)

    async def share_out(self, consumer: Consumer) -> None:
        """Look again and again, until the worker stops: then all goes of which a loss would count as an attempt."""
        while not self._worker.stopping:
            await self._worker.sleep(_LOOK_SECONDS)
            try:
                await self._look(consumer)
            except SpecstarError as error:
                logger.info("jobs %r: what waits here stays for now: %s", self._name, error)
                await self._worker.sleep(_PATIENCE_SECONDS)
        if not self._keeps_state:
            self._let_go(time.monotonic())

    async def _look(self, consumer: Consumer) -> None:
        patience_ends = time.monotonic() - _PATIENCE_SECONDS
        since = min((entry.since for entry in self._entries if entry.may_go), default=None)
        if since is not None and since <= patience_ends:
            hold = consumer.hold_seconds
            # A message that is held for too long takes the channel with it, and all that runs here.
            overdue = hold is not None and time.monotonic() - since >= hold * _PART_OF_HOLD
            if overdue or await consumer.others_may_take():
                await consumer.pause()
                self._let_go(patience_ends)
            else:
                await self._worker.sleep(_PATIENCE_SECONDS / 5)
        elif not self._entries and (consumer.paused or self._narrow) and (room := self._worker.room(self._limit)):
            self._narrow = room < self._limit
            await consumer.resume(prefetch=room)

    def _let_go(self, since: float) -> None:
        for entry in self._entries:
            if entry.may_go and entry.since <= since:
                entry.scope.cancel()

    async def _hand_over(self, delivery: Delivery) -> bool:
        """Send the message anew, then end this delivery. False if it could not be sent: maybe it comes twice then."""
        if delivery.lost:
            return True
        sent = False
        try:
            with anyio.move_on_after(_HAND_OVER_SECONDS):
                await self._messages.publish(msgspec.structs.replace(delivery.message, copy=new_id()))
                sent = True
                await delivery.ack()
        except SpecstarError as error:
            logger.info("job %s in %r stays in this worker: %s", delivery.message.id, self._name, error)
        return sent


def _may_go(delivery: Delivery) -> bool:
    """True if nothing is lost with this delivery: neither that another worker had it, nor its place in a partition."""
    return not delivery.redelivered and delivery.message.partition_key is None
