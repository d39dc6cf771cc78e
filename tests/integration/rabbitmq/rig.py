"""A process on a broker: its connection and queues, looked at from inside the home loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiormq

from specstar.backends.provider import BackendContext
from specstar.backends.rabbitmq import RabbitMQOptions, RabbitMQProvider
from specstar.backends.rabbitmq.connection import RabbitMQConnection
from specstar.backends.rabbitmq.envelope import NO_LIMIT, pack
from specstar.backends.rabbitmq.letter_headers import reason_headers
from specstar.backends.rabbitmq.names import delay_steps
from specstar.backends.rabbitmq.queue import RabbitMQQueue
from specstar.roles import Consumer, DeadLetter, Delivery, Message
from specstar.runtime import LazyConnection
from specstar.runtime.home import AsyncioHome

TIMEOUT_SECONDS = 20.0
# How long dead letters wait aside in these tests, in milliseconds.
ASIDE_STEPS = (50, 1000, 2000, 4000, 1_000_000)


class Rig:
    """One connection with its options, and the queues built on it."""

    def __init__(self, url: str, prefix: str, options: dict[str, Any]) -> None:
        self.options = RabbitMQOptions(amqp_url=url, queue_prefix=prefix, **options)
        self.provider = RabbitMQProvider()
        assert self.provider.validate(self.options, "mq") == []
        self.home = AsyncioHome(asyncio.get_running_loop())
        self.lazy: LazyConnection[RabbitMQConnection] = LazyConnection(
            lambda: self.provider.connect(self.options), "rabbitmq"
        )
        self.context = BackendContext(self.home, self.options, self.lazy)
        self.built: list[RabbitMQQueue] = []

    def queue(self, name: str = "job", *, max_priority: int | None = None) -> RabbitMQQueue:
        queue = self.provider.message_queue_factory(self.context).build(name, max_priority=max_priority)
        assert isinstance(queue, RabbitMQQueue)
        self.built.append(queue)
        return queue

    async def connection(self) -> RabbitMQConnection:
        return await self.lazy.get()

    async def remove_queues(self) -> None:
        for queue in self.built:
            queues = queue.queues
            targets = [queues.names.main, *(queues.names.shard(number) for number in range(queues.shards))]
            delays = [queues.delay(target, step).name for target in targets[:1] for step in delay_steps()]
            delays += [queues.aside(step).name for step in ASIDE_STEPS]
            link = await queue.live_link()
            names = queues.names
            await link.topology.delete(
                [*targets, names.retry, names.dead, names.partitions, names.uptime, names.purging]
            )
            await link.topology.delete(delays)

    async def close(self) -> None:
        self.home.closing = True
        await self.lazy.aclose(5)
        await self.home.cancel_tasks(5)


@asynccontextmanager
async def open_rig(url: str, prefix: str, *, keep: bool = False, **options: Any) -> AsyncIterator[Rig]:
    """`keep`: leave the queues, as another process on them or a dead broker needs it."""
    rig = Rig(url, prefix, options)
    try:
        yield rig
        if not keep:
            await rig.remove_queues()
    finally:
        await rig.close()


def message(number: int | str, **fields: Any) -> Message:
    return Message(id=str(number), **({"body": f"body {number}".encode("utf-8", "replace")} | fields))


async def send_dead(queue: RabbitMQQueue, message: Message, reason: str) -> None:
    """Put a message among the dead letters."""
    await queue.send_dead(pack(message, NO_LIMIT), reason_headers(reason))


async def take(consumer: Consumer, timeout: float = TIMEOUT_SECONDS) -> Delivery:
    async with asyncio.timeout(timeout):
        return await consumer.receive()


async def nothing_more(consumer: Consumer, wait: float = 0.15) -> bool:
    with contextlib.suppress(TimeoutError):
        await take(consumer, wait)
        return False
    return True


async def take_and_ack(consumer: Consumer, count: int) -> list[Message]:
    messages = []
    for _ in range(count):
        delivery = await take(consumer)
        messages.append(delivery.message)
        await delivery.ack()
    return messages


async def some_dead_letters(queue: RabbitMQQueue) -> list[DeadLetter]:
    """Wait until there are any."""
    for _ in range(round(TIMEOUT_SECONDS / 0.05)):
        if letters := await queue.dead_letters():
            return letters
        await asyncio.sleep(0.05)
    raise AssertionError("no dead letters")


@asynccontextmanager
async def raw_channel(url: str) -> AsyncIterator[aiormq.abc.AbstractChannel]:
    """A bare channel of the driver, as another program has it."""
    connection = await aiormq.connect(url)
    try:
        yield await connection.channel()
    finally:
        await connection.close(aiormq.exceptions.ConnectionClosed(200, "closed"))
        await asyncio.sleep(0.01)
