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
    from specstar.message_queue.lane import Lane
    from specstar.message_queue.queue import JobQueue
    from specstar.message_queue.worker import Worker

__all__ = ["Waiting"]

logger: logging.Logger = logging.getLogger("specstar")
_LOOK_SECONDS = 0.25
_PATIENCE_SECONDS = 5.0
# Of the time that the broker lets a worker hold a message.
_PART_OF_HOLD = 0.25
_HAND_OVER_SECONDS = 5.0
# A delivery that is ready comes with the answer of the broker.
_KEPT_SECONDS = 0.25


class _Entry:
    """A delivery that no handler has begun."""

    __slots__ = ("delivery", "may_go", "scope", "since")

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.may_go = _may_go(delivery)
        self.scope = anyio.CancelScope()
        self.since = time.monotonic()


class Waiting:
    """The deliveries of one lane that wait for others to end.

    A delivery that the broker takes back is marked as redelivered, which counts as an attempt where no state is kept, and
    towards the delivery limit of a quorum queue. So it is sent anew, at the end of the queue, when there is nothing else in
    it. First the consumer pauses, until it is the lane's turn again: what was given away does not come back to a busy
    worker. Then it takes what can begin at once, and after a while without long waits as much as ever.
    """

    def __init__(self, worker: Worker, queue: JobQueue[Any], *, limit: int) -> None:
        self._worker = worker
        self._messages = queue._messages()
        self._name = queue.name
        self._keeps_state = queue.keep_state
        self._in_threads = not queue.is_async
        self._limit = limit
        self._entries: dict[_Entry, None] = {}  # in order of arrival
        self._kept = False
        self._narrow = False
        self._prefetch = limit
        self._resumed = 0.0
        self._turns = 0

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

    def take_kept(self) -> bool:
        """True if a permit was kept for the next delivery: the caller has it now, and releases it."""
        kept, self._kept = self._kept, False
        return kept

    async def share_out(self, consumer: Consumer, lane: Lane) -> None:
        """Look again and again, until the worker stops: then all goes of which a loss would count as an attempt."""
        self._narrow = False
        async with anyio.create_task_group() as group:
            group.start_soon(self._keep_looking, consumer, lane)
            await self._worker.until_stopping()
            group.cancel_scope.cancel()
        if not self._keeps_state:
            self._let_go(time.monotonic())

    async def _keep_looking(self, consumer: Consumer, lane: Lane) -> None:
        while True:
            await anyio.sleep(_LOOK_SECONDS)
            try:
                await self._look(consumer, lane)
            except SpecstarError as error:
                logger.info("jobs %r: what waits here stays for now: %s", self._name, error)
                await anyio.sleep(_PATIENCE_SECONDS)

    async def _look(self, consumer: Consumer, lane: Lane) -> None:
        for entry in self._entries:
            if entry.delivery.lost:
                entry.scope.cancel()
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
                await anyio.sleep(_PATIENCE_SECONDS / 5)
        elif consumer.paused:
            await self._resume(consumer, lane)
        elif self._narrow and self._resumed <= patience_ends:
            await self._widen(consumer, lane, patience_ends)

    async def _resume(self, consumer: Consumer, lane: Lane) -> None:
        """Take what can begin at once, when it is the turn of this lane."""
        free = self._limit - lane.busy - len(self._entries)
        if free <= 0 or (self._in_threads and self._worker.threads.full):
            return
        permit = self._worker.permit
        if permit is None or permit.value:
            await self._take(consumer, lane, free if permit is None else min(free, permit.value))
            return
        # The jobs of other lanes may wait for every permit, for ever: this one waits among them, and for its next delivery.
        await permit.acquire()
        self._kept = True
        try:
            await self._take(consumer, lane, min(free, 1 + permit.value))
            await anyio.sleep(_KEPT_SECONDS)
        finally:
            if self.take_kept():
                permit.release()

    async def _widen(self, consumer: Consumer, lane: Lane, patience_ends: float) -> None:
        """Nothing waits for long here: take more, beside what runs on."""
        began = [attempt.began for attempt in lane.attempts.values()]
        unused = self._prefetch - sum(each >= self._resumed for each in began)
        # Where many have ended, those that have not run for long end soon.
        many = lane.turns - self._turns > len(began)
        prefetch = self._limit - sum(each <= patience_ends or not many for each in began)
        if prefetch > max(0, unused):
            await self._take(consumer, lane, prefetch)

    async def _take(self, consumer: Consumer, lane: Lane, prefetch: int) -> None:
        self._prefetch, self._narrow = prefetch, prefetch < self._limit
        self._resumed, self._turns = time.monotonic(), lane.turns
        await consumer.resume(prefetch=prefetch)

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
                message = delivery.message
                # Where no state tells copies apart it goes as it is: larger, it might be over the limit of a message.
                again = msgspec.structs.replace(message, copy=new_id()) if self._keeps_state else message
                await self._messages.publish(again)
                sent = True
                await delivery.ack()
        except SpecstarError as error:
            logger.info("job %s in %r stays in this worker: %s", delivery.message.id, self._name, error)
        return sent


def _may_go(delivery: Delivery) -> bool:
    """True if nothing is lost with this delivery: neither that another worker had it, nor its place in a partition."""
    return not delivery.redelivered and delivery.message.partition_key is None
