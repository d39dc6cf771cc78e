"""The mq role on RabbitMQ: the queue of one job, and the factory that builds it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from specstar.backends.rabbitmq.envelope import HIGHEST_PRIORITY, NO_LIMIT, pack
from specstar.backends.rabbitmq.names import LONGEST_DELAY_SECONDS, longer_step, shard_of, step_of
from specstar.errors import BackendUnavailable, InvalidInputError
from specstar.roles import Consumer, DeadLetter, Message, MessageQueue, MessageQueueFactory
from specstar.roles.mq import Prepare

if TYPE_CHECKING:
    from specstar.backends.provider import BackendContext
    from specstar.backends.rabbitmq.connection import RabbitMQConnection
    from specstar.backends.rabbitmq.faults import UnmadeQueueError
    from specstar.backends.rabbitmq.job_queues import QueueSpec
    from specstar.backends.rabbitmq.link import Link
    from specstar.backends.rabbitmq.options import RabbitMQOptions
    from specstar.backends.rabbitmq.outbox import TooLarge
    from specstar.backends.rabbitmq.topology import Topology

__all__ = ["RabbitMQQueue", "RabbitMQQueueFactory"]

T = TypeVar("T")
logger: logging.Logger = logging.getLogger("specstar")
# So that a connection that is made and lost at once does not become a busy loop.
_PAUSE_AFTER_LOSS = 0.02
# In place of a queue of work.
_ASIDE = ""


class RabbitMQQueue(MessageQueue):
    """The messages of one job: a main queue, partition queues, delay queues, and the dead letters."""

    def __init__(
        self, context: BackendContext[RabbitMQOptions, RabbitMQConnection], name: str, max_priority: int | None
    ) -> None:
        from specstar.backends.rabbitmq.dead_letters import DeadLetters
        from specstar.backends.rabbitmq.job_queues import JobQueues
        from specstar.backends.rabbitmq.outbox import Outbox

        self.name = name
        self.options: RabbitMQOptions = context.options
        self.queues: JobQueues = JobQueues(name, context.options, max_priority)
        self._context = context
        self._main = self.queues.main
        # Above this a priority counts as this: None once that was logged.
        self._top_priority: int | None = self.queues.top_priority
        self._limit = context.options.max_message_bytes
        self._outbox = Outbox(context.connection, context.options, (self.queues.main, self.queues.dead))
        self._dead = DeadLetters(self)
        self._retry_usable = True
        self.retry_made: bool = True
        self._asked_on: Link | None = None
        self._complete = False
        self._delays: dict[tuple[str, int], QueueSpec] = {}
        self._shards: dict[int, QueueSpec] = {}
        # One caller looks, the others wait for it.
        self._announcing = asyncio.Lock()

    async def publish(self, message: Message, *, delay: float = 0) -> None:
        body, priority = pack(message, self._limit), _checked(message.priority)
        self._warn_of(priority)
        if not delay and message.partition_key is None:
            await self._outbox.send(self._main, body, priority=priority)
        else:
            async with self._publish_timeout():
                route = await self._route(message, delay)
                await self._send_by(route, partial(self._outbox.send, body=body, priority=priority))

    async def publish_many(self, messages: Sequence[Message], *, delay: float = 0) -> None:
        packed = [pack(message, self._limit) for message in messages]
        self._warn_of(max((message.priority for message in messages), default=0))
        for route, places in (await self._routes(messages, delay)).values():
            items = [(packed[place], messages[place].priority) for place in places]
            await self._send_by(route, partial(self._outbox.send_many, items=items))

    def _warn_of(self, priority: int) -> None:
        """Say once that a priority above the queue's `max_priority` has no effect: the broker says nothing."""
        if self._top_priority is None or priority <= self._top_priority:
            return
        logger.warning(
            "job %r: priority %d counts as %d, the max_priority of its queue; to have more, give the job a max_priority "
            "before its queue is first made (one that exists must be deleted)",
            self.name,
            priority,
            self._top_priority,
        )
        self._top_priority = None

    async def send_again(self, messages: Sequence[Message | bytes]) -> TooLarge:
        """Publish what was in a queue before, bytes as they are. Returns what the broker does not take any more."""
        packed = [pack(each, NO_LIMIT) if isinstance(each, Message) else each for each in messages]
        too_large: TooLarge = {}
        for queue, places in (await self._routes(messages, 0)).values():
            items = [(packed[place], _priority(messages[place])) for place in places]
            refused: TooLarge = {}
            await self._outbox.send_many(queue, items, too_large=refused)
            too_large.update((places[index], error) for index, error in refused.items())
        return too_large

    async def _routes(
        self, messages: Sequence[Message | bytes], delay: float
    ) -> dict[str, tuple[QueueSpec, list[int]]]:
        """By the name of the queue, which of the messages go there."""
        routes: dict[str, tuple[QueueSpec, list[int]]] = {}
        async with self._publish_timeout():
            for place, message in enumerate(messages):
                _priority(message)
                queue = self._main
                if isinstance(message, Message) and (delay or message.partition_key is not None):
                    queue = await self._route(message, delay)
                routes.setdefault(queue.name, (queue, []))[1].append(place)
        return routes

    @asynccontextmanager
    async def _publish_timeout(self) -> AsyncIterator[None]:
        """Finding the queue, reconnecting for it and sending share one publish timeout."""
        try:
            async with asyncio.timeout(self.options.publish_timeout_seconds):
                yield
        except TimeoutError as error:
            from specstar.backends.rabbitmq.faults import BLOCKED, PURGED

            link = self._context.connection.opened and self._context.connection.opened.current
            why = ""
            if link:
                why = f" ({BLOCKED})" if link.blocked() else f" ({PURGED})" if link.topology.purged else ""
            raise BackendUnavailable(
                f"publishing {self.name!r}: not done within {self.options.publish_timeout_seconds:g} s{why}; retry later",
                role="mq",
                backend="rabbitmq",
            ) from error

    async def send_retry(self, message: Message, delay: float) -> None:
        """Publish the copy that replaces a delivery. A delay beyond the longest one is that one."""
        body, priority = pack(message, NO_LIMIT), _checked(message.priority)
        async with self._publish_timeout():
            route = await self._route(message, min(delay, LONGEST_DELAY_SECONDS))
            await self._send_by(route, partial(self._outbox.send, body=body, priority=priority))

    async def _send_by(self, route: QueueSpec, send: Callable[[QueueSpec], Awaitable[None]]) -> None:
        """Send by this queue; where the broker cannot make it, and messages wait in it, by one in which they wait longer."""
        from specstar.backends.rabbitmq.faults import UnmadeQueueError

        while True:
            try:
                await send(route)
            except UnmadeQueueError as error:
                route = self._instead_of(route, error)
            else:
                return

    async def send_dead(self, body: bytes, headers: dict[str, Any]) -> None:
        """Publish bytes as they are to the dead letters, with the headers of one."""
        await self._outbox.send(self.queues.dead, body, headers=headers)

    async def put_aside(self, body: bytes, headers: dict[str, Any], delay: float) -> None:
        """Have a dead letter wait: some consumer of this job gets it after this delay, and sends it on."""
        from specstar.backends.rabbitmq.letter_headers import aside

        step = step_of(delay)
        route = self._delays.setdefault((_ASIDE, step), self.queues.aside(step))
        async with self._publish_timeout():
            await self._send_by(route, partial(self._outbox.send, body=body, headers=aside(headers)))

    @asynccontextmanager
    async def consume(self, *, prefetch: int) -> AsyncIterator[Consumer]:
        from specstar.backends.rabbitmq.consumer import RabbitMQConsumer

        if not 1 <= prefetch <= 65_535:
            raise InvalidInputError(f"prefetch must be from 1 to 65535, not {prefetch}", field="prefetch")
        consumer = RabbitMQConsumer(self, self._context.home, prefetch)
        try:
            await consumer.start()
            yield consumer
        finally:
            await consumer.aclose()

    async def depth(self) -> int:
        async def count(topology: Topology) -> int:
            ready = await topology.declare(self.queues.main)
            for spec in await self.used_shards(topology):
                ready += await topology.declare(spec)
            return ready

        return await self.on_topology(count)

    async def dead_letters(self, *, limit: int = 100) -> list[DeadLetter]:
        return await self._dead.look(limit)

    async def requeue_dead(
        self,
        ids: Sequence[str] | None = None,
        *,
        lineage: str = "",
        before: Prepare | None = None,
        stays: Prepare | None = None,
    ) -> int:
        return await self._dead.requeue(ids, lineage, before, stays)

    async def purge_dead(self, ids: Sequence[str] | None = None) -> int:
        return await self._dead.purge(ids)

    async def purge(self) -> int:
        from specstar.backends.rabbitmq.purging import purge

        return await purge(self)

    async def may_have_lost(self) -> bool:
        # A quorum queue keeps what moves on until the next queue has it on disk. A classic one lets go of it at once.
        if self.options.delay_queue_type == "quorum":
            return False

        async def ask() -> bool:
            link = await self.live_link()
            if link is not self._asked_on or not self._complete:
                self._complete = await link.topology.declare(self.queues.uptime) > 0
                self._asked_on = link
            return not self._complete

        return await self.on_link(ask)

    async def mark_complete(self) -> None:
        from specstar.backends.rabbitmq.faults import LinkLostError, unavailable

        # On another connection it might speak for a broker that was restarted meanwhile.
        link = self._asked_on
        if link is not None:
            try:
                await link.topology.put_transient(self.queues.uptime)
            except LinkLostError as error:
                raise unavailable(str(error)) from error

    # What consumer and dead letters need.

    async def live_link(self) -> Link:
        """The live link. Raises `BackendUnavailable` within the operation timeout."""
        connection = self._context.connection.opened or await self._context.connection.get()
        return connection.current or await connection.link(self.options.operation_timeout_seconds)

    async def consuming_link(self) -> Link:
        """The live link of consumers. Raises `BackendUnavailable` within the operation timeout."""
        connection = self._context.connection.opened or await self._context.connection.get()
        return await connection.consuming_link(self.options.operation_timeout_seconds)

    async def on_link(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do what may be done twice: once more if the connection is lost meanwhile."""
        from specstar.backends.rabbitmq.faults import LinkLostError, unavailable

        try:
            return await work()
        except LinkLostError:
            try:
                return await work()
            except LinkLostError as error:
                raise unavailable(str(error)) from error

    async def on_topology(self, work: Callable[[Topology], Awaitable[T]]) -> T:
        """Ask the broker what may be asked twice: once more, on the next connection, if this one is lost meanwhile."""

        async def ask() -> T:
            return await work((await self.live_link()).topology)

        return await self.on_link(ask)

    async def declare_all(self, topology: Topology) -> None:
        """All queues that every job has."""
        await topology.ensure(self.queues.main, self.queues.dead, self.queues.partitions)
        await self._declare_retry(topology)

    async def _declare_retry(self, topology: Topology) -> bool:
        """The retry queue; False if it has another TTL or cannot be made, where a delay queue takes its place."""
        from specstar.backends.rabbitmq.faults import LinkLostError, QueueMismatchError, UnmadeQueueError

        try:
            if self.retry_made:
                await topology.ensure(self.queues.retry)
        except UnmadeQueueError as error:
            self._instead_of(self.queues.retry, error)
            raise LinkLostError(str(error)) from error
        except QueueMismatchError as error:
            if error.argument != "x-message-ttl":
                raise
            if self._retry_usable:
                self._retry_usable = False
                logger.warning("retries of %r go through a queue of their own delay: %s", self.name, error)
        return self._retry_usable

    # Where a message goes.

    async def _route(self, message: Message, delay: float) -> QueueSpec:
        target = self._main
        if message.partition_key is not None:
            target = await self._shard(shard_of(message.partition_key, self.queues.shards))
        if not delay:
            return target
        step = step_of(delay)
        as_ever = target is self._main and delay == self.options.retry_delay_seconds and self._retry_usable
        if as_ever and await self._persistently(self._declare_retry):
            return self.queues.retry
        return self._delay(target.name, step)

    def _delay(self, target: str, step: int) -> QueueSpec:
        spec = self._delays.get((target, step))
        if spec is None:
            if len(self._delays) >= 4096:
                self._delays.clear()
            spec = self._delays[target, step] = self.queues.delay(target, step)
        return spec

    def _instead_of(self, broken: QueueSpec, error: UnmadeQueueError) -> QueueSpec:
        """The queue in which messages wait instead of one that the broker cannot make; raises `error` if there is none."""
        if broken.name != error.queue or "x-message-ttl" not in broken.arguments:
            raise error
        target, step = broken.arguments["x-dead-letter-routing-key"], broken.arguments["x-message-ttl"]
        if broken is self.queues.retry:
            told = not self.retry_made
            self._retry_usable = self.retry_made = False
            instead = self._delay(target, step)
        else:
            longer = longer_step(step)
            if longer is None:
                raise error
            instead = self.queues.delay(target, longer)
            concerned = [key for key, spec in self._delays.items() if spec.name == broken.name]
            told = not concerned
            self._delays |= dict.fromkeys(concerned, instead)
        if not told:
            logger.warning("what was to wait in queue %r waits in %r: %s", broken.name, instead.name, error)
        return instead

    async def _shard(self, number: int) -> QueueSpec:
        """A partition queue, declared once a connection, and announced to all workers again and again."""
        spec = self._shards.get(number)
        if spec is None:
            spec = self._shards[number] = self.queues.shard(number)
        link = await self.live_link()
        if link.topology.fresh(spec) and link.topology.partitioned(self.queues):
            return spec

        async def declare(topology: Topology) -> None:
            await topology.ensure(self.queues.dead, spec)
            async with self._announcing:
                if not topology.partitioned(self.queues):
                    if not await topology.declare(self.queues.partitions):
                        await self._outbox.send(self.queues.partitions, b"in use")
                    topology.mark_partitioned(self.queues)

        await self._persistently(declare)
        return spec

    async def _persistently(self, work: Callable[[Topology], Awaitable[T]]) -> T:
        """As often as the connection is lost meanwhile. The caller bounds the time."""
        from specstar.backends.rabbitmq.faults import LinkLostError

        while True:
            try:
                return await work((await self.live_link()).topology)
            except LinkLostError:
                await asyncio.sleep(_PAUSE_AFTER_LOSS)

    async def used_shards(self, topology: Topology) -> list[QueueSpec]:
        """The queues of partition keys, declared; none while no keys are in use."""
        if not await topology.declare(self.queues.partitions):
            return []
        shards = [self.queues.shard(number) for number in range(self.queues.shards)]
        await topology.ensure(*shards)
        return shards


def _priority(message: Message | bytes) -> int:
    return _checked(message.priority) if isinstance(message, Message) else 0


def _checked(priority: int) -> int:
    if not 0 <= priority <= HIGHEST_PRIORITY:
        raise InvalidInputError(
            f"a priority is a number from 0 to {HIGHEST_PRIORITY}, not {priority}", field="priority"
        )
    return priority


class RabbitMQQueueFactory(MessageQueueFactory):
    """Makes the queue of each job on one broker."""

    def __init__(self, context: BackendContext[RabbitMQOptions, RabbitMQConnection]) -> None:
        self.max_retries: int = context.options.max_retries
        self.retry_delay_seconds: float = context.options.retry_delay_seconds
        self._context = context

    @property
    def durable(self) -> bool:
        return True

    def build(self, name: str, *, max_priority: int | None = None) -> MessageQueue:
        if max_priority is not None:
            _checked(max_priority)
            if max_priority and self._context.options.queue_type == "quorum":
                logger.warning("job %r: quorum queues have no max_priority; their priorities are the broker's", name)
        return RabbitMQQueue(self._context, name, max_priority)
