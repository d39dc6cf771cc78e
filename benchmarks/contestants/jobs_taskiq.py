"""taskiq with taskiq-aio-pika, on classic queues like all others here (its default is quorum queues)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pydantic import BaseModel
from taskiq.acks import AcknowledgeType
from taskiq.receiver import Receiver
from taskiq_aio_pika import AioPikaBroker, Exchange, Queue, QueueType

from benchmarks.contestant import distributions
from benchmarks.contestants.jobs import PREFETCH, AsyncJobs, Handler

__all__ = ["Taskiq"]


class Mail(BaseModel):
    """The payload."""

    number: int
    to: str
    body: str


class Taskiq(AsyncJobs):
    """A broker that sends and one that receives; the receiver runs in this process and acknowledges after the handler."""

    async def open(self) -> None:
        self._clients: dict[str, tuple[Any, Any]] = {}
        self._handler: Handler = lambda _: None

    async def close(self) -> None:
        for name, (broker, _) in self._clients.items():
            channel = await broker.write_conn.channel()
            await channel.queue_delete(name)
            await channel.exchange_delete(f"{name}-exchange")
            await broker.shutdown()

    def versions(self) -> dict[str, str]:
        return distributions("taskiq", "taskiq-aio-pika")

    async def _start(self, queue: str, *, worker: bool) -> tuple[Any, Any]:
        broker = AioPikaBroker(
            self.setting["environment"]["AMQP_URL"],
            qos=PREFETCH,
            exchange=Exchange(name=f"{queue}-exchange"),
            task_queues=[Queue(name=queue, type=QueueType.CLASSIC, routing_key=queue)],
        )
        broker.is_worker_process = worker

        async def handle(mail: Mail) -> None:
            self._handler(mail.number)

        task = broker.register_task(handle, task_name=queue, queue_name=queue)
        await broker.startup()
        return broker, task

    async def _client(self, queue: str) -> tuple[Any, Any]:
        if queue not in self._clients:
            self._clients[queue] = await self._start(queue, worker=False)
        return self._clients[queue]

    async def send(self, queue: str, number: int) -> None:
        _, task = self._clients.get(queue) or await self._client(queue)
        await task.kiq(Mail(**self.job(number)))

    async def send_all(self, queue: str, count: int) -> None:
        await self._client(queue)
        await super().send_all(queue, count)

    async def prepare_enqueue(self) -> None:
        """Open before 64 callers do."""
        await self._client(self.queue("enqueue"))

    @asynccontextmanager
    async def worker(self, queue: str, handler: Handler) -> AsyncIterator[None]:
        await self._client(queue)
        broker, _ = await self._start(queue, worker=True)
        self._handler = handler
        receiver = Receiver(
            broker,
            max_async_tasks=PREFETCH,
            max_prefetch=0,
            ack_type=AcknowledgeType.WHEN_EXECUTED,
            run_startup=False,
        )
        finish = asyncio.Event()
        listening = asyncio.create_task(receiver.listen(finish))
        try:
            yield
        finally:
            finish.set()
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            await broker.shutdown()

    async def purge(self, queue: str) -> None:
        broker, _ = await self._client(queue)
        channel = await broker.write_conn.channel()
        declared = await channel.get_queue(queue)
        await declared.purge()
        await channel.close()
