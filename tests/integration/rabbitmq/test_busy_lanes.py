"""A job type whose waiting jobs were given to another worker has its turn again, and all of its slots."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest

from specstar import Job, SpecStar
from specstar.backends.rabbitmq.subscription import Subscription
from specstar.errors import LimitExceededError
from specstar.message_queue import JobQueue, waiting
from tests.conformance.jobs.harness import Mail, eventually, eventually_gives, workers
from tests.faults.tools.tcp_proxy import TcpProxy


class Program:
    """A worker program with a slow job, whose runs end one by one, and mails."""

    def __init__(self, url: str, prefix: str, *, mails_at_once: int | None = None, **options: Any) -> None:
        memory = {"type": "memory"}
        options |= {"amqp_url": url, "queue_prefix": prefix, "retry_delay_seconds": 0.2}
        self.spec = SpecStar()
        self.spec.configure(
            backend={"meta": memory, "resource": memory, "mq": {"type": "rabbitmq", "options": options}}
        )
        self.may_end = anyio.Semaphore(0)
        self.mails_may_end = anyio.Event()
        self.mails_may_end.set()
        self.mail_seconds = 0.0
        self.slow_runs = self.slow_over = 0
        self.ran: list[int] = []
        kept: dict[str, Any] = {"keep_state": False, "max_retries": 3}
        at_once: dict[str, Any] = {} if mails_at_once is None else {"concurrency": mails_at_once}
        self.slow: JobQueue[Mail] = self.spec.add_job(Mail, self._slow, name="slow", **kept)
        self.mails: JobQueue[Mail] = self.spec.add_job(Mail, self._mail, name="mails", **kept, **at_once)

    async def _slow(self, job: Job[Mail]) -> None:
        self.slow_runs += 1
        try:
            await self.may_end.acquire()
        finally:
            self.slow_over += 1

    async def _mail(self, job: Job[Mail]) -> None:
        self.ran.append(job.payload.number)
        await anyio.sleep(self.mail_seconds)
        await self.mails_may_end.wait()

    def end_slow(self, count: int) -> None:
        for _ in range(count):
            self.may_end.release()


class Pair:
    """Two programs on one broker."""

    def __init__(self, url: str, prefix: str) -> None:
        self._url, self._prefix = url, prefix

    @asynccontextmanager
    async def paused(self, concurrency: int, running: int = 0, **options: Any) -> AsyncIterator[Program]:
        """A program that runs slow jobs and so many mails, has given others away, and is alone by now."""
        async with AsyncExitStack() as stack:
            busy, idle = (Program(self._url, self._prefix, **options) for _ in range(2))
            for program in (busy, idle):
                await stack.enter_async_context(program.spec)
            await stack.enter_async_context(workers(busy.spec, concurrency=concurrency, drain_timeout=0.2))
            if running:
                busy.mails_may_end = anyio.Event()
                await busy.mails.enqueue_many([Mail()] * running)
                await eventually(lambda: len(busy.ran) == running)
            await busy.slow.enqueue_many([Mail()] * (concurrency - running))
            await eventually(lambda: busy.slow_runs == concurrency - running)
            await busy.mails.enqueue(Mail())
            await until_ready(busy.mails, 0)
            async with workers(idle.spec, concurrency=concurrency, drain_timeout=0.2):
                await eventually(lambda: len(idle.ran) == 1)
            busy.ran.clear()
            yield busy


async def enqueue_largest(queue: JobQueue[str], limit: int) -> None:
    """A job that is as large as the queue takes."""
    for size in range(limit, 0, -1):
        with contextlib.suppress(LimitExceededError):
            await queue.enqueue("x" * size)
            return


async def until_ready(queue: JobQueue[Any], count: int) -> None:
    """Until so many jobs are ready in the broker."""

    async def reached() -> bool:
        return await queue.depth() == count

    await eventually_gives(reached)


@pytest.fixture
def pair(amqp_url: str, queue_prefix: str, monkeypatch: pytest.MonkeyPatch) -> Pair:
    monkeypatch.setattr(waiting, "_PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(waiting, "_LOOK_SECONDS", 0.05)
    return Pair(amqp_url, queue_prefix)


@pytest.fixture
def prefetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What was asked of the broker for the mails, one after the other."""
    asked: list[int] = []
    consume = Subscription._consume

    async def noted(self: Subscription, prefetch: int) -> None:
        if "mails" in self.queue.name:
            asked.append(prefetch)
        await consume(self, prefetch)

    monkeypatch.setattr(Subscription, "_consume", noted)
    return asked


async def test_it_has_its_turn_though_others_wait_for_every_slot(pair: Pair) -> None:
    async with pair.paused(1) as program:
        await program.mails.enqueue_many([Mail(number=number) for number in range(3)])
        await program.slow.enqueue_many([Mail()] * 40)
        await eventually(lambda: program.slow_runs == 1)

        def worked_off() -> bool:
            if program.may_end.statistics().tasks_waiting:
                program.may_end.release()
            return program.ran == [0, 1, 2]

        await eventually(worked_off)
        assert program.slow_runs < 40


async def test_it_has_all_slots_again_under_load(pair: Pair, prefetched: list[int]) -> None:
    async with pair.paused(10) as program:
        program.mail_seconds = 0.01
        await program.mails.enqueue_many([Mail()] * 3000)
        program.end_slow(4)
        await eventually(lambda: program.ran)
        program.end_slow(6)
        await eventually(lambda: prefetched[-1] == 10)
        asked = len(prefetched)
        assert await program.mails.depth()
        await eventually(lambda: len(program.ran) == 3000, within=40)
        assert len(prefetched) == asked


async def test_it_does_not_ask_the_broker_again_and_again(pair: Pair, prefetched: list[int]) -> None:
    async with pair.paused(10) as program:
        program.end_slow(5)
        await eventually(lambda: prefetched[-1])
        asked = len(prefetched)
        await anyio.sleep(1.0)
        assert len(prefetched) <= asked + 1


async def test_it_takes_no_more_than_it_has_slots_for(pair: Pair) -> None:
    async with pair.paused(6, running=2, mails_at_once=4) as program:
        program.mails_may_end, before = anyio.Event(), program.mails_may_end
        program.end_slow(4)
        await program.mails.enqueue_many([Mail()] * 5)
        await eventually(lambda: len(program.ran) == 2)
        await until_ready(program.mails, 3)
        await anyio.sleep(0.6)
        assert await program.mails.depth() == 3
        before.set()
        program.mails_may_end.set()
        await eventually(lambda: len(program.ran) == 5)


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    """Threads are stuck until it is set."""
    event = threading.Event()
    yield event
    event.set()


async def test_stuck_threads_do_not_keep_an_async_job_from_its_turn(
    amqp_url: str, queue_prefix: str, stuck: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(waiting, "_LOOK_SECONDS", 0.05)
    programs = [Program(amqp_url, queue_prefix) for _ in range(2)]
    runs: list[int] = []

    def sticks(job: Job[Mail]) -> None:
        runs.append(1)
        stuck.wait(60)

    busy, idle = programs
    sticky: JobQueue[Mail] = busy.spec.add_job(
        Mail, sticks, name="sticky", timeout=2.0, max_retries=0, keep_state=False
    )
    async with busy.spec, idle.spec, workers(busy.spec, concurrency=1, drain_timeout=0.2):
        await sticky.enqueue(Mail())
        await eventually(lambda: runs)
        await busy.mails.enqueue(Mail())
        await until_ready(busy.mails, 0)
        async with workers(idle.spec, drain_timeout=0.2):
            await eventually(lambda: idle.ran)
        await busy.mails.enqueue(Mail())
        await eventually(lambda: busy.ran)


async def test_what_the_broker_has_again_does_not_begin(amqp_url: str, queue_prefix: str) -> None:
    """The connection broke while it waited for its turn."""
    async with TcpProxy.before(amqp_url) as proxy:
        far, near = Program(proxy.url_of(amqp_url), queue_prefix), Program(amqp_url, queue_prefix)
        async with far.spec, near.spec, workers(far.spec, concurrency=1, drain_timeout=0.2):
            await far.slow.enqueue(Mail())
            await eventually(lambda: far.slow_runs == 1)
            await far.mails.enqueue(Mail())
            await until_ready(far.mails, 0)
            await proxy.shut()
            await proxy.cut()
            async with workers(near.spec, drain_timeout=0.2):
                await eventually(lambda: near.ran == [0])
                # That one ended with the connection, a second ago.
                assert far.slow_over == 1
                assert far.ran == []


async def test_one_of_the_largest_size_that_a_draining_worker_has_not_begun_is_not_attempted(
    amqp_url: str, queue_prefix: str
) -> None:
    memory, limit = {"type": "memory"}, 4000
    options = {"amqp_url": amqp_url, "queue_prefix": queue_prefix, "max_message_bytes": limit}
    spec = SpecStar()
    spec.configure(backend={"meta": memory, "resource": memory, "mq": {"type": "rabbitmq", "options": options}})
    begun: list[str] = []
    may_end = anyio.Event()

    @spec.job(keep_state=False)
    async def slow(job: Job[Mail]) -> None:
        begun.append("slow")
        await may_end.wait()

    @spec.job(keep_state=False, max_retries=0)
    async def letters(job: Job[str]) -> None:
        begun.append("letter")

    async with spec:
        async with workers(spec, concurrency=1, drain_timeout=0.2):
            await slow.enqueue(Mail())
            await eventually(lambda: begun == ["slow"])
            await enqueue_largest(letters, limit)
            await until_ready(letters, 0)
        may_end.set()
        async with workers(spec, concurrency=1):
            await eventually(lambda: begun.count("letter") == 1)
        assert await letters.list_dead() == []
