"""What waits in a busy worker goes to one that is idle, and counts as not attempted."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from specstar import Job, SpecStar
from specstar.message_queue import JobQueue, waiting
from tests.conformance.jobs.harness import Mail, eventually, eventually_gives, workers

MAILS = 5


class Program:
    """A worker program with a slow job and a quick one."""

    def __init__(self, url: str, prefix: str, folder: Path, *, keep_state: bool, **options: Any) -> None:
        disk = {"type": "disk", "options": {"rootdir": str(folder)}}
        options |= {"amqp_url": url, "queue_prefix": prefix, "retry_delay_seconds": 0.2}
        self.spec = SpecStar()
        self.spec.configure(backend={"meta": disk, "resource": disk, "mq": {"type": "rabbitmq", "options": options}})
        self.may_end = anyio.Event()
        self.slow_runs = 0
        self.attempts: list[int] = []
        kept: dict[str, Any] = {"keep_state": keep_state, "max_retries": 3}
        self.slow: JobQueue[Mail] = self.spec.add_job(Mail, self._slow, name="slow", **kept)
        self.mails: JobQueue[Mail] = self.spec.add_job(Mail, self._mail, name="mails", **kept)

    async def _slow(self, job: Job[Mail]) -> None:
        self.slow_runs += 1
        await self.may_end.wait()

    async def _mail(self, job: Job[Mail]) -> None:
        self.attempts.append(job.attempts)


class Programs:
    """Two of them on one broker and one folder."""

    def __init__(self, url: str, prefix: str, folder: Path, **options: Any) -> None:
        self.busy, self.idle = (Program(url, prefix, folder, **options) for _ in range(2))

    @property
    def attempts(self) -> list[int]:
        return [*self.busy.attempts, *self.idle.attempts]

    async def until_mails_wait(self, stack: AsyncExitStack, concurrency: int = 1) -> None:
        """The busy one runs slow jobs in all its slots, and holds the mails."""
        for program in (self.busy, self.idle):
            await stack.enter_async_context(program.spec)
        await stack.enter_async_context(workers(self.busy.spec, concurrency=concurrency, drain_timeout=0.2))
        await self.busy.slow.enqueue_many([Mail()] * concurrency)
        await eventually(lambda: self.busy.slow_runs == concurrency)
        await self.busy.mails.enqueue_many([Mail(number=number) for number in range(concurrency)])
        await self.until_ready(0)

    async def until_ready(self, count: int) -> None:
        """Until so many mails are ready in the broker."""

        async def reached() -> bool:
            return await self.busy.mails.depth() == count

        await eventually_gives(reached)


@pytest.fixture(params=["classic", "quorum"])
def queue_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[True, False], ids=["state", "no state"])
def programs(
    request: pytest.FixtureRequest,
    amqp_url: str,
    queue_prefix: str,
    queue_type: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Programs:
    monkeypatch.setattr(waiting, "_PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(waiting, "_LOOK_SECONDS", 0.05)
    return Programs(amqp_url, queue_prefix, tmp_path, keep_state=request.param, queue_type=queue_type)


async def test_an_idle_worker_gets_what_waits_in_a_busy_one(programs: Programs) -> None:
    async with AsyncExitStack() as stack:
        await programs.until_mails_wait(stack, concurrency=MAILS)
        async with workers(programs.idle.spec, drain_timeout=0.2):
            await eventually(lambda: len(programs.attempts) == MAILS)
            assert programs.busy.attempts == []
            assert programs.idle.attempts == [1] * MAILS


async def test_what_nobody_else_could_take_stays(programs: Programs) -> None:
    async with AsyncExitStack() as stack:
        await programs.until_mails_wait(stack)
        await anyio.sleep(1.0)
        assert await programs.busy.mails.depth() == 0
        programs.busy.may_end.set()
        await eventually(lambda: programs.attempts == [1])


async def test_a_worker_that_gave_jobs_away_takes_others_once_it_has_room(programs: Programs) -> None:
    async with AsyncExitStack() as stack:
        await programs.until_mails_wait(stack)
        async with workers(programs.idle.spec, drain_timeout=0.2):
            await eventually(lambda: programs.idle.attempts == [1])
        programs.busy.may_end.set()
        await programs.busy.mails.enqueue_many([Mail()] * 20)
        await eventually(lambda: len(programs.busy.attempts) == 20)
        assert programs.attempts == [1] * 21


async def test_what_waits_when_its_worker_drains_counts_as_not_attempted(programs: Programs) -> None:
    async with AsyncExitStack() as stack:
        await programs.until_mails_wait(stack, concurrency=MAILS)
    async with programs.idle.spec, workers(programs.idle.spec, drain_timeout=0.2):
        await eventually(lambda: len(programs.attempts) == MAILS)
        assert programs.attempts == [1] * MAILS


async def test_what_a_draining_worker_does_not_begin_counts_as_not_attempted(amqp_url: str, queue_prefix: str) -> None:
    """Whatever is on its way to it when it is told to stop."""
    memory = {"type": "memory"}
    options = {"amqp_url": amqp_url, "queue_prefix": queue_prefix}
    spec = SpecStar()
    spec.configure(backend={"meta": memory, "resource": memory, "mq": {"type": "rabbitmq", "options": options}})
    ran: list[int] = []

    @spec.job(keep_state=False, max_retries=0)
    async def mails(job: Job[Mail]) -> None:
        ran.append(job.payload.number)
        await anyio.sleep(0)

    async with spec:
        await mails.enqueue_many([Mail(number=number) for number in range(1500)])
        for round_ in range(1, 6):
            async with workers(spec, concurrency=20):
                await eventually(lambda: len(ran) >= round_ * 150)  # noqa: B023
        async with workers(spec, concurrency=20):
            await eventually(lambda: len(ran) == 1500)
        assert sorted(ran) == list(range(1500))
        assert await mails.list_dead() == []


async def test_what_waits_too_long_for_the_broker_goes_back_to_it(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nobody else is there: a consumer timeout would count it as attempted."""
    monkeypatch.setattr(waiting, "_PART_OF_HOLD", 1e-6)
    async with AsyncExitStack() as stack:
        await programs.until_mails_wait(stack)
        await programs.until_ready(1)
        programs.busy.may_end.set()
        await eventually(lambda: programs.busy.attempts == [1])


async def test_busy_workers_do_not_pass_jobs_to_and_fro(
    programs: Programs, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    hand_over = waiting.Waiting._hand_over

    async def counted(self: waiting.Waiting, delivery: Any) -> bool:
        given.append(delivery.message.id)
        return await hand_over(self, delivery)

    monkeypatch.setattr(waiting.Waiting, "_hand_over", counted)
    async with AsyncExitStack() as stack:
        await programs.until_mails_wait(stack)
        async with workers(programs.idle.spec, concurrency=1, drain_timeout=0.2):
            await programs.idle.slow.enqueue(Mail())
            await eventually(lambda: programs.idle.slow_runs == 1)
            await anyio.sleep(2.0)
            assert len(given) <= 2
            programs.idle.may_end.set()
            await eventually(lambda: len(programs.attempts) == 1)
            assert programs.attempts == [1]
