"""The receiving end of one worker: it survives connections, channels and deleted queues."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from specstar.backends.rabbitmq.delivery import RabbitMQDelivery
from specstar.backends.rabbitmq.faults import LinkLostError, unavailable
from specstar.backends.rabbitmq.parking import Parking
from specstar.backends.rabbitmq.subscription import Subscription
from specstar.errors import BackendError, BackendUnavailable
from specstar.roles import Consumer, Delivery
from specstar.runtime import Outage

if TYPE_CHECKING:
    from specstar.backends.rabbitmq.job_queues import QueueSpec
    from specstar.backends.rabbitmq.link import Link
    from specstar.backends.rabbitmq.queue import RabbitMQQueue
    from specstar.runtime import Home
    from specstar.runtime.home import TaskHandle

__all__ = ["RabbitMQConsumer"]

logger: logging.Logger = logging.getLogger("specstar")
# How soon the first use ever of a partition key is noticed.
_POLL_SECONDS = 2.0
_LONGEST_PAUSE = 5.0
_SHARE_SECONDS = 5.0
_WATCH_SECONDS = 20.0
# Unless it is configured otherwise.
_BROKERS_CONSUMER_TIMEOUT = 1800.0


class RabbitMQConsumer(Consumer):
    """At most `prefetch` deliveries are handed out and not ended. A task of the home subscribes anew after any loss."""

    def __init__(self, queue: RabbitMQQueue, home: Home, prefetch: int) -> None:
        self.queue = queue
        self.home = home
        self.stopped: bool = False
        self.parking: Parking = Parking(queue)
        self.hold_seconds: float | None = queue.options.consumer_timeout_seconds or _BROKERS_CONSUMER_TIMEOUT
        self._prefetch = prefetch
        self._loop = asyncio.get_running_loop()
        self._main: Subscription | None = None
        self._partitions: dict[int, Subscription] = {}
        self._partitioned = False
        self.shares: bool = False
        self._shared = self._watched = self._loop.time()
        self._ready: deque[RabbitMQDelivery] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._handed_out = 0
        self._changed = asyncio.Event()
        self._closed = asyncio.Event()
        self._stopping = asyncio.Lock()
        self._task: TaskHandle | None = None
        self._outage = Outage()

    async def start(self) -> None:
        """Subscribe, and stay so. Raises `BackendUnavailable`, or `BackendError` for queues with other arguments."""

        async def subscribe() -> None:
            await self._subscribe(await self.queue.consuming_link())

        await self.queue.on_link(subscribe)
        self._task = self.home.spawn(self._keep_subscribed)

    async def receive(self) -> Delivery:
        while True:
            if self.stopped:
                raise unavailable("the consumer is stopped")
            if self._ready and self._handed_out < self._prefetch:
                delivery = self._ready.popleft()
                self._handed_out += 1
                delivery.subscription.hand_out(delivery)
                if self._ready:
                    self._wake()
                return delivery
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except BaseException:
                if waiter.done() and not waiter.cancelled():
                    self._wake()  # this turn was mine, and goes to the next
                elif waiter in self._waiters:
                    self._waiters.remove(waiter)
                raise

    def share_partitions(self) -> None:
        self.shares = True
        self._changed.set()

    @property
    def paused(self) -> bool:  # type: ignore[override]
        return self._main is not None and self._main.paused

    async def others_may_take(self) -> bool:
        async def look() -> bool:
            link = await self.queue.live_link()
            ready, consumers = await link.topology.load(self.queue.queues.main)
            # Where something lies ready, nobody has room for more; and a blocked publish might arrive once given up.
            return not ready and not link.blocked() and consumers > (not self.paused)

        return await self.queue.on_link(look)

    async def pause(self) -> None:
        if not self.paused:
            await self._take_at_most(0)

    async def resume(self, *, prefetch: int) -> None:
        await self._take_at_most(prefetch)

    async def _take_at_most(self, prefetch: int) -> None:
        done: asyncio.Future[None] = self._loop.create_future()
        self.home.spawn(self._change, prefetch, done)
        await done

    async def _change(self, prefetch: int, done: asyncio.Future[None]) -> None:
        """In a task of its own: a request that is given up half way ends its channel, and with it all that runs."""
        try:
            if self._main is not None and not self.stopped:
                await self._main.change(prefetch)
        finally:
            if not done.done():
                done.set_result(None)

    async def stop(self) -> None:
        async with self._stopping:
            if self.stopped:
                return
            self.stopped = True
            self._ready.clear()
            while self._waiters:
                self._wake_first()
            if self._task is not None:
                self._task.cancel()
            await _side_by_side([subscription.stop() for subscription in self._subscriptions()])

    async def aclose(self) -> None:
        """Stop, and give back every delivery without an end. Goes on by itself if the caller is cancelled."""
        self.home.spawn(self._close)
        try:
            async with asyncio.timeout(3 * self.queue.options.operation_timeout_seconds):
                await self._closed.wait()
        except TimeoutError:
            logger.warning("closing a consumer of %r took too long: left to the broker", self.queue.name)

    async def _close(self) -> None:
        try:
            await self.stop()
            await _side_by_side([subscription.aclose() for subscription in self._subscriptions()])
        finally:
            self._closed.set()

    # What subscriptions report.

    def offer(self, delivery: RabbitMQDelivery) -> None:
        """A delivery that may be handed out. Once stopped, it waits to be given back."""
        if not self.stopped:
            self._ready.append(delivery)
            self._wake()

    def withhold(self, subscription: Subscription) -> None:
        """Hand out nothing more of this one."""
        kept = [delivery for delivery in self._ready if delivery.subscription is not subscription]
        self._ready.clear()
        self._ready.extend(kept)

    def one_ended(self) -> None:
        self._handed_out -= 1
        self._wake()

    def subscription_lost(self, subscription: Subscription) -> None:
        self.withhold(subscription)
        self._handed_out -= subscription.handed_out
        self._changed.set()
        self._wake()

    def _wake(self) -> None:
        if self._waiters and self._ready and self._handed_out < self._prefetch:
            self._wake_first()

    def _wake_first(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    # Staying subscribed.

    async def _keep_subscribed(self) -> None:
        failures = 0
        while not self.stopped:
            try:
                async with asyncio.timeout(self._until_next_look()):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            connected = False
            try:
                link = await self.queue.consuming_link()
                connected = True
                await self._subscribe(link)
                if self.shares and self._partitioned and self._loop.time() >= self._shared + _SHARE_SECONDS:
                    await self._share(link)
                if self._loop.time() >= self._watched + _WATCH_SECONDS:
                    await self._watch(link)
                failures = 0
                self._outage.works()
            except (BackendError, LinkLostError) as error:
                failures += 1
                pause = min(_LONGEST_PAUSE, 0.05 * 2 ** min(failures, 10))
                # Of a connection that cannot be had the connection tells, once for all queues.
                told = not connected and isinstance(error, BackendUnavailable)
                once = failures == 1 and isinstance(error, LinkLostError)
                if not (told or once) and (lasted := self._outage.fails()) is not None:
                    logger.warning(
                        "consuming %r again fails for %.0f s, tried again: %s", self.queue.name, lasted, error
                    )
                await asyncio.sleep(pause)
                self._changed.set()

    async def _subscribe(self, link: Link) -> None:
        """Bring back what is missing. Raises `BackendError` or `LinkLostError`; what is open by then stays."""
        queues = self.queue.queues
        if self._main is None or self._main.lost:
            await self.queue.routes.declare_all(link.topology)
            self._main = await Subscription.open(self, link, queues.main, prefetch=self._prefetch)
        if not self._partitioned:
            self._partitioned = await link.topology.declare(queues.partitions) > 0
        if self._partitioned:
            shards = self.queue.routes.all_shards()
            await link.topology.ensure(*shards)
            missing = [number for number in range(len(shards)) if self._lacks(number)]
            await _side_by_side([self._subscribe_to(link, number, shards[number]) for number in missing])

    def _lacks(self, number: int) -> bool:
        subscription = self._partitions.get(number)
        return subscription is None or subscription.lost

    async def _subscribe_to(self, link: Link, number: int, shard: QueueSpec) -> None:
        self._partitions[number] = await Subscription.open(
            self, link, shard, prefetch=self.queue.options.partition_prefetch, partition=True
        )

    def _until_next_look(self) -> float:
        if not self._partitioned:
            return _POLL_SECONDS
        shares = self._shared + _SHARE_SECONDS if self.shares else math.inf
        return max(0.0, min(shares, self._watched + _WATCH_SECONDS) - self._loop.time())

    async def _watch(self, link: Link) -> None:
        """Consume anew where messages lie ready and none has come from one look to the next, though there is room.

        RabbitMQ 3.10 does not tell the consumer of a quorum queue that it was deleted, and delivers nothing, if somebody
        declares it again at once.
        """
        self._watched = self._loop.time()
        for subscription in self._subscriptions():
            before, subscription.suspect = subscription.suspect, None
            if not subscription.idle:
                continue
            try:
                ready, _ = await link.topology.load(subscription.queue)
            except BackendUnavailable:
                raise
            except BackendError as error:  # it is gone, and nobody told this consumer
                logger.warning("queue %r: consuming anew: %s", subscription.queue.name, error)
                link.topology.forget(subscription.queue.name)
                subscription.abort()
                continue
            if not ready or not subscription.idle:
                continue
            subscription.suspect = subscription.taken
            if before == subscription.taken:
                logger.warning(
                    "%d messages lie ready in queue %r and none comes: consuming anew", ready, subscription.queue.name
                )
                subscription.abort()

    async def _share(self, link: Link) -> None:
        """Leave partitions that are beyond this consumer's share to others: the broker gives all to whoever came first."""
        self._shared = self._loop.time()
        kept = [each for each in self._partitions.values() if not each.lost and not each.leaving]
        busy = [each for each in kept if each.busy or each.handed_out]
        for subscription in busy:
            subscription.busy = False
        if len(busy) < 2:
            return
        # Of the queue without partitions: quorum queues count only the active consumer of a partition.
        _, workers = await link.topology.load(self.queue.queues.main)
        share = -(-self.queue.queues.shards // max(1, workers))
        # With more than one prefetched, other keys would wait for a slow handler: those move when they rest.
        movable = [each for each in busy if not each.handed_out or self.queue.options.partition_prefetch == 1]
        for subscription in sorted(movable, key=lambda each: each.handed_out)[: max(0, len(busy) - share)]:
            subscription.leave()

    def _subscriptions(self) -> list[Subscription]:
        main = [] if self._main is None else [self._main]
        return [*main, *self._partitions.values()]


async def _side_by_side(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Each takes some round trips: all of them together take no more. Raises the first error, once all have ended."""
    for outcome in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
