"""Workers: their bounds, the loop of handlers, periodic jobs, and what they need."""

from __future__ import annotations

import contextlib
import contextvars
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from specstar import Job, JobStatus, SpecStar
from specstar.errors import NotConfiguredError, UsageError
from specstar.message_queue import WorkerStop
from tests.conformance.jobs.harness import Mail, eventually, workers

seen: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="nothing")


async def test_no_more_than_concurrency_jobs_run_at_once(spec: SpecStar) -> None:
    running: dict[str, int] = {"one": 0, "two": 0}
    most: dict[str, int] = {"one": 0, "two": 0, "all": 0}

    async def handle(job: Job[Mail]) -> None:
        running[job.queue] += 1
        most[job.queue] = max(most[job.queue], running[job.queue])
        most["all"] = max(most["all"], sum(running.values()))
        await anyio.sleep(0.02)
        running[job.queue] -= 1

    one = spec.add_job(Mail, handle, name="one")
    two = spec.add_job(Mail, handle, name="two", concurrency=2)
    jobs = [*await one.enqueue_many([Mail()] * 20), *await two.enqueue_many([Mail()] * 20)]
    async with workers(spec, concurrency=5):
        for job in jobs:
            await (one if job.queue == "one" else two).wait(job.job_id, timeout=30)
    assert most["two"] <= 2
    assert 3 <= most["all"] <= 5


async def test_async_handlers_run_on_the_callers_loop(spec: SpecStar, anyio_backend: Any) -> None:
    libraries: set[str] = set()

    @spec.job
    async def note(job: Job[Mail]) -> None:
        libraries.add("trio" if _in_trio() else "asyncio")
        await anyio.sleep(0)

    async with workers(spec):
        sent = await note.enqueue(Mail())
        await note.wait(sent.job_id, timeout=20)
    assert libraries == {anyio_backend[0]}


def _in_trio() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_run()


async def test_what_a_handler_sets_in_its_context_the_next_does_not_see(spec: SpecStar) -> None:
    found: list[str] = []

    @spec.job
    async def note(job: Job[Mail]) -> None:
        found.append(seen.get())
        token = seen.set(f"job {job.payload.number}")
        await anyio.sleep(0.001)
        found.append(seen.get())
        if job.payload.number == 2:
            seen.reset(token)

    async with workers(spec, concurrency=1):
        for number in range(3):
            sent = await note.enqueue(Mail(number=number))
            await note.wait(sent.job_id, timeout=20)
    assert found == ["nothing", "job 0", "nothing", "job 1", "nothing", "job 2"]


async def test_a_periodic_job_runs_once_a_tick_however_many_workers(spec: SpecStar) -> None:
    moments: list[float] = []

    @spec.job(every=0.5)
    async def tick(job: Job[Mail]) -> None:
        assert job.payload == Mail()
        moments.append(time.time())

    async with workers(spec), workers(spec):
        await eventually(lambda: len(moments) >= 4)
    ticks = [int(moment // 0.5) for moment in moments]
    assert len(ticks) == len(set(ticks)), ticks
    assert ticks == sorted(ticks)


async def test_a_periodic_job_without_state_runs_once_a_tick_and_process(spec: SpecStar) -> None:
    moments: list[float] = []

    @spec.job(every=0.5, keep_state=False)
    async def tick(job: Job[Mail]) -> None:
        moments.append(time.time())

    async with workers(spec), workers(spec):
        await eventually(lambda: len(moments) >= 3)
    ticks = [int(moment // 0.5) for moment in moments]
    assert len(ticks) == len(set(ticks)), ticks


async def test_a_job_with_a_cron_expression_runs_once_a_tick_however_many_workers(spec: SpecStar) -> None:
    found: list[tuple[float, str | None]] = []

    @spec.job(cron="* * * * * *", timezone="Europe/Berlin", every_payload=Mail(number=7))
    async def tick(job: Job[Mail]) -> None:
        assert job.payload == Mail(number=7)
        found.append((time.time(), job.idempotency_key))

    async with workers(spec), workers(spec):
        await eventually(lambda: len(found) >= 3)
    ticks = [int(str(key).removeprefix("cron * * * * * * Europe/Berlin: ")) for _, key in found]
    assert len(ticks) == len(set(ticks)), ticks
    # None before it is due.
    assert all(tick <= moment for tick, (moment, _) in zip(ticks, found, strict=True))


@pytest.mark.parametrize("schedule", [{"every": 1}, {"cron": "* * * * * *"}])
async def test_a_tick_runs_once_where_two_programs_share_the_state(
    configuration: dict[str, Any], tmp_path: Path, anyio_backend: Any, schedule: dict[str, Any]
) -> None:
    state = {"type": "disk", "options": {"rootdir": str(tmp_path / "shared")}}
    ticks: list[int] = []

    async def tick(job: Job[Mail]) -> None:
        ticks.append(int(str(job.idempotency_key).rpartition(": ")[2]))

    programs = [SpecStar(), SpecStar()]
    async with contextlib.AsyncExitStack() as stack:
        for program in programs:
            program.configure(backend={**configuration, "meta": state, "resource": state})
            await stack.enter_async_context(program)
            program.add_job(Mail, tick, **schedule)
            await stack.enter_async_context(workers(program))
        await eventually(lambda: len(ticks) >= 4)
    assert len(ticks) == len(set(ticks)), ticks


async def test_workers_need_jobs_and_a_queue(spec: SpecStar) -> None:
    with pytest.raises(UsageError, match="no jobs"):
        await spec.run_workers()
    mine = spec.add_job(Mail, _nothing, name="mine")
    with pytest.raises(UsageError, match="concurrency is 1 or more, not 0"):
        await spec.run_workers(concurrency=0)
    bare = SpecStar()
    bare.configure(backend={"meta": {"type": "memory"}, "resource": {"type": "memory"}})
    queue = bare.add_job(Mail, _nothing, name="nothing")
    async with bare:
        with pytest.raises(NotConfiguredError, match="mq"):
            await queue.enqueue(Mail())
        with pytest.raises(NotConfiguredError, match="mq"):
            await bare.run_workers()
        with pytest.raises(UsageError, match="belong to one spec"):
            await spec.run_workers(queues=[mine, queue])


async def _nothing(job: Job[Mail]) -> None: ...


async def test_workers_forget_what_finished_long_ago(spec: SpecStar) -> None:
    gate = anyio.Event()

    @spec.job(forget_after=0.1, max_retries=0)
    async def handler(job: Job[Mail]) -> None:
        if job.payload.number == 1:
            raise RuntimeError("as it was told")
        if job.payload.number == 2:
            await gate.wait()

    @spec.job
    async def other(job: Job[Mail]) -> None: ...

    jobs = await handler.enqueue_many([Mail(number=number) for number in range(3)])
    kept = await other.enqueue(Mail())
    async with workers(spec):
        with anyio.fail_after(20):
            while await handler.count() > 1:  # noqa: ASYNC110  the stores tell
                await anyio.sleep(0.05)
        assert (await handler.get(jobs[2].job_id)).status is JobStatus.running
        gate.set()
        with anyio.fail_after(20):
            while await handler.count():  # noqa: ASYNC110
                await anyio.sleep(0.05)
        assert (await other.wait(kept.job_id, timeout=20)).status is JobStatus.succeeded
    assert await other.count() == 1


async def test_a_stop_before_the_start_is_kept(spec: SpecStar) -> None:
    @spec.job
    async def handler(job: Job[Mail]) -> None: ...

    stop = WorkerStop()
    stop.set()
    with anyio.fail_after(20):
        await spec.run_workers(stop=stop, handle_signals=False)
