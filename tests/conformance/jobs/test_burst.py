"""Workers in a burst: they return once nothing is left to do, and not before."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import anyio

from specstar import Job, JobStatus, SpecStar
from tests.conformance.jobs.harness import Mail, eventually_gives

SOON = 30.0


async def burst(spec: SpecStar, **options: Any) -> None:
    with anyio.fail_after(SOON):
        await spec.run_workers(burst=True, handle_signals=False, **options)


async def test_a_burst_runs_all_that_is_ready_and_what_comes_of_it(spec: SpecStar) -> None:
    failed: set[int] = set()
    noted: list[int] = []

    @spec.job
    async def note(job: Job[Mail]) -> None:
        noted.append(job.payload.number)

    @spec.job(max_retries=1)
    async def work(job: Job[Mail]) -> None:
        number = job.payload.number
        if number % 5 == 0 and number not in failed:
            failed.add(number)
            raise RuntimeError("not yet")
        if number % 10 == 0:
            await note.enqueue(Mail(number=number))

    await work.enqueue_many([Mail(number=number) for number in range(60)])
    late = await work.enqueue(Mail(), delay=300)
    await burst(spec, concurrency=4)
    assert await work.count(status=JobStatus.succeeded) == 60
    assert sorted(noted) == [0, 10, 20, 30, 40, 50]
    assert await note.count(status=JobStatus.succeeded) == 6
    assert await work.depth() == await note.depth() == 0
    # What waits is left to the next.
    assert (await work.get(late.job_id)).status is JobStatus.pending
    await work.enqueue(Mail(number=1))
    await burst(spec)
    assert await work.count(status=JobStatus.succeeded) == 61


async def test_a_burst_ends_what_runs_in_threads_before_it_returns(spec: SpecStar) -> None:
    @spec.job
    def slow(job: Job[Mail]) -> None:
        time.sleep(0.7)

    @spec.job
    async def quick(job: Job[Mail]) -> None: ...

    await slow.enqueue_many([Mail()] * 3)
    await quick.enqueue(Mail())
    await burst(spec, concurrency=2)
    assert await slow.count(status=JobStatus.succeeded) == 3
    assert await quick.count(status=JobStatus.succeeded) == 1


async def test_a_burst_sees_to_every_partition(spec: SpecStar) -> None:
    order: dict[str | None, list[int]] = {}

    @spec.job
    async def step(job: Job[Mail]) -> None:
        order.setdefault(job.partition_key, []).append(job.payload.number)

    for number in range(3):
        for key in ("one", "two", "three", None):
            await step.enqueue(Mail(number=number), partition_key=key)
    await burst(spec, concurrency=3)
    assert {key: numbers for key, numbers in order.items() if key} == {
        key: [0, 1, 2] for key in ("one", "two", "three")
    }
    assert sorted(order[None]) == [0, 1, 2]


async def test_a_burst_without_work_returns_and_sends_no_periodic_jobs(spec: SpecStar) -> None:
    @spec.job(every=0.1)
    async def tick(job: Job[Mail]) -> None: ...

    await burst(spec)
    assert await tick.count() == 0


async def test_a_job_that_dies_ends_a_burst_as_one_that_succeeds(spec: SpecStar) -> None:
    @spec.job(max_retries=2)
    async def bad(job: Job[Mail]) -> None:
        raise RuntimeError("never")

    sent = await bad.enqueue(Mail())
    await burst(spec)
    found = await bad.get(sent.job_id)
    assert (found.status, found.attempts) == (JobStatus.failed, 3)
    assert [dead.job_id for dead in await bad.list_dead()] == [sent.job_id]


async def test_a_burst_picks_up_what_an_earlier_process_left(
    configuration: dict[str, Any], tmp_path: Path, anyio_backend: Any
) -> None:
    state = {"type": "disk", "options": {"rootdir": str(tmp_path / "shared")}}
    ran: list[int] = []

    async def handle(job: Job[Mail]) -> None:
        ran.append(job.payload.number)

    for worked in (False, True):
        spec = SpecStar()
        spec.configure(backend={**configuration, "meta": state, "resource": state})
        async with spec:
            queue = spec.add_job(Mail, handle, name="mails")
            if not worked:
                await queue.enqueue_many([Mail(number=number) for number in range(20)])
                continue
            await burst(spec)
            assert await queue.count(status=JobStatus.succeeded) == 20
    assert sorted(ran) == list(range(20))


async def test_a_burst_leaves_what_others_have_to_them(spec: SpecStar) -> None:
    began, may_end = anyio.Event(), anyio.Event()

    @spec.job
    async def held(job: Job[Mail]) -> None:
        began.set()
        await may_end.wait()

    @spec.job
    async def other(job: Job[Mail]) -> None: ...

    sent = await held.enqueue(Mail())
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: burst(spec, queues=[held]))
        with anyio.fail_after(SOON):
            await began.wait()
        await other.enqueue(Mail())
        await burst(spec, queues=[other])
        assert await other.count(status=JobStatus.succeeded) == 1
        assert (await held.get(sent.job_id)).status is JobStatus.running
        may_end.set()
    assert (await held.get(sent.job_id)).status is JobStatus.succeeded


async def test_a_burst_can_be_stopped_and_cancelled_before_its_end(spec: SpecStar) -> None:
    began = anyio.Event()

    @spec.job
    async def endless(job: Job[Mail]) -> None:
        began.set()
        await anyio.sleep_forever()

    sent = await endless.enqueue(Mail())
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: spec.run_workers(burst=True, handle_signals=False, drain_timeout=0.1))
        with anyio.fail_after(SOON):
            await began.wait()
        group.cancel_scope.cancel()

    async def is_back() -> bool:
        return (await endless.get(sent.job_id)).status is not JobStatus.running

    await eventually_gives(is_back)
    assert (await endless.get(sent.job_id)).attempts == 0
