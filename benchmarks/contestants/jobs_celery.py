"""celery on RabbitMQ, with confirms and late acks (its defaults are without)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from celery.worker import state
from kombu import Queue

from benchmarks.contestant import distributions
from benchmarks.contestants.jobs import PREFETCH, BlockingJobs, Handler

__all__ = ["CeleryJobs"]

_START_SECONDS = 30.0


class CeleryJobs(BlockingJobs):
    """Eight threads send; a worker of the pool `solo`, which drains fastest here, without gossip, mingle and heartbeat."""

    def start(self) -> None:
        self.app: Any = Celery("bench", broker=self.setting["environment"]["AMQP_URL"])
        self.app.conf.update(
            broker_transport_options={"confirm_publish": True},
            broker_connection_retry_on_startup=True,
            task_acks_late=True,
            task_ignore_result=True,
            task_default_delivery_mode=2,
            task_queues=[Queue(self.queue(operation), durable=True) for operation in ("enqueue", "drain", "latency")],
            task_create_missing_queues=True,
            worker_prefetch_multiplier=PREFETCH,
            worker_enable_remote_control=False,
            worker_hijack_root_logger=False,
        )
        self._handler: Handler = lambda _: None

        def handle(number: int, to: str, body: str) -> None:
            self._handler(number)

        self.task = self.app.task(name="handle")(handle)

    async def close(self) -> None:
        with self.app.connection_for_write() as connection, connection.channel() as channel:
            for operation in ("enqueue", "drain", "latency"):
                channel.queue_delete(self.queue(operation))
        self.app.close()

    def versions(self) -> dict[str, str]:
        return distributions("celery", "kombu")

    def send(self, queue: str, number: int) -> None:
        self.task.apply_async(kwargs=self.job(number), queue=queue)

    @contextmanager
    def worker(self, queue: str, handler: Handler) -> Iterator[None]:
        self._handler = handler
        ready = threading.Event()

        class Worker(self.app.WorkController):  # type: ignore[name-defined]
            def on_consumer_ready(self, consumer: Any) -> None:
                ready.set()

        worker = Worker(
            pool_cls="solo",
            concurrency=1,
            queues=[queue],
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )
        # As celery.contrib.testing does it.
        thread = threading.Thread(target=worker.start, daemon=True)
        thread.start()
        if not ready.wait(_START_SECONDS):
            raise TimeoutError("the worker did not start")
        try:
            yield
        finally:
            state.should_stop = 0
            thread.join(_START_SECONDS)
            state.should_stop = None

    def purge(self, queue: str) -> None:
        with self.app.connection_for_write() as connection, connection.channel() as channel:
            channel.queue_purge(queue)
