"""Handlers that cancel their own task, or raise what is no Exception: their attempt fails, and the worker goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from specstar import DelayRetry, Job, JobStatus, NoRetry, SpecStar
from specstar.errors import IdempotencyConflictError, InvalidInputError
from tests.conformance.jobs.harness import Mail, eventually, workers

ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"], ids=["asyncio"])


class Abort(BaseException):
    pass


async def finished(spec: SpecStar, queue: Any, numbers: list[int]) -> list[JobStatus]:
    """How jobs of these numbers end, one after the other, and one more afterwards."""
    ends = []
    async with workers(spec, concurrency=1):
        for number in numbers:
            job = await queue.enqueue(Mail(number=number))
            ends.append((await queue.wait(job.job_id, timeout=5)).status)
    return ends


@pytest.mark.parametrize(
    "error",
    [Abort(), BaseExceptionGroup("g", [ValueError(), Abort()]), SystemExit(3)],
    ids=["BaseException", "group", "SystemExit"],
)
@pytest.mark.parametrize("in_thread", [False, True])
async def test_whatever_a_handler_raises_fails_its_attempt_alone(
    spec: SpecStar, error: BaseException, in_thread: bool
) -> None:
    async def raising(job: Job[Mail]) -> None:
        if job.payload.number:
            raise error

    def raising_in_thread(job: Job[Mail]) -> None:
        if job.payload.number:
            raise error

    handler: Any = raising_in_thread if in_thread else raising
    queue = spec.add_job(Mail, handler, max_retries=0)
    ends = await finished(spec, queue, [1, 0, 1, 0])
    assert ends == [JobStatus.failed, JobStatus.succeeded] * 2


@ON_ASYNCIO
async def test_a_handler_that_cancels_its_own_task_fails_alone(spec: SpecStar, anyio_backend: str) -> None:
    async def handler(job: Job[Mail]) -> None:
        task = asyncio.current_task()
        assert task is not None
        if job.payload.number == 1:
            task.cancel()
            await asyncio.sleep(1)
        elif job.payload.number == 2:
            task.cancel()
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                return
        elif job.payload.number == 3:
            other = asyncio.ensure_future(asyncio.sleep(10))
            other.cancel()
            await other

    queue = spec.add_job(Mail, handler, max_retries=0)
    ends = await finished(spec, queue, [1, 0, 2, 3, 0])
    failed, succeeded = JobStatus.failed, JobStatus.succeeded
    assert ends == [failed, succeeded, succeeded, failed, succeeded]


@ON_ASYNCIO
async def test_tasks_that_are_all_cancelled_at_the_end_of_a_loop_end(anyio_backend: str) -> None:
    def run() -> list[int]:
        runs: list[int] = []
        spec = SpecStar()
        spec.configure(backend={"mq": {"type": "simple"}})

        async def handler(job: Job[Mail]) -> None:
            runs.append(job.payload.number)
            await asyncio.sleep(60)

        queue = spec.add_job(Mail, handler)

        async def main() -> None:
            worker = asyncio.create_task(spec.run_workers(handle_signals=False, drain_timeout=0.1))
            await queue.enqueue_many([Mail(number=number) for number in range(3)])
            while len(runs) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert not worker.done()

        asyncio.run(main())
        return runs

    with anyio.fail_after(20):
        assert sorted(await anyio.to_thread.run_sync(run)) == [0, 1, 2]


async def test_a_cancelled_handler_that_answers_with_an_error_is_cancelled(spec: SpecStar) -> None:
    began = anyio.Event()

    async def handler(job: Job[Mail]) -> None:
        began.set()
        try:
            await anyio.sleep(30)
        except BaseException:
            raise RuntimeError("in the way out") from None

    queue = spec.add_job(Mail, handler)
    async with workers(spec):
        job = await queue.enqueue(Mail())
        await began.wait()
        assert await queue.cancel(job.job_id)
        assert (await queue.wait(job.job_id, timeout=5)).status is JobStatus.cancelled


async def test_a_timeout_whose_children_fail_on_the_way_out_is_a_failure(spec: SpecStar) -> None:
    async def handler(job: Job[Mail]) -> None:
        async def child() -> None:
            try:
                await anyio.sleep(10)
            finally:
                raise ValueError("cleanup")

        async with anyio.create_task_group() as group:
            group.start_soon(child)
            await anyio.sleep(10)

    queue = spec.add_job(Mail, handler, timeout=0.1, max_retries=0)
    ends = await finished(spec, queue, [1])
    assert ends == [JobStatus.failed]


async def test_dead_letters_go_back_once_although_they_die_again(spec: SpecStar) -> None:
    runs = 0

    async def handler(job: Job[Mail]) -> None:
        nonlocal runs
        runs += 1
        raise NoRetry("broken")

    queue = spec.add_job(Mail, handler)
    async with workers(spec):
        await queue.enqueue_many([Mail(number=number) for number in range(700)])
        await eventually(lambda: runs == 700, within=30)
        assert await queue.requeue_dead() == 700
        await eventually(lambda: runs == 1400, within=30)
        await anyio.sleep(0.1)
    assert runs == 1400


async def test_requeueing_touches_only_jobs_that_are_dead_here(spec: SpecStar) -> None:
    async def handler(job: Job[Mail]) -> None:
        raise NoRetry("broken")

    one = spec.add_job(Mail, handler, name="one")
    two = spec.add_job(Mail, handler, name="two")
    async with workers(spec):
        other = await two.enqueue(Mail())
        purged = await one.enqueue(Mail())
        for queue, job in ((two, other), (one, purged)):
            await queue.wait(job.job_id, timeout=5)
    assert await one.purge_dead([purged.job_id]) == 1
    assert await one.requeue_dead([other.job_id, purged.job_id, "unknown"]) == 0
    assert (await two.get(other.job_id)).status is JobStatus.failed
    assert (await one.get(purged.job_id)).status is JobStatus.failed


async def test_a_drain_begins_no_more_jobs_of_any_queue(spec: SpecStar) -> None:
    began: list[str] = []
    go_on = anyio.Event()

    async def handler(job: Job[Mail]) -> None:
        began.append(job.queue)
        await go_on.wait()

    queues = [spec.add_job(Mail, handler, name=f"q{number}") for number in range(4)]
    async with workers(spec, concurrency=2) as stop:
        for queue in queues:
            await queue.enqueue_many([Mail(number=number) for number in range(5)])
        await eventually(lambda: len(began) == 2)
        stop.set()
        await anyio.sleep(0.1)
        go_on.set()
    assert len(began) == 2
    assert sum([await queue.depth() for queue in queues]) == 18


def test_the_seconds_of_a_delay_retry_are_a_delay() -> None:
    for wrong in (-1, float("nan"), 1e12):
        with pytest.raises(InvalidInputError, match="seconds"):
            DelayRetry(wrong)


async def test_payloads_of_one_key_that_only_look_equal_are_a_conflict(spec: SpecStar) -> None:
    async def handler(job: Job[dict[str, Any]]) -> None: ...

    queue: Any = spec.add_job(dict[str, Any], handler, name="any")
    await queue.enqueue({"a": 1, "b": 2}, idempotency_key="k")
    await queue.enqueue({"b": 2, "a": 1}, idempotency_key="k")
    for other in ({"a": True, "b": 2}, {"a": 1.0, "b": 2}):
        with pytest.raises(IdempotencyConflictError, match="'k'"):
            await queue.enqueue(other, idempotency_key="k")


async def test_a_cancel_from_elsewhere_holds_although_the_handler_fails(tmp_path: Path) -> None:
    folder = {"type": "disk", "options": {"rootdir": str(tmp_path)}}
    spec = SpecStar()
    spec.configure(backend={"meta": folder, "resource": folder, "mq": {"type": "simple"}})
    runs = 0
    began, go_on = anyio.Event(), anyio.Event()

    async def handler(job: Job[Mail]) -> None:
        nonlocal runs
        runs += 1
        began.set()
        await go_on.wait()
        raise ValueError("not before it was cancelled")

    queue = spec.add_job(Mail, handler, retry_delay=0)
    async with spec, workers(spec):
        job = await queue.enqueue(Mail())
        await began.wait()

        async def ask_from_elsewhere() -> None:
            state = queue._state()
            assert state is not None
            snapshot = await queue._kept.read(job.job_id)
            await state.settle(snapshot, msgspec.structs.replace(snapshot.record, cancel_requested=True))

        await spec._gate.run(ask_from_elsewhere)
        go_on.set()
        assert (await queue.wait(job.job_id, timeout=5)).status is JobStatus.cancelled
        await anyio.sleep(0.2)
    assert runs == 1


async def test_a_job_that_another_worker_took_over_leaves_its_slot(tmp_path: Path) -> None:
    """As after a pause of this host that was longer than its lease."""
    folder = {"type": "disk", "options": {"rootdir": str(tmp_path)}}
    spec = SpecStar()
    spec.configure(backend={"meta": folder, "resource": folder, "mq": {"type": "simple"}})
    began = anyio.Event()

    async def handler(job: Job[Mail]) -> None:
        if job.payload.number == 1:
            began.set()
            await anyio.sleep(60)

    queue = spec.add_job(Mail, handler)
    async with spec, workers(spec, concurrency=1):
        job = await queue.enqueue(Mail(number=1))
        await began.wait()

        async def take_over() -> None:
            state = queue._state()
            assert state is not None
            snapshot = await queue._kept.read(job.job_id)
            await state.mark(snapshot, msgspec.structs.replace(snapshot.record, worker="elsewhere:1:1/1.1"))

        await spec._gate.run(take_over)
        other = await queue.enqueue(Mail(number=2))
        assert (await queue.wait(other.job_id, timeout=10)).status is JobStatus.succeeded
        taken = await queue._kept.read(job.job_id)
        assert (taken.record.status, taken.record.worker) == (JobStatus.running, "elsewhere:1:1/1.1")
        assert await queue.depth() == 0


async def test_a_handler_that_raises_a_cancellation_on_another_loop_fails_alone() -> None:
    """The workers' caller is not the home."""
    spec = SpecStar()
    spec.configure(backend={"meta": {"type": "memory"}, "resource": {"type": "memory"}, "mq": {"type": "simple"}})

    async def handler(job: Job[Mail]) -> int:
        if job.payload.number == 1:
            raise asyncio.CancelledError
        return job.payload.number

    queue = spec.add_job(Mail, handler, max_retries=0)

    def run() -> list[str | None]:
        async def main() -> list[str | None]:
            jobs = await queue.enqueue_many([Mail(number=1), Mail(number=2)])
            async with workers(spec):
                done = [await queue.wait(job.job_id, timeout=10) for job in jobs]
            return [job.error for job in done]

        return asyncio.run(main())

    async with spec:
        await spec.check()
        assert await anyio.to_thread.run_sync(run) == ["CancelledError", None]
