"""PgQueuer: jobs in PostgreSQL itself, on asyncpg."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec

from benchmarks.contestant import Sample, distributions
from benchmarks.contestants.jobs import PREFETCH, AsyncJobs, Handler

__all__ = ["PgQueuer"]


class Mail(msgspec.Struct):
    """The payload."""

    number: int
    to: str
    body: str


class PgQueuer(AsyncJobs):
    """A pool of `setting["pool_size"]` connections; the table is its own, logged and durable."""

    async def open(self) -> None:
        os.environ["PGQUEUER_PREFIX"] = f"bench_{os.getpid()}_"
        from pgqueuer.db import AsyncpgPoolDriver
        from pgqueuer.queries import Queries

        size: int = self.setting["pool_size"]
        self.pool: Any = await asyncpg.create_pool(
            self.setting["environment"]["POSTGRES_DSN"], min_size=size, max_size=size
        )
        self.driver: Any = AsyncpgPoolDriver(self.pool)
        self.queries: Any = Queries(self.driver)
        await self.queries.install()
        self.encode = msgspec.json.Encoder().encode
        self.decode = msgspec.json.Decoder(Mail).decode

    async def close(self) -> None:
        await self.queries.uninstall()
        await self.pool.close()

    def versions(self) -> dict[str, str]:
        return distributions("pgqueuer", "asyncpg")

    def _body(self, number: int) -> bytes:
        return self.encode(msgspec.convert(self.job(number), Mail))

    async def send(self, queue: str, number: int) -> None:
        await self.queries.enqueue(queue, self._body(number))

    async def send_all(self, queue: str, count: int) -> None:
        for start in range(0, count, 500):
            numbers = range(start, min(count, start + 500))
            await self.queries.enqueue([queue] * len(numbers), [self._body(n) for n in numbers], [0] * len(numbers))

    @asynccontextmanager
    async def worker(self, queue: str, handler: Handler) -> AsyncIterator[None]:
        from pgqueuer.qm import QueueManager

        manager: Any = QueueManager(self.queries)

        @manager.entrypoint(queue)
        async def handle(job: Any) -> None:
            handler(self.decode(job.payload).number)

        running = asyncio.create_task(manager.run(batch_size=PREFETCH))
        try:
            yield
        finally:
            manager.shutdown.set()
            await asyncio.wait_for(running, 60)

    async def purge(self, queue: str) -> None:
        await self.queries.clear_queue(queue)

    async def measure(self, operation: str, callers: int, seconds: float) -> Sample:
        return await super().measure(operation, callers, seconds)
