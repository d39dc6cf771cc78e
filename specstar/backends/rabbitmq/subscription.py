"""One consuming channel: what it delivers, who has it in hand, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from typing import TYPE_CHECKING, Any

import aiormq

from specstar.backends.rabbitmq import wire
from specstar.backends.rabbitmq.acks import Acks
from specstar.backends.rabbitmq.delivery import RabbitMQDelivery
from specstar.backends.rabbitmq.envelope import unpack
from specstar.backends.rabbitmq.faults import translated
from specstar.errors import BackendError, DecodeError

if TYPE_CHECKING:
    from aiormq.abc import DeliveredMessage
    from aiormq.channel import Channel
    from pamqp import commands as spec

    from specstar.backends.rabbitmq.consumer import RabbitMQConsumer
    from specstar.backends.rabbitmq.link import Link
    from specstar.backends.rabbitmq.topology import QueueSpec

__all__ = ["Shard", "Subscription"]

logger = logging.getLogger("specstar")


class Shard:
    """A partition queue that this channel consumes, with the keys that are in hand and those that wait for them."""

    def __init__(self, queue: QueueSpec) -> None:
        self.queue = queue
        self.handed_out = 0
        self.busy: dict[str, deque[RabbitMQDelivery]] = {}


class Subscription:
    """The consuming channel of the main queue, or of all partition queues.

    Once it is `lost`, its deliveries belong to the broker again: their ends raise, those not handed out are dropped.
    """

    def __init__(self, consumer: RabbitMQConsumer, link: Link, channel: Channel) -> None:
        self.consumer = consumer
        self.link = link
        self.lost = False
        self.handed_out = 0
        self._channel = channel
        problem = wire.problem(channel)
        self._acks = Acks(channel, public_calls_only=problem is not None)
        self._open: dict[int, RabbitMQDelivery] = {}
        self._sources: dict[str, tuple[QueueSpec, Shard | None]] = {}
        if problem is None:
            channel._on_deliver_frame = self._on_deliver_frame  # type: ignore[method-assign]
        channel.on_consumer_cancel_callbacks.add(self._cancelled_by_broker)
        self._observer = channel.closing
        self._observer.add_done_callback(self._on_closed)

    @classmethod
    async def open(cls, consumer: RabbitMQConsumer, link: Link) -> Subscription:
        """A channel that consumes nothing yet. Raises `BackendUnavailable` or `LinkLostError`."""
        return cls(consumer, link, await link.open_channel(confirms=False))

    async def consume(self, queue: QueueSpec, *, prefetch: int, shard: Shard | None = None) -> None:
        """Begin to consume a queue that is declared. The prefetch is that of this queue alone."""
        tag = f"specstar-{secrets.token_hex(8)}"
        self._sources[tag] = (queue, shard)
        with translated(f"consuming queue {queue.name!r}"):
            async with asyncio.timeout(self.link.options.operation_timeout_seconds):
                await self._channel.basic_qos(prefetch_count=prefetch)
                await self._channel.basic_consume(queue.name, self._on_message, consumer_tag=tag)

    # Deliveries coming in.

    async def _on_deliver_frame(self, frame: spec.Basic.Deliver) -> None:
        """In place of the driver's, which starts a task a delivery."""
        channel: Any = self._channel
        header = await channel._get_frame()
        size = header.body_size
        body = b""
        if size:
            body = (await channel._get_frame()).value
            if len(body) < size:
                pieces, received = [body], len(body)
                while received < size:
                    piece = (await channel._get_frame()).value
                    pieces.append(piece)
                    received += len(piece)
                body = b"".join(pieces)
        self._take(frame.delivery_tag or 0, bool(frame.redelivered), frame.consumer_tag or "", body)

    async def _on_message(self, message: DeliveredMessage) -> None:
        delivery: Any = message.delivery
        self._take(delivery.delivery_tag, delivery.redelivered, delivery.consumer_tag, message.body)

    def _take(self, tag: int, redelivered: bool, consumer_tag: str, body: bytes) -> None:
        queue, shard = self._sources[consumer_tag]
        try:
            message = unpack(body)
        except DecodeError as error:
            self.consumer.home.spawn(self._park, tag, body, queue.name, str(error))
            return
        delivery = RabbitMQDelivery(self, tag, message, redelivered=redelivered, shard=shard)
        self._open[tag] = delivery
        if shard is not None and message.partition_key is not None:
            held = shard.busy.get(message.partition_key)
            if held is not None:
                held.append(delivery)
                return
            shard.busy[message.partition_key] = deque()
        self.consumer.offer(delivery)

    async def _park(self, tag: int, body: bytes, queue: str, reason: str) -> None:
        """A message that is not ours: among the dead letters it harms nobody, and is not lost."""
        logger.warning("a message in queue %r goes to the dead letters: %s", queue, reason)
        try:
            await self.consumer.queue.send_dead_bytes(body, reason)
        except BackendError as error:
            logger.error("a message in queue %r could not be parked, and stays: %s", queue, error)  # noqa: TRY400
            return
        if not self.lost:
            self._acks.done(tag)

    # Deliveries that end.

    def hand_out(self, delivery: RabbitMQDelivery) -> None:
        delivery.handed_out = True
        self.handed_out += 1
        if delivery.shard is not None:
            delivery.shard.handed_out += 1

    def end(self, delivery: RabbitMQDelivery) -> None:
        """Acknowledge, and let the next message of its partition key go."""
        self._open.pop(delivery.tag, None)
        self._acks.done(delivery.tag)
        self.handed_out -= 1
        shard = delivery.shard
        if shard is not None:
            shard.handed_out -= 1
            key = delivery.message.partition_key
            if key is not None and (held := shard.busy.get(key)) is not None:
                if held:
                    self.consumer.offer(held.popleft())
                else:
                    del shard.busy[key]
            if self.consumer.stopped and not shard.handed_out:
                self.consumer.home.spawn(self._release, shard)
        self.consumer.one_ended()

    # Stopping.

    async def stop(self) -> None:
        """Take no more. A partition is let go once none of its messages is in hand: before, nobody else may have it."""
        shards = {shard for _, shard in self._sources.values()}
        for shard in shards:
            if shard is None or not shard.handed_out:
                await self._release(shard)

    async def _release(self, shard: Shard | None) -> None:
        """Stop consuming one queue, and give back what came from it and was not handed out."""
        for consumer_tag, (_, of) in list(self._sources.items()):
            if of is shard and not self.lost:
                with contextlib.suppress(TimeoutError, OSError, RuntimeError, aiormq.AMQPError):
                    async with asyncio.timeout(self.link.options.operation_timeout_seconds):
                        await self._channel.basic_cancel(consumer_tag)
        if self.lost:
            return
        for tag, delivery in sorted(self._open.items()):
            if delivery.shard is shard and not delivery.handed_out:
                del self._open[tag]
                self._acks.give_back(tag)

    async def aclose(self) -> None:
        """Close the channel after the acks that are due: everything else goes back to its queue."""
        if self.lost:
            return
        self._acks.flush()
        await self.link.close_channel(self._channel)

    def abort(self) -> None:
        """Give it up without waiting."""
        self._lose()
        self.link.discard(self._channel)

    def _cancelled_by_broker(self, frame: spec.Basic.Cancel) -> None:
        source = self._sources.get(frame.consumer_tag or "")
        name = source[0].name if source is not None else "?"
        logger.warning("RabbitMQ stopped the consumer of queue %r (deleted, or its node went): consuming anew", name)
        if source is not None:
            self.link.topology.forget(name)
        self.abort()

    def _on_closed(self, observer: asyncio.Future[Any]) -> None:
        reason = None if observer.cancelled() else observer.exception()
        if not self.lost and not self.consumer.stopped and not self.link.lost:
            hint = ""
            if "acknowledgement" in str(reason) and "timed out" in str(reason):
                hint = (
                    "; a handler outlasted the broker's consumer_timeout: raise that, or set consumer_timeout_seconds"
                )
            logger.warning("RabbitMQ closed a consuming channel: %s%s", reason, hint)
        self._lose()

    def _lose(self) -> None:
        if not self.lost:
            self.lost = True
            self._open.clear()
            self.consumer.subscription_lost(self)
