"""The in-process message queue: publishing, consumers and the timer of delayed messages, on the home loop."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import msgspec

from specstar.backends.provider import BackendContext
from specstar.backends.simple.broker import Hand, Item, QueueState, SimpleBroker
from specstar.backends.simple.options import SimpleOptions
from specstar.errors import BackendUnavailable
from specstar.roles import Consumer, DeadLetter, Delivery, Message, MessageQueue, MessageQueueFactory
from specstar.roles.mq import Prepare
from specstar.runtime import Home, Waiter

__all__ = ["SimpleQueueFactory"]

SimpleContext = BackendContext[SimpleOptions, SimpleBroker]


class SimpleQueueFactory(MessageQueueFactory):
    """Queues in the memory of this process."""

    def __init__(self, context: SimpleContext) -> None:
        self.max_retries: int = context.options.max_retries
        self.retry_delay_seconds: float = context.options.retry_delay_seconds
        self._context = context

    @property
    def durable(self) -> bool:
        return False

    def build(self, name: str, *, max_priority: int | None = None) -> MessageQueue:
        return _SimpleQueue(self._context, name)


class _SimpleQueue(MessageQueue):
    """One queue and its consumers in the present generation of connections."""

    def __init__(self, context: SimpleContext, name: str) -> None:
        self.home: Home = context.home
        self.idle: deque[Waiter[None]] = deque()
        self._connection = context.connection
        self._name = name
        self._max_depth = context.options.max_depth
        self._state: QueueState | None = None
        self._broker: SimpleBroker | None = None
        self._timer: anyio.Event | None = None

    async def open(self) -> QueueState:
        """The messages. On the first use by this generation, what an earlier one had in hand goes back."""
        broker = self._connection.opened or await self._connection.get()
        if self._state is None or self._broker is not broker:
            self._broker = broker
            self._state = broker.queue(self._name)
            for hand in list(self._state.hands):
                # Consumers of an event loop that is gone.
                hand.give_back()
            self._state.hands.clear()
            self.arrived(self._state.ready_count)
            self._watch_delayed(self._state)
        return self._state

    async def publish(self, message: Message, *, delay: float = 0) -> None:
        state = self._state or await self.open()
        self._check_room(state, 1)
        self.put(state, message, delay)

    async def publish_many(self, messages: Sequence[Message], *, delay: float = 0) -> None:
        state = self._state or await self.open()
        self._check_room(state, len(messages))
        for message in messages:
            self.put(state, message, delay)

    def _check_room(self, state: QueueState, count: int) -> None:
        if state.size + count > self._max_depth:
            raise BackendUnavailable(
                f"queue {self._name!r} holds {state.size} messages and max_depth is {self._max_depth}: "
                "run workers, then try again",
                role="mq",
                backend="simple",
            )

    def put(self, state: QueueState, message: Message, delay: float) -> None:
        """Take a message in."""
        if state.add(message, delay):
            self.arrived(1)
        elif delay > 0:
            self._watch_delayed(state)

    def arrived(self, count: int) -> None:
        """Wake as many receivers as there are new messages."""
        idle = self.idle
        while count > 0 and idle:
            waiter = idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1

    def _watch_delayed(self, state: QueueState) -> None:
        if not state.delayed:
            return
        if self._timer is None:
            self._timer = anyio.Event()
            self.home.spawn(self._run_timer, state)
        else:
            self._timer.set()

    async def _run_timer(self, state: QueueState) -> None:
        try:
            while (seconds := state.seconds_to_due()) is not None:
                self._timer = sooner = anyio.Event()
                with anyio.move_on_after(seconds):
                    await sooner.wait()
                self.arrived(state.due())
        finally:
            self._timer = None

    def consume(self, *, prefetch: int) -> AbstractAsyncContextManager[Consumer]:
        return self._consume(prefetch)

    @asynccontextmanager
    async def _consume(self, prefetch: int) -> AsyncIterator[Consumer]:
        state = await self.open()
        consumer = _SimpleConsumer(self, state, prefetch)
        state.hands.add(consumer)
        try:
            yield consumer
        finally:
            consumer.leave()
            state.hands.discard(consumer)

    async def depth(self) -> int:
        state = self._state or await self.open()
        self.arrived(state.due())
        return state.ready_count + state.held_count

    async def dead_letters(self, *, limit: int = 100) -> list[DeadLetter]:
        state = self._state or await self.open()
        return [letter for letter, _ in zip(state.dead.values(), range(limit), strict=False)]

    async def requeue_dead(
        self,
        ids: Sequence[str] | None = None,
        *,
        lineage: str = "",
        before: Prepare | None = None,
        stays: Prepare | None = None,
    ) -> int:
        state = self._state or await self.open()
        if before is not None:
            ids = state.buried(ids)
            await before(ids)
        letters = state.exhume(ids)
        for letter in letters:
            self.put(state, msgspec.structs.replace(letter.message, attempts=0, lineage=lineage), 0)
        return len(letters)

    async def purge_dead(self, ids: Sequence[str] | None = None) -> int:
        state = self._state or await self.open()
        return len(state.exhume(ids))

    async def purge(self) -> int:
        state = self._state or await self.open()
        return state.clear()

    def holds(self, message_id: str) -> bool:
        broker = self._connection.opened
        return broker is not None and broker.queue(self._name).holds(message_id)


class _SimpleConsumer(Consumer, Hand):
    """Hands out messages while fewer than `prefetch` of them are unfinished."""

    def __init__(self, queue: _SimpleQueue, state: QueueState, prefetch: int) -> None:
        self._queue = queue
        self._state = state
        self._prefetch = prefetch
        self._stopped = False
        self._waiting: set[Waiter[None]] = set()
        self._full: deque[Waiter[None]] = deque()
        self.in_hand: set[_SimpleDelivery] = set()

    async def receive(self) -> Delivery:
        state, woken = self._state, False
        while True:
            if self._stopped:
                raise BackendUnavailable("the consumer is stopped", role="mq", backend="simple")
            full = len(self.in_hand) >= self._prefetch
            if not full and (item := state.take()) is not None:
                delivery = _SimpleDelivery(self, self._queue, state, item)
                self.in_hand.add(delivery)
                return delivery
            if full and woken:
                # The message that this receiver was woken for is another consumer's.
                self._queue.arrived(1)
            await self._wait(self._full if full else self._queue.idle)
            woken = True

    async def _wait(self, line: deque[Waiter[None]]) -> None:
        waiter = self._queue.home.waiter()
        line.append(waiter)
        self._waiting.add(waiter)
        try:
            await waiter
        except BaseException:
            # Cancelled, perhaps after it was woken for a message: another receiver must look.
            with contextlib.suppress(ValueError):
                line.remove(waiter)
            self.freed()
            raise
        finally:
            self._waiting.discard(waiter)

    async def stop(self) -> None:
        self._stop()

    def _stop(self) -> None:
        self._stopped = True
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._queue.arrived(self._state.ready_count)

    def freed(self) -> None:
        """There may be room and a message for one more receiver."""
        while self._full and len(self.in_hand) < self._prefetch:
            waiter = self._full.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        if self._state.ready_count:
            self._queue.arrived(1)

    def leave(self) -> None:
        """Stop, and give back what is in hand."""
        self.give_back()
        self._stop()

    def give_back(self) -> None:
        self._stopped = True
        given_back, self.in_hand = self.in_hand, set()
        for delivery in sorted(given_back, key=lambda delivery: delivery.order, reverse=True):
            delivery.give_back()


class _SimpleDelivery(Delivery):
    """A message in the hands of a consumer."""

    __slots__ = ("_consumer", "_item", "_lost", "_queue", "_state", "message", "order", "redelivered")
    _count = 0

    def __init__(self, consumer: _SimpleConsumer, queue: _SimpleQueue, state: QueueState, item: Item) -> None:
        self.message = item.message
        self.redelivered = item.redelivered
        self.order = _SimpleDelivery._count = _SimpleDelivery._count + 1
        self._consumer = consumer
        self._queue = queue
        self._state = state
        self._item = item
        self._lost = False

    async def ack(self) -> None:
        self._end()

    async def retry(self, message: Message, *, delay: float) -> None:
        if self._may_end():
            self._queue.put(self._state, message, delay)
            self._end()

    async def dead(self, message: Message, *, reason: str) -> None:
        if self._may_end():
            self._state.bury(message, reason)
            self._end()

    @property
    def lost(self) -> bool:
        return self._lost

    def _may_end(self) -> bool:
        return self in self._consumer.in_hand

    def _end(self) -> None:
        if not self._may_end():
            return
        self._consumer.in_hand.discard(self)
        if self._state.finish(self._item):
            self._queue.arrived(1)
        self._consumer.freed()

    def give_back(self) -> None:
        """The consumer is left: the message goes back, and its ends do nothing any more."""
        self._lost = True
        self._state.put_back(self._item)
