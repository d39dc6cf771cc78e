"""dramatiq on RabbitMQ, with confirms (its default is without)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.contestant import distributions
from benchmarks.contestants.jobs import PREFETCH, BlockingJobs, Handler

__all__ = ["Dramatiq"]


class Dramatiq(BlockingJobs):
    """Eight threads send; a worker of two threads, which drains fastest here."""

    def start(self) -> None:
        os.environ["dramatiq_queue_prefetch"] = str(PREFETCH)  # noqa: SIM112  its name; the only way to set it
        import dramatiq
        from dramatiq.brokers.rabbitmq import RabbitmqBroker

        self.dramatiq: Any = dramatiq
        self.broker: Any = RabbitmqBroker(url=self.setting["environment"]["AMQP_URL"], confirm_delivery=True)
        dramatiq.set_broker(self.broker)
        self._handler: Handler = lambda _: None
        self._actors: dict[str, Any] = {}

    async def close(self) -> None:
        for name in self._actors:
            for queue in (name, f"{name}.DQ", f"{name}.XQ"):
                self.broker.channel.queue_delete(queue)
        self.broker.close()

    def versions(self) -> dict[str, str]:
        return distributions("dramatiq", "pika")

    def _actor(self, queue: str) -> Any:
        if queue not in self._actors:

            def handle(number: int, to: str, body: str) -> None:
                self._handler(number)

            self._actors[queue] = self.dramatiq.actor(actor_name=queue, queue_name=queue)(handle)
        return self._actors[queue]

    async def prepare_enqueue(self) -> None:
        """Declare before the threads do."""
        self._actor(self.queue("enqueue"))

    def send(self, queue: str, number: int) -> None:
        self._actor(queue).send(**self.job(number))

    @contextmanager
    def worker(self, queue: str, handler: Handler) -> Iterator[None]:
        self._handler = handler
        self._actor(queue)
        worker = self.dramatiq.Worker(self.broker, queues={queue}, worker_threads=2)
        worker.start()
        try:
            yield
        finally:
            worker.stop()

    def purge(self, queue: str) -> None:
        self.broker.channel.queue_purge(queue)
