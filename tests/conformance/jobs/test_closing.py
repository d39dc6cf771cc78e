"""Workers, handlers and waiting callers when their spec is closed."""

from __future__ import annotations

import functools
from typing import Any

import anyio
import pytest

from specstar import Job, JobStatus, SpecStar
from specstar.errors import BackendUnavailable
from specstar.message_queue.job import JobRecord
from specstar.message_queue.state import Snapshot
from specstar.message_queue.stored_state import StoredJobState
from tests.conformance.jobs.harness import Mail, workers


async def test_workers_end_when_their_spec_is_closed(spec: SpecStar) -> None:
    @spec.job
    async def handler(job: Job[Mail]) -> None: ...

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:

            async def run() -> None:
                await spec.run_workers(handle_signals=False)
                group.cancel_scope.cancel()

            group.start_soon(run)
            sent = await handler.enqueue(Mail())
            await handler.wait(sent.job_id, timeout=20)
            await spec.aclose()
            await anyio.sleep(30)
            pytest.fail("the workers go on without connections")


async def test_a_handler_may_close_its_own_spec(spec: SpecStar, configuration: dict[str, Any]) -> None:
    """All that runs goes back, as in any other drain."""
    began = anyio.Event()
    runs: list[int] = []

    @spec.job(max_retries=0)
    async def handler(job: Job[Mail]) -> None:
        runs.append(job.payload.number)
        if len(runs) > 2:
            return
        if job.payload.number:
            began.set()
            await anyio.sleep(60)
        await began.wait()
        await spec.aclose()

    jobs = await handler.enqueue_many([Mail(number=0), Mail(number=1)])
    with anyio.fail_after(5):
        await spec.run_workers(handle_signals=False)
    assert spec._gate.connections.opened() == []
    if configuration["meta"]["type"] == "memory":
        return  # gone with the spec
    assert [(await handler.get(job.job_id)).status for job in jobs] == [JobStatus.retrying] * 2
    async with workers(spec):
        done = [await handler.wait(job.job_id, timeout=20) for job in jobs]
    assert [(job.status, job.attempts) for job in done] == [(JobStatus.succeeded, 1)] * 2
    assert sorted(runs) == [0, 0, 1, 1]


async def test_a_handler_may_enqueue_while_the_spec_closes(spec: SpecStar) -> None:
    """What a job hands on when it is told to end is taken: the queues close after the workers."""
    handed_on: list[str] = []
    began = anyio.Event()

    @spec.job
    async def later(job: Job[Mail]) -> None: ...

    @spec.job
    async def handler(job: Job[Mail]) -> None:
        began.set()
        try:
            await anyio.sleep(60)
        finally:
            with anyio.CancelScope(shield=True):
                handed_on.append((await later.enqueue(Mail())).job_id)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(functools.partial(spec.run_workers, handle_signals=False))
            await handler.enqueue(Mail())
            await began.wait()
            await spec.aclose()
    assert len(handed_on) == 1


async def test_a_job_that_is_claimed_while_the_worker_ends_goes_back(
    spec: SpecStar, configuration: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its handler does not begin, and its attempt does not count."""
    if configuration["meta"]["type"] == "memory":
        return  # its state goes with the spec
    runs: list[int] = []
    claiming = anyio.Event()
    mark = StoredJobState.mark

    async def slow(self: StoredJobState, snapshot: Snapshot, record: JobRecord) -> Snapshot:
        claiming.set()
        marked = await mark(self, snapshot, record)
        await anyio.sleep(0.3)
        return marked

    @spec.job(max_retries=0)
    async def handler(job: Job[Mail]) -> None:
        runs.append(job.payload.number)

    sent = await handler.enqueue(Mail(number=1))
    with monkeypatch.context() as patch:
        patch.setattr(StoredJobState, "mark", slow)
        async with anyio.create_task_group() as group:
            group.start_soon(functools.partial(spec.run_workers, handle_signals=False))
            await claiming.wait()
            await anyio.sleep(0.05)
            await spec.aclose()
    assert runs == []
    found = await handler.get(sent.job_id)
    assert (found.status, found.attempts) == (JobStatus.retrying, 0)
    async with workers(spec):
        assert (await handler.wait(sent.job_id, timeout=20)).status is JobStatus.succeeded


async def test_a_cancelled_closing_is_over(spec: SpecStar) -> None:
    """The next calls work at once."""

    @spec.job
    async def handler(job: Job[Mail]) -> None: ...

    await handler.enqueue(Mail())
    with anyio.CancelScope() as scope:
        scope.cancel()
        await spec.aclose()
    await handler.enqueue(Mail())


async def test_a_wait_does_not_open_again_what_was_closed(spec: SpecStar) -> None:
    @spec.job
    async def handler(job: Job[Mail]) -> None: ...

    sent = await handler.enqueue(Mail())
    waiting = anyio.Event()

    async def wait() -> None:
        waiting.set()
        with pytest.raises(BackendUnavailable):
            await handler.wait(sent.job_id)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await waiting.wait()
            await anyio.sleep(0.1)
            await spec.aclose()
    assert spec._gate.connections.opened() == []
