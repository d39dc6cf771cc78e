"""One consuming channel on one queue: what it delivers, what is in hand, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from typing import TYPE_CHECKING, Any

from specstar.backends.rabbitmq import wire
from specstar.backends.rabbitmq.acks import Acks
from specstar.backends.rabbitmq.contents import DELIVER, Contents, delivery_of
from specstar.backends.rabbitmq.delivery import RabbitMQDelivery
from specstar.backends.rabbitmq.envelope import unpack
from specstar.backends.rabbitmq.faults import LinkLostError, translated
from specstar.backends.rabbitmq.letter_headers import letter_in, letter_of, reason_headers
from specstar.errors import BackendError, DecodeError, LimitExceededError

if TYPE_CHECKING:
    from aiormq.abc import DeliveredMessage
    from aiormq.channel import Channel
    from pamqp import commands as spec

    from specstar.backends.rabbitmq.consumer import RabbitMQConsumer
    from specstar.backends.rabbitmq.job_queues import QueueSpec
    from specstar.backends.rabbitmq.link import Link

__all__ = ["Subscription"]

logger: logging.Logger = logging.getLogger("specstar")
_GIVE_BACK_SECONDS = 1.0
_SEND_ANEW_SECONDS = 5.0


class Subscription:
    """The consuming channel of the main queue, or of one partition queue (`partition`), where each key has its turn.

    Once it is `lost`, its deliveries belong to the broker again: their ends raise, those not handed out are dropped.
    """

    def __init__(
        self, consumer: RabbitMQConsumer, link: Link, channel: Channel, queue: QueueSpec, *, partition: bool
    ) -> None:
        self.consumer = consumer
        self.link = link
        self.queue = queue
        self.partition = partition
        self.lost: bool = False
        self.leaving: bool = False
        self.handed_out: int = 0
        self.busy: bool = False
        """True if something has come since this was last set to False: the broker has chosen this consumer."""
        self.paused: bool = True
        self.taken: int = 0
        """How many messages have come."""
        self.suspect: int | None = None
        """As many had come when more lay ready and none came, though nothing was in hand."""
        self._channel = channel
        self._consumer_tag = ""
        self._changing = asyncio.Lock()
        self._open: dict[int, RabbitMQDelivery] = {}
        # How many are on their way to the dead letters that are in no worker's hands.
        self._parked = 0
        # Partition keys in hand, each with what waits behind it.
        self._keys: dict[str, deque[RabbitMQDelivery]] = {}
        problem = wire.problem(channel)
        self._acks = Acks(channel, public_calls_only=problem is not None)
        if problem is None and link.intake is not None:
            link.intake.divert(channel.number, Contents((DELIVER,), self._on_frames))
        channel.on_consumer_cancel_callbacks.add(self._cancelled_by_broker)
        self._observer = channel.closing
        self._observer.add_done_callback(self._on_closed)

    @classmethod
    async def open(
        cls, consumer: RabbitMQConsumer, link: Link, queue: QueueSpec, *, prefetch: int, partition: bool = False
    ) -> Subscription:
        """Begin to consume a declared queue. Raises `BackendUnavailable`, `BackendError` or `LinkLostError`."""
        subscription = cls(consumer, link, await link.open_channel(confirms=False), queue, partition=partition)
        try:
            await subscription._consume(prefetch)
        except BaseException:
            subscription.abort()
            raise
        return subscription

    async def _consume(self, prefetch: int) -> None:
        """Take no more (0), or at most so many beside those in hand. Once it has failed the channel is of no use."""
        with translated(f"consuming queue {self.queue.name!r}"):
            async with asyncio.timeout(self.link.options.operation_timeout_seconds):
                if not self.paused:
                    await self._channel.basic_cancel(self._consumer_tag)
                    self.paused = True
                if prefetch:
                    self._consumer_tag = f"specstar-{secrets.token_hex(8)}"
                    await self._channel.basic_qos(prefetch_count=prefetch)
                    await self._channel.basic_consume(
                        self.queue.name, self._on_message, consumer_tag=self._consumer_tag
                    )
                    self.paused = False

    async def change(self, prefetch: int) -> None:
        """From now on take no more (0), or at most so many beside those in hand. Must not be cancelled."""
        async with self._changing:
            if not self.lost:
                try:
                    await self._consume(prefetch)
                except (BackendError, LinkLostError) as error:
                    logger.warning(
                        "pausing the consumer of queue %r failed: consuming anew: %s", self.queue.name, error
                    )
                    self.abort()

    @property
    def idle(self) -> bool:
        """True if it should get the next message: it takes some, has none, and in a partition was chosen by the broker."""
        in_hand = self._open or self._parked
        return not (self.lost or self.paused or self.leaving or in_hand) and (self.taken > 0 or not self.partition)

    # Deliveries coming in.

    def _on_frames(self, method: bytes, header: bytes, body: bytes) -> None:
        """In place of the driver's way, which takes a task a delivery."""
        tag, redelivered = delivery_of(method)
        self._take(tag, redelivered, letter_in(header), body)

    async def _on_message(self, message: DeliveredMessage) -> None:
        delivery: Any = message.delivery
        letter = letter_of(message.header.properties.headers)
        self._take(delivery.delivery_tag, delivery.redelivered, letter, message.body)

    def _take(self, tag: int, redelivered: bool, letter: dict[str, Any] | None, body: bytes) -> None:
        """`letter`: the headers of a dead letter that has waited aside."""
        if self.lost:
            return
        self.busy = True
        self.taken += 1
        if letter is not None:
            self.consumer.home.spawn(self._send_on, tag, body, letter)
            return
        try:
            message = unpack(body)
        except DecodeError as error:
            self.consumer.home.spawn(self._park_unread, tag, body, str(error))
            return
        delivery = RabbitMQDelivery(self, tag, message, redelivered=redelivered)
        self._open[tag] = delivery
        if self.leaving:
            return  # it goes back
        if self.partition and message.partition_key is not None:
            behind = self._keys.get(message.partition_key)
            if behind is not None:
                behind.append(delivery)
                return
            self._keys[message.partition_key] = deque()
        self.consumer.offer(delivery)

    async def _park_unread(self, tag: int, body: bytes, reason: str) -> None:
        """A message that is not ours: among the dead letters it harms nobody, and is not lost."""
        if await self._park(tag, body, reason_headers(reason)):
            logger.warning("a message in queue %r goes to the dead letters: %s", self.queue.name, reason)

    async def _send_on(self, tag: int, body: bytes, letter: dict[str, Any]) -> None:
        """A dead letter that has waited aside: of that its worker, or whoever could not read it, has told."""
        await self._park(tag, body, letter)

    async def _park(self, tag: int, body: bytes, letter: dict[str, Any]) -> bool:
        """To the dead letters, in nobody's hands: True once it is there or waits aside, False if it comes again or is dropped."""
        end, parked = self._acks.done, True
        self._parked += 1
        try:
            await self.consumer.parking.park(self.queue.name, body, letter)
        except BackendError:
            await asyncio.sleep(_GIVE_BACK_SECONDS)
            end, parked = self._acks.give_back, False
        except LimitExceededError as error:
            # Given back, it would come again for ever.
            logger.error("a message in queue %r is dropped, it cannot be parked: %s", self.queue.name, error)  # noqa: TRY400
            parked = False
        finally:
            self._parked -= 1
        if not self.lost:
            end(tag)
        return parked

    # Deliveries that end.

    def hand_out(self, delivery: RabbitMQDelivery) -> None:
        """This one is in a worker's hands from now on."""
        delivery.handed_out = True
        self.handed_out += 1

    def end(self, delivery: RabbitMQDelivery) -> None:
        """Acknowledge, and let the next message of its partition key go."""
        self._open.pop(delivery.tag, None)
        self._acks.done(delivery.tag)
        self.handed_out -= 1
        key = delivery.message.partition_key
        if self.partition and key is not None and (behind := self._keys.get(key)) is not None:
            if behind and not self.leaving:
                self.consumer.offer(behind.popleft())
            else:
                del self._keys[key]
        self.consumer.one_ended()
        if self.partition and (self.consumer.stopped or self.leaving) and not self.handed_out:
            self.consumer.home.spawn(self.aclose)

    def give_back(self, delivery: RabbitMQDelivery) -> None:
        """This one has no end, and comes again: a little later, so that what cannot be sent does not become a busy loop."""
        asyncio.get_running_loop().call_later(_GIVE_BACK_SECONDS, self._give_back, delivery)

    def _give_back(self, delivery: RabbitMQDelivery) -> None:
        if self.lost:
            return
        if self.partition:
            # With all of this partition, so that nothing of its key overtakes it.
            self.abort()
            return
        self._open.pop(delivery.tag, None)
        self._acks.give_back(delivery.tag)
        self.handed_out -= 1
        self.consumer.one_ended()

    # Stopping.

    def leave(self) -> None:
        """Give a partition up to the next worker, once nothing of it is in hand; the consumer subscribes anew, behind the others.

        As in `stop`, by closing the channel.
        """
        self.leaving = True
        self.consumer.withhold(self)
        if not self.handed_out:
            self.consumer.home.spawn(self.aclose)

    async def stop(self) -> None:
        """Take no more, and give back what is not in hand.

        A partition is let go only once nothing of it is in hand, and then by closing its channel: the broker puts
        everything back in its place before the next worker gets any of it. Cancelling first would let that one overtake; and
        in RabbitMQ 3.10 a classic queue crashes, and forgets acks, that is published to after its active consumer cancelled.
        """
        if self.partition:
            if not self.handed_out:
                await self.aclose()
            return
        async with self._changing:
            if not self.lost:
                with contextlib.suppress(BackendError, LinkLostError):
                    await self._consume(0)
        waiting = [delivery for _, delivery in sorted(self._open.items()) if not delivery.handed_out]
        if not self.consumer.shares:
            waiting = await self._sent_anew(waiting)
        if not self.lost:
            for delivery in waiting:
                del self._open[delivery.tag]
                self._acks.give_back(delivery.tag)
            self._acks.flush()

    async def _sent_anew(self, waiting: list[RabbitMQDelivery]) -> list[RabbitMQDelivery]:
        """Send anew what nobody has begun: given back, it counts as attempted. Returns what must be given back all the same."""
        fresh = [delivery for delivery in waiting if not delivery.redelivered]
        try:
            async with asyncio.timeout(_SEND_ANEW_SECONDS):
                too_large = await self.consumer.queue.send_again([delivery.message for delivery in fresh])
        except (BackendError, TimeoutError) as error:
            logger.info("%d jobs of queue %r go back as they are: %s", len(fresh), self.queue.name, error)
            return waiting
        sent = {delivery.tag for place, delivery in enumerate(fresh) if place not in too_large}
        if not self.lost:
            for tag in sent:
                del self._open[tag]
                self._acks.done(tag)
        return [delivery for delivery in waiting if delivery.tag not in sent]

    async def aclose(self) -> None:
        """Close the channel after the acks that are due: everything else goes back to its queue."""
        if not self.lost:
            # The writer is full where many close at once, and what is not written by then comes again.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.link.options.operation_timeout_seconds):
                    await self._acks.flush_all()
            await self.link.close_channel(self._channel)
            self._lose()

    def abort(self) -> None:
        """Give it up without waiting."""
        self._lose()
        self.link.discard(self._channel)

    def _cancelled_by_broker(self, _frame: spec.Basic.Cancel) -> None:
        name = self.queue.name
        # From RabbitMQ 4.3 on also when a handler holds a message of a quorum queue for too long.
        logger.warning(
            "RabbitMQ stopped the consumer of queue %r (deleted, its node went, or a handler outlasted consumer_timeout): "
            "consuming anew",
            name,
        )
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
            logger.warning("RabbitMQ closed the channel of queue %r: %s%s", self.queue.name, reason, hint)
        self._lose()

    def _lose(self) -> None:
        if not self.lost:
            self.lost = True
            self._open.clear()
            self._keys.clear()
            self.consumer.subscription_lost(self)
