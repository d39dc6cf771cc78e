"""specstar's jobs, through its public names, on whichever queue and stores the setting binds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from msgspec import Struct, convert

from benchmarks.contestant import Sample, distributions
from benchmarks.contestants.filling import filled_in
from benchmarks.contestants.jobs import BATCH, PREFETCH, AsyncJobs, Handler
from specstar import Job, SpecStar
from specstar.message_queue import JobQueue, WorkerStop

__all__ = ["SpecstarJobs"]


class Mail(Struct):
    """The payload."""

    number: int
    to: str
    body: str


class SpecstarJobs(AsyncJobs):
    """`setting["keep_state"]` says whether each job's record is kept in the stores of the configuration."""

    def start(self) -> None:
        self.spec = SpecStar()
        self.spec.configure(backend=filled_in(self.setting["backend"], self.setting))
        self._handler: Handler = lambda _: None
        self._queues: dict[str, JobQueue[Mail]] = {}

    async def close(self) -> None:
        for name, queue in self._queues.items():
            await self.purge(name)
            del queue
        await self.spec.aclose()

    def versions(self) -> dict[str, str]:
        return distributions("specstar", *self.setting.get("distributions", ()))

    def _queue(self, name: str) -> JobQueue[Mail]:
        if name not in self._queues:

            async def handle(job: Job[Mail]) -> None:
                self._handler(job.payload.number)

            self._queues[name] = self.spec.add_job(Mail, handle, name=name, keep_state=self.setting["keep_state"])
        return self._queues[name]

    def mail(self, number: int) -> Mail:
        """The payload of job `number`."""
        return convert(self.job(number), Mail)

    async def send(self, queue: str, number: int) -> None:
        await self._queue(queue).enqueue(self.mail(number))

    async def send_all(self, queue: str, count: int) -> None:
        for start in range(0, count, BATCH):
            mails = [self.mail(number) for number in range(start, min(count, start + BATCH))]
            await self._queue(queue).enqueue_many(mails)

    @asynccontextmanager
    async def worker(self, queue: str, handler: Handler) -> AsyncIterator[None]:
        self._handler = handler
        stop = WorkerStop()
        queues: list[JobQueue[Any]] = [self._queue(queue)]
        async with asyncio.TaskGroup() as group:
            group.create_task(
                self.spec.run_workers(concurrency=PREFETCH, queues=queues, stop=stop, handle_signals=False)
            )
            try:
                yield
            finally:
                stop.set()

    async def purge(self, queue: str) -> None:
        await self._queue(queue).purge()

    async def measure_enqueue_many(self, callers: int, seconds: float) -> Sample:
        """Jobs a second, many a call."""
        queue = self._queue(self.queue("enqueue"))
        mails = [self.mail(number) for number in range(BATCH)]
        await queue.enqueue_many(mails)
        started = time.perf_counter()
        sent = 0
        while time.perf_counter() - started < seconds:
            await queue.enqueue_many(mails)
            sent += BATCH
        return {"value": sent / (time.perf_counter() - started), "calls": sent}

    async def measure_through(self, callers: int, seconds: float) -> Sample:
        """Jobs a second from the first `enqueue` to the last handler, by so many callers, the worker running."""
        total, seen, done = self.amount, 0, asyncio.Event()

        def handler(number: int) -> None:
            nonlocal seen
            seen += 1
            if seen == total:
                done.set()

        name = self.queue("through")
        numbers = iter(range(total))

        async def caller() -> None:
            for number in numbers:
                await self.send(name, number)

        async with self.worker(name, handler):
            started = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for _ in range(callers):
                    group.create_task(caller())
            await done.wait()
            elapsed = time.perf_counter() - started
        return {"value": total / elapsed, "calls": total}
