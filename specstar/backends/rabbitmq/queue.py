"""The mq role on RabbitMQ: the queue of one job, and the factory that builds it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from specstar.backends.rabbitmq.envelope import HIGHEST_PRIORITY, NO_LIMIT, pack
from specstar.backends.rabbitmq.names import LONGEST_DELAY_SECONDS
from specstar.errors import BackendUnavailable, InvalidInputError
from specstar.roles import Consumer, DeadLetter, Message, MessageQueue, MessageQueueFactory
from specstar.roles.mq import Prepare

if TYPE_CHECKING:
    from specstar.backends.provider import BackendContext
    from specstar.backends.rabbitmq.connection import RabbitMQConnection
    from specstar.backends.rabbitmq.job_queues import QueueSpec
    from specstar.backends.rabbitmq.link import Link
    from specstar.backends.rabbitmq.options import RabbitMQOptions
    from specstar.backends.rabbitmq.outbox import TooLarge
    from specstar.backends.rabbitmq.topology import Topology

__all__ = ["RabbitMQQueue", "RabbitMQQueueFactory"]

T = TypeVar("T")
logger: logging.Logger = logging.getLogger("specstar")


class RabbitMQQueue(MessageQueue):
    """The messages of one job: a main queue, partition queues, delay queues, and the dead letters."""

    def __init__(
        self, context: BackendContext[RabbitMQOptions, RabbitMQConnection], name: str, max_priority: int | None
    ) -> None:
        from specstar.backends.rabbitmq.dead_letters import DeadLetters
        from specstar.backends.rabbitmq.job_queues import JobQueues
        from specstar.backends.rabbitmq.outbox import Outbox
        from specstar.backends.rabbitmq.routes import Routes

        self.name = name
        self.options: RabbitMQOptions = context.options
        self.queues: JobQueues = JobQueues(name, context.options, max_priority)
        self._context = context
        self._main = self.queues.main
        # Above this a priority counts as this: None once that was logged.
        self._top_priority: int | None = self.queues.top_priority
        self._limit = context.options.max_message_bytes
        self._outbox = Outbox(context.connection, context.options, (self.queues.main, self.queues.dead))
        self.routes: Routes = Routes(name, self.queues, context.options, self._outbox, self.live_link)
        self._dead = DeadLetters(self)
        self._asked_on: Link | None = None
        self._complete = False

    async def publish(self, message: Message, *, delay: float = 0) -> None:
        body, priority = pack(message, self._limit), _checked(message.priority)
        self._warn_of(priority)
        if not delay and message.partition_key is None:
            await self._outbox.send(self._main, body, priority=priority)
        else:
            async with self._publish_timeout():
                route = await self.routes.of(message, delay)
                await self.routes.send(route, partial(self._outbox.send, body=body, priority=priority))

    async def publish_many(self, messages: Sequence[Message], *, delay: float = 0) -> None:
        packed = [pack(message, self._limit) for message in messages]
        self._warn_of(max((message.priority for message in messages), default=0))
        for route, places in (await self._routes(messages, delay)).values():
            items = [(packed[place], messages[place].priority) for place in places]
            await self.routes.send(route, partial(self._outbox.send_many, items=items))

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
                    queue = await self.routes.of(message, delay)
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
            route = await self.routes.of(message, min(delay, LONGEST_DELAY_SECONDS))
            await self.routes.send(route, partial(self._outbox.send, body=body, priority=priority))

    async def send_dead(self, body: bytes, headers: dict[str, Any]) -> None:
        """Publish bytes as they are to the dead letters, with the headers of one."""
        await self._outbox.send(self.queues.dead, body, headers=headers)

    async def put_aside(self, body: bytes, headers: dict[str, Any], delay: float) -> None:
        """Have a dead letter wait: some consumer of this job gets it after this delay, and sends it on."""
        from specstar.backends.rabbitmq.letter_headers import aside

        async with self._publish_timeout():
            await self.routes.send(
                self.routes.aside(delay), partial(self._outbox.send, body=body, headers=aside(headers))
            )

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
            ready, used = await topology.declare_each(self.queues.main, self.queues.partitions)
            return ready + (sum(await topology.declare_each(*self.routes.all_shards())) if used else 0)

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
