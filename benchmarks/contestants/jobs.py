"""What all contestants for jobs share: the job, and how sending, draining and latency are measured."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, ClassVar, Literal

from benchmarks.contestant import Contestant, Sample, rate_of

__all__ = ["PREFETCH", "AsyncJobs", "BlockingJobs", "Handler"]

PREFETCH = 200
BATCH = 500
_FRAME = 70
_WARM_UP_JOBS = 10
_LEAST_LATENCIES = 40
_LATENCY_PAUSE_SECONDS = 0.005
_TIMEOUT_SECONDS = 120.0

Handler = Callable[[int], None]
"""Called with the number of each job at the begin of its handler."""


class _Jobs(Contestant):
    def queue(self, operation: str) -> str:
        """A queue of this process for one operation."""
        return f"bench-{os.getpid()}-{operation}"

    def job(self, number: int) -> dict[str, Any]:
        """The fields of a job; its JSON has about `payload` bytes."""
        return {"number": number, "to": "someone@example.org", "body": "x" * max(0, self.payload - _FRAME)}

    @property
    def amount(self) -> int:
        """How many jobs are drained."""
        jobs: int = self.setting["jobs"]
        return jobs


class AsyncJobs(_Jobs):
    """A library for asyncio. Subclasses send, and run a worker whose asynchronous handler does nothing."""

    async def send(self, queue: str, number: int) -> None:
        """Send one job; returns when the broker has confirmed it."""
        raise NotImplementedError

    def worker(self, queue: str, handler: Handler) -> AbstractAsyncContextManager[None]:
        """A worker with `PREFETCH` jobs in flight, acknowledging each after its handler."""
        raise NotImplementedError

    async def purge(self, queue: str) -> None:
        """Empty a queue."""
        raise NotImplementedError

    async def send_all(self, queue: str, count: int) -> None:
        """Send jobs 0 to `count`, by 64 callers."""
        numbers = iter(range(count))

        async def caller() -> None:
            for number in numbers:
                await self.send(queue, number)

        async with asyncio.TaskGroup() as group:
            for _ in range(64):
                group.create_task(caller())

    async def enqueue(self, caller: int) -> None:
        """One confirmed job."""
        await self.send(self.queue("enqueue"), self.count())

    async def measure(self, operation: str, callers: int, seconds: float) -> Sample:
        sample = await super().measure(operation, callers, seconds)
        if operation in {"enqueue", "enqueue_many"}:
            await self.purge(self.queue("enqueue"))
        return sample

    async def measure_drain(self, callers: int, seconds: float) -> Sample:
        """Jobs a second from the begin of consumption to the last handler."""
        queue, total = self.queue("drain"), self.amount
        await self.send_all(queue, total)
        seen, done = 0, asyncio.Event()

        def handler(number: int) -> None:
            nonlocal seen
            seen += 1
            if seen == total:
                done.set()

        started = time.perf_counter()
        async with self.worker(queue, handler):
            await asyncio.wait_for(done.wait(), _TIMEOUT_SECONDS)
            elapsed = time.perf_counter() - started
        return {"value": total / elapsed, "calls": total}

    async def measure_latency(self, callers: int, seconds: float) -> Sample:
        """Milliseconds from just before sending to the handler, one job at a time: the middle one of many."""
        queue = self.queue("latency")
        sent: dict[int, float] = {}
        taken = array("d")
        arrived = asyncio.Event()

        def handler(number: int) -> None:
            taken.append(time.perf_counter() - sent[number])
            arrived.set()

        async with self.worker(queue, handler):
            for number in _while_fits(seconds, taken):
                arrived.clear()
                sent[number] = time.perf_counter()
                await self.send(queue, number)
                await asyncio.wait_for(arrived.wait(), _TIMEOUT_SECONDS)
                await asyncio.sleep(_LATENCY_PAUSE_SECONDS)
        return _latency(taken)


class BlockingJobs(_Jobs):
    """A library of blocking calls."""

    loop: ClassVar[Literal["asyncio", "trio", "blocking"]] = "blocking"
    max_callers: ClassVar[int | None] = 8
    """More threads make them slower."""

    def send(self, queue: str, number: int) -> None:
        """Send one job; returns when the broker has confirmed it."""
        raise NotImplementedError

    def worker(self, queue: str, handler: Handler) -> AbstractContextManager[None]:
        """A worker in threads of its own, acknowledging each job after its handler."""
        raise NotImplementedError

    def purge(self, queue: str) -> None:
        """Empty a queue."""
        raise NotImplementedError

    def enqueue(self, caller: int) -> None:
        """One confirmed job."""
        self.send(self.queue("enqueue"), self.count())

    async def measure(self, operation: str, callers: int, seconds: float) -> Sample:
        sample = await super().measure(operation, callers, seconds)
        if operation == "enqueue":
            self.purge(self.queue("enqueue"))
        return sample

    async def measure_drain(self, callers: int, seconds: float) -> Sample:
        """Jobs a second from the begin of consumption to the last handler."""
        queue, total = self.queue("drain"), self.amount
        for number in range(total):
            self.send(queue, number)
        seen: list[int] = []
        done = threading.Event()

        def handler(number: int) -> None:
            seen.append(number)
            if len(seen) == total:
                done.set()

        started = time.perf_counter()
        with self.worker(queue, handler):
            if not done.wait(_TIMEOUT_SECONDS):
                raise TimeoutError(f"{len(seen)} of {total} jobs in {_TIMEOUT_SECONDS:g} s")
            elapsed = time.perf_counter() - started
        return {"value": total / elapsed, "calls": total}

    async def measure_latency(self, callers: int, seconds: float) -> Sample:
        """Milliseconds from just before sending to the handler, one job at a time: the middle one of many."""
        queue = self.queue("latency")
        sent: dict[int, float] = {}
        taken = array("d")
        arrived = threading.Event()

        def handler(number: int) -> None:
            taken.append(time.perf_counter() - sent[number])
            arrived.set()

        with self.worker(queue, handler):
            for number in _while_fits(seconds, taken):
                arrived.clear()
                sent[number] = time.perf_counter()
                self.send(queue, number)
                if not arrived.wait(_TIMEOUT_SECONDS):
                    raise TimeoutError("a job did not arrive")
                time.sleep(_LATENCY_PAUSE_SECONDS)  # noqa: ASYNC251  blocking throughout
        return _latency(taken)


def _while_fits(seconds: float, taken: array[float]) -> Iterator[int]:
    """Numbers of jobs, for so long and at least so many."""
    deadline = time.perf_counter() + seconds
    for number in itertools.count():
        if time.perf_counter() > deadline and len(taken) >= _WARM_UP_JOBS + _LEAST_LATENCIES:
            return
        yield number


def _latency(taken: array[float]) -> Sample:
    sample = rate_of(taken[_WARM_UP_JOBS:], 1.0)
    sample["value"] = sample["p50"]
    return sample
