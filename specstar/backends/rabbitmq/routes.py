"""Where the messages of one job go: to its queue of work, one of its partition queues, or one in which they wait for either."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from specstar.backends.rabbitmq.names import longer_step, shard_of, step_of
from specstar.roles import Message

if TYPE_CHECKING:
    from specstar.backends.rabbitmq.faults import UnmadeQueueError
    from specstar.backends.rabbitmq.job_queues import JobQueues, QueueSpec
    from specstar.backends.rabbitmq.link import Link
    from specstar.backends.rabbitmq.options import RabbitMQOptions
    from specstar.backends.rabbitmq.outbox import Outbox
    from specstar.backends.rabbitmq.topology import Topology

__all__ = ["Routes"]

T = TypeVar("T")
logger: logging.Logger = logging.getLogger("specstar")
# So that a connection that is made and lost at once does not become a busy loop.
_PAUSE_AFTER_LOSS = 0.02
# In place of a queue of work.
_ASIDE = ""


class Routes:
    """Finds the queue of a message, and remembers which queues the broker cannot make, and what takes their places."""

    def __init__(
        self,
        name: str,
        queues: JobQueues,
        options: RabbitMQOptions,
        outbox: Outbox,
        live_link: Callable[[], Awaitable[Link]],
    ) -> None:
        self.retry_made: bool = True
        self._name = name
        self._queues = queues
        self._options = options
        self._outbox = outbox
        self._live_link = live_link
        self._retry_usable = True
        self._delays: dict[tuple[str, int], QueueSpec] = {}
        self._shards: dict[int, QueueSpec] = {}
        # One caller looks, the others wait for it.
        self._announcing = asyncio.Lock()

    async def of(self, message: Message, delay: float) -> QueueSpec:
        """The queue of this message. Tries again as often as the connection is lost meanwhile: the caller bounds the time."""
        target = self._queues.main
        if message.partition_key is not None:
            target = await self._shard(shard_of(message.partition_key, self._queues.shards))
        if not delay:
            return target
        step = step_of(delay)
        as_ever = target is self._queues.main and delay == self._options.retry_delay_seconds and self._retry_usable
        if as_ever and await self._persistently(self._declare_retry):
            return self._queues.retry
        return self._delay(target.name, step)

    def aside(self, delay: float) -> QueueSpec:
        """The queue in which a dead letter waits for this delay."""
        step = step_of(delay)
        return self._delays.setdefault((_ASIDE, step), self._queues.aside(step))

    async def send(self, route: QueueSpec, send_by: Callable[[QueueSpec], Awaitable[None]]) -> None:
        """Send by this queue; where the broker cannot make it, and messages wait in it, by one in which they wait longer."""
        from specstar.backends.rabbitmq.faults import UnmadeQueueError

        while True:
            try:
                await send_by(route)
            except UnmadeQueueError as error:
                route = self._instead_of(route, error)
            else:
                return

    async def declare_all(self, topology: Topology) -> None:
        """All queues that every job has."""
        others = (self._queues.main, self._queues.dead, self._queues.partitions)
        await self._declare_retry(topology, *others)
        await topology.ensure(*others)

    async def used_shards(self, topology: Topology) -> list[QueueSpec]:
        """The queues of partition keys, declared; none while no keys are in use."""
        if not await topology.declare(self._queues.partitions):
            return []
        shards = self.all_shards()
        await topology.ensure(*shards)
        return shards

    def all_shards(self) -> list[QueueSpec]:
        """The queues of partition keys, whether any are in use or not."""
        return [self._queues.shard(number) for number in range(self._queues.shards)]

    async def _declare_retry(self, topology: Topology, *others: QueueSpec) -> bool:
        """The retry queue, in the same round trips as `others`; False if it has another TTL or cannot be made, where a delay
        queue takes its place.
        """
        from specstar.backends.rabbitmq.faults import LinkLostError, QueueMismatchError, UnmadeQueueError

        try:
            if self.retry_made:
                await topology.ensure(*others, self._queues.retry)
        except UnmadeQueueError as error:
            self._instead_of(self._queues.retry, error)
            raise LinkLostError(str(error)) from error
        except QueueMismatchError as error:
            if error.argument != "x-message-ttl":
                raise
            if self._retry_usable:
                self._retry_usable = False
                logger.warning("retries of %r go through a queue of their own delay: %s", self._name, error)
        return self._retry_usable

    def _delay(self, target: str, step: int) -> QueueSpec:
        spec = self._delays.get((target, step))
        if spec is None:
            if len(self._delays) >= 4096:
                self._delays.clear()
            spec = self._delays[target, step] = self._queues.delay(target, step)
        return spec

    def _instead_of(self, broken: QueueSpec, error: UnmadeQueueError) -> QueueSpec:
        """The queue in which messages wait instead of one that the broker cannot make; raises `error` if there is none."""
        if broken.name != error.queue or "x-message-ttl" not in broken.arguments:
            raise error
        target, step = broken.arguments["x-dead-letter-routing-key"], broken.arguments["x-message-ttl"]
        if broken is self._queues.retry:
            told = not self.retry_made
            self._retry_usable = self.retry_made = False
            instead = self._delay(target, step)
        else:
            longer = longer_step(step)
            if longer is None:
                raise error
            instead = self._queues.delay(target, longer)
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
            spec = self._shards[number] = self._queues.shard(number)
        link = await self._live_link()
        if link.topology.fresh(spec) and link.topology.partitioned(self._queues):
            return spec

        async def declare(topology: Topology) -> None:
            await topology.ensure(self._queues.dead, spec)
            async with self._announcing:
                if not topology.partitioned(self._queues):
                    if not await topology.declare(self._queues.partitions):
                        await self._outbox.send(self._queues.partitions, b"in use")
                    topology.mark_partitioned(self._queues)

        await self._persistently(declare)
        return spec

    async def _persistently(self, work: Callable[[Topology], Awaitable[T]]) -> T:
        """As often as the connection is lost meanwhile. The caller bounds the time."""
        from specstar.backends.rabbitmq.faults import LinkLostError

        while True:
            try:
                return await work((await self._live_link()).topology)
            except LinkLostError:
                await asyncio.sleep(_PAUSE_AFTER_LOSS)
