"""How workers end: running jobs finish or go back, and start again elsewhere."""

from __future__ import annotations

import os
import signal
import time

import anyio
import pytest

from specstar import Job, JobStatus, SpecStar
from specstar.message_queue import worker as worker_module
from tests.conformance.jobs.harness import Mail, workers


async def test_a_drain_lets_running_jobs_end_and_starts_no_more(spec: SpecStar) -> None:
    began, go_on = anyio.Event(), anyio.Event()
    ended: list[int] = []

    @spec.job
    async def slow(job: Job[Mail]) -> None:
        began.set()
        await go_on.wait()
        ended.append(job.payload.number)

    jobs = await slow.enqueue_many([Mail(number=1), Mail(number=2)])
    async with workers(spec, concurrency=1) as stop:
        with anyio.fail_after(20):
            await began.wait()
        stop.set()
        await anyio.sleep(0.1)
        go_on.set()
    assert ended == [1]
    assert (await slow.get(jobs[0].job_id)).status is JobStatus.succeeded
    assert (await slow.get(jobs[1].job_id)).status is JobStatus.pending
    async with workers(spec):
        done = await slow.wait(jobs[1].job_id, timeout=20)
    assert done.attempts == 1


async def test_a_cancelled_run_workers_drains(spec: SpecStar) -> None:
    began = anyio.Event()

    @spec.job
    async def slow(job: Job[Mail]) -> str:
        began.set()
        await anyio.sleep(0.3)
        return "whole"

    sent = await slow.enqueue(Mail())
    async with anyio.create_task_group() as group:
        group.start_soon(spec.run_workers)
        with anyio.fail_after(20):
            await began.wait()
        group.cancel_scope.cancel()
    assert (await slow.get(sent.job_id)).result == "whole"


@pytest.mark.parametrize("hurried", [False, True])
async def test_a_job_that_outlasts_the_drain_goes_back_and_the_attempt_does_not_count(
    spec: SpecStar, hurried: bool
) -> None:
    began = anyio.Event()
    runs: list[int] = []

    @spec.job(max_retries=0)
    async def slow(job: Job[Mail]) -> None:
        runs.append(job.attempts)
        began.set()
        if len(runs) == 1:
            await anyio.sleep(60)

    sent = await slow.enqueue(Mail())
    started = time.monotonic()
    async with workers(spec, drain_timeout=30 if hurried else 0.2) as stop:
        with anyio.fail_after(20):
            await began.wait()
        stop.set()
        if hurried:
            stop.set()
    assert time.monotonic() - started < 15
    assert (await slow.get(sent.job_id)).status is JobStatus.retrying
    async with workers(spec):
        done = await slow.wait(sent.job_id, timeout=20)
    assert (done.status, done.attempts, runs) == (JobStatus.succeeded, 1, [1, 1])


async def test_a_job_goes_back_after_a_handler_that_takes_its_time_to_clean_up(
    spec: SpecStar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_INTERRUPT_SECONDS", 1.0)
    began, cleaned = anyio.Event(), anyio.Event()
    runs: list[int] = []

    @spec.job(max_retries=0)
    async def slow(job: Job[Mail]) -> None:
        runs.append(job.attempts)
        if len(runs) > 1:
            return
        try:
            began.set()
            await anyio.sleep(60)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1.3)
                cleaned.set()

    sent = await slow.enqueue(Mail())
    async with workers(spec, drain_timeout=0):
        with anyio.fail_after(20):
            await began.wait()
    assert cleaned.is_set()
    assert (await slow.get(sent.job_id)).status is JobStatus.retrying
    async with workers(spec):
        done = await slow.wait(sent.job_id, timeout=20)
    assert (done.status, runs) == (JobStatus.succeeded, [1, 1])


async def test_a_job_that_outlasts_the_drain_keeps_its_place_in_its_partition(spec: SpecStar) -> None:
    began = anyio.Event()
    runs: list[tuple[int, int]] = []

    @spec.job(max_retries=0)
    async def turn(job: Job[Mail]) -> None:
        runs.append((job.payload.number, job.attempts))
        if not began.is_set():
            began.set()
            await anyio.sleep(60)

    jobs = [await turn.enqueue(Mail(number=number), partition_key="k") for number in range(3)]
    async with workers(spec, drain_timeout=0):
        with anyio.fail_after(20):
            await began.wait()
    assert [(await turn.get(job.job_id)).status for job in jobs] == [
        JobStatus.retrying,
        JobStatus.pending,
        JobStatus.pending,
    ]
    async with workers(spec):
        for job in jobs:
            await turn.wait(job.job_id, timeout=20)
    assert runs == [(0, 1), (0, 1), (1, 1), (2, 1)]


async def test_sigterm_drains_and_the_handlers_before_are_put_back(spec: SpecStar) -> None:
    before = signal.getsignal(signal.SIGTERM)
    began = anyio.Event()

    @spec.job
    async def slow(job: Job[Mail]) -> str:
        began.set()
        await anyio.sleep(0.2)
        return "whole"

    sent = await slow.enqueue(Mail())

    async def terminate() -> None:
        await began.wait()
        os.kill(os.getpid(), signal.SIGTERM)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(terminate)
            await spec.run_workers()
    assert signal.getsignal(signal.SIGTERM) is before
    assert (await slow.get(sent.job_id)).result == "whole"
