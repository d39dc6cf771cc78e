"""FastStream on RabbitMQ, persistent messages (its default is transient ones)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from faststream import AckPolicy
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue
from pydantic import BaseModel

from benchmarks.contestant import distributions
from benchmarks.contestants.jobs import PREFETCH, AsyncJobs, Handler

__all__ = ["FastStream"]


class Mail(BaseModel):
    """The payload."""

    number: int
    to: str
    body: str


class FastStream(AsyncJobs):
    """One broker that publishes, another for each worker."""

    async def open(self) -> None:
        self.broker: Any = RabbitBroker(self.setting["environment"]["AMQP_URL"], logger=None)
        await self.broker.start()
        for operation in ("enqueue", "drain", "latency"):
            await self.broker.declare_queue(self._durable(self.queue(operation)))

    async def close(self) -> None:
        for operation in ("enqueue", "drain", "latency"):
            await (await self.broker.declare_queue(self._durable(self.queue(operation)))).delete(
                if_unused=False, if_empty=False
            )
        await self.broker.stop()

    def versions(self) -> dict[str, str]:
        return distributions("faststream")

    @staticmethod
    def _durable(name: str) -> Any:
        return RabbitQueue(name, durable=True)

    async def send(self, queue: str, number: int) -> None:
        await self.broker.publish(Mail(**self.job(number)), queue=queue, persist=True)

    @asynccontextmanager
    async def worker(self, queue: str, handler: Handler) -> AsyncIterator[None]:
        broker: Any = RabbitBroker(
            self.setting["environment"]["AMQP_URL"], default_channel=Channel(prefetch_count=PREFETCH), logger=None
        )

        @broker.subscriber(self._durable(queue), ack_policy=AckPolicy.REJECT_ON_ERROR)
        async def handle(mail: Mail) -> None:
            handler(mail.number)

        await broker.start()
        try:
            yield
        finally:
            await broker.stop()

    async def purge(self, queue: str) -> None:
        await (await self.broker.declare_queue(self._durable(queue))).purge()
