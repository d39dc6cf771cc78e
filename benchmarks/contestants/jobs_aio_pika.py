"""aio-pika, as its documentation shows it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import msgspec

from benchmarks.contestant import distributions
from benchmarks.contestants.jobs import PREFETCH, AsyncJobs, Handler

__all__ = ["AioPika"]


class Mail(msgspec.Struct):
    """The payload."""

    number: int
    to: str
    body: str


class AioPika(AsyncJobs):
    """A robust connection, confirms on."""

    async def open(self) -> None:
        self.connection: Any = await aio_pika.connect_robust(self.setting["environment"]["AMQP_URL"])
        self.channel = await self.connection.channel(publisher_confirms=True)
        self.encode = msgspec.json.Encoder().encode
        self.decode = msgspec.json.Decoder(Mail).decode
        for operation in ("enqueue", "drain", "latency"):
            await self.channel.declare_queue(self.queue(operation), durable=True)

    async def close(self) -> None:
        for operation in ("enqueue", "drain", "latency"):
            await self.channel.queue_delete(self.queue(operation))
        await self.connection.close()

    def versions(self) -> dict[str, str]:
        return distributions("aio-pika")

    async def send(self, queue: str, number: int) -> None:
        body = self.encode(msgspec.convert(self.job(number), Mail))
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await self.channel.default_exchange.publish(message, routing_key=queue)

    @asynccontextmanager
    async def worker(self, queue: str, handler: Handler) -> AsyncIterator[None]:
        channel = await self.connection.channel()
        await channel.set_qos(prefetch_count=PREFETCH)
        declared = await channel.declare_queue(queue, durable=True)

        async def on_message(message: Any) -> None:
            handler(self.decode(message.body).number)
            await message.ack()

        tag = await declared.consume(on_message)
        try:
            yield
        finally:
            await declared.cancel(tag)
            await channel.close()

    async def purge(self, queue: str) -> None:
        await (await self.channel.declare_queue(queue, durable=True)).purge()
