"""RabbitMQ by hand on aiormq: one connection, confirmed and persistent publishes, an ack a delivery."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from benchmarks.contestant import Sample, distributions, drive_asyncio
from benchmarks.contestants.jobs import PREFETCH, AsyncJobs, Handler

__all__ = ["RawAiormq"]


class Mail(msgspec.Struct):
    """The payload."""

    number: int
    to: str
    body: str


class RawAiormq(AsyncJobs):
    """`basic_publish` with mandatory set, `basic_consume` with a prefetch, `basic_ack`."""

    async def open(self) -> None:
        import aiormq

        self.connection = await aiormq.connect(self.setting["environment"]["AMQP_URL"])
        self.channel = await self.connection.channel(publisher_confirms=True)
        self.encode = msgspec.json.Encoder().encode
        self.decode = msgspec.json.Decoder(Mail).decode
        for operation in ("enqueue", "drain", "latency"):
            await self.channel.queue_declare(self.queue(operation), durable=True)

    async def close(self) -> None:
        for operation in ("enqueue", "drain", "latency"):
            await self.channel.queue_delete(self.queue(operation))
        await self.connection.close()

    def versions(self) -> dict[str, str]:
        return distributions("aiormq")

    async def send(self, queue: str, number: int) -> None:
        from pamqp.commands import Basic

        body = self.encode(msgspec.convert(self.job(number), Mail))
        properties = Basic.Properties(delivery_mode=2, content_type="application/json")
        confirmed = await self.channel.basic_publish(body, routing_key=queue, properties=properties, mandatory=True)
        if not isinstance(confirmed, Basic.Ack):
            raise TypeError(f"not confirmed: {confirmed!r}")

    @asynccontextmanager
    async def worker(self, queue: str, handler: Handler) -> AsyncIterator[None]:
        from aiormq.abc import DeliveredMessage

        channel = await self.connection.channel()
        await channel.basic_qos(prefetch_count=PREFETCH)

        async def handle(job: Mail) -> None:
            handler(job.number)

        async def on_message(message: DeliveredMessage) -> None:
            await handle(self.decode(message.body))
            assert message.delivery_tag is not None
            await channel.basic_ack(message.delivery_tag)

        consumer = await channel.basic_consume(queue, on_message)
        try:
            yield
        finally:
            assert consumer.consumer_tag is not None
            await channel.basic_cancel(consumer.consumer_tag)
            await channel.close()

    async def purge(self, queue: str) -> None:
        await self.channel.queue_purge(queue)

    async def measure_enqueue_many(self, callers: int, seconds: float) -> Sample:
        """The same as `enqueue` by 64 callers: it has no other way."""
        sample = await drive_asyncio(self.enqueue, 64, seconds)
        return {"value": sample["value"], "calls": sample["calls"]}
