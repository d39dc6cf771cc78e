"""What `cancel()` and `purge()` say holds, whatever becomes of this process and whoever sends meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from specstar import QB, DelayRetry, Job, JobStatus, SpecStar
from specstar.message_queue.owner import process_token
from specstar.message_queue.state import MESSAGE_WAITS
from tests.conformance.jobs.harness import eventually, workers


async def test_the_cancellation_of_a_run_is_written_before_its_handler_is_out() -> None:
    began, over = anyio.Event(), anyio.Event()
    spec = SpecStar()
    memory = {"type": "memory"}
    spec.configure(backend={"meta": memory, "resource": memory, "mq": {"type": "simple"}})

    @spec.job
    async def slow_to_stop(job: Job[int]) -> None:
        began.set()
        try:
            await anyio.sleep(60)
        finally:
            with anyio.CancelScope(shield=True):
                await over.wait()

    async with spec, anyio.create_task_group() as group:
        group.start_soon(spec.run_workers)
        sent = await slow_to_stop.enqueue(1)
        await began.wait()
        assert await slow_to_stop.cancel(sent.job_id) is True
        record = (await slow_to_stop._kept.read(sent.job_id)).record
        assert (record.status, record.cancel_requested) == (JobStatus.running, True)
        over.set()
        assert (await slow_to_stop.wait(sent.job_id, timeout=20)).status is JobStatus.cancelled
        assert await slow_to_stop.cancel(sent.job_id) is False
        group.cancel_scope.cancel()


async def test_purge_leaves_no_job_waiting_whose_message_it_took(
    spec: SpecStar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was sent between its beginning and the broker's answer; one after that is cancelled, and does not run."""
    ran: list[int] = []

    async def note(job: Job[int]) -> None:
        ran.append(job.payload)

    queue = spec.add_job(int, note)

    async def messages_of_queue() -> Any:
        return queue._messages()

    messages = await spec._gate.run(messages_of_queue)
    purge = messages.purge

    async def purge_among_senders() -> Any:
        await queue.enqueue(1)
        purged = await purge()
        await queue.enqueue(2)
        return purged

    monkeypatch.setattr(messages, "purge", purge_among_senders)
    assert await queue.purge() == 1
    monkeypatch.undo()
    assert await queue.count(status=JobStatus.cancelled) == 2
    # The state of the second stays until its message has come.
    assert await queue.forget_finished(older_than=0) == 1
    last = await queue.enqueue(3)
    async with workers(spec):
        await queue.wait(last.job_id, timeout=20)
    assert ran == [3]
    assert await queue.forget_finished(older_than=0) == 2


@pytest.mark.parametrize("durable", [False, True])
async def test_purge_cancels_the_retry_of_what_ran_meanwhile(
    durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its message came after the broker was purged: where a record may be forgotten before its message, it is kept till then."""
    state = {"type": "disk", "options": {"rootdir": str(tmp_path)}} if durable else {"type": "memory"}
    began: list[int] = []
    purged: list[int] = []

    async def fail(job: Job[int]) -> None:
        began.append(job.payload)
        await eventually(lambda: purged)
        raise DelayRetry(60)

    spec = SpecStar()
    spec.configure(backend={"meta": state, "resource": state, "mq": {"type": "simple"}})
    queue = spec.add_job(int, fail)
    async with spec, workers(spec):
        job = await queue.enqueue(1)
        await eventually(lambda: began)

        async def messages_of_queue() -> Any:
            return queue._messages()

        messages = await spec._gate.run(messages_of_queue)
        purge = messages.purge

        async def purge_while_it_runs() -> Any:
            count = await purge()
            purged.append(count)
            await eventually(lambda: not any(lane.attempts for lane in queue._lanes))
            return count

        monkeypatch.setattr(messages, "purge", purge_while_it_runs)
        await queue.purge()
        monkeypatch.undo()
        record = (await queue._kept.read(job.job_id)).record
        assert record.status is JobStatus.cancelled
        # In memory it depends on whether the record was written down before the run.
        assert record.message_waits or not durable
        assert await queue.purge() == 1
        assert not (await queue._kept.read(job.job_id)).record.message_waits


async def test_a_search_finds_the_cancelled_jobs_whose_message_waits(tmp_path: Path) -> None:
    """By their rows: a purge does not read all that was ever cancelled."""
    disk = {"type": "disk", "options": {"rootdir": str(tmp_path)}}

    async def never(job: Job[int]) -> None:
        raise AssertionError("there are no workers")

    spec = SpecStar()
    spec.configure(backend={"meta": disk, "resource": disk, "mq": {"type": "simple"}})
    queue = spec.add_job(int, never)
    waiting = QB["updated_by"] == MESSAGE_WAITS
    async with spec:
        await queue.enqueue_many([1, 2])
        await queue.purge()
        assert await queue.count(status=JobStatus.cancelled) == 2
        assert await queue.count(waiting) == 0
        job = await queue.enqueue(3)
        await queue.cancel(job.job_id)
        assert [found.job_id for found in await queue.search(waiting)] == [job.job_id]
        await queue.purge()
        assert await queue.count(waiting) == 0
        assert await queue.forget_finished(older_than=0) == 3


async def test_purge_cancels_what_ran_in_a_process_that_is_gone(spec: SpecStar) -> None:
    """Its message was back in the queue: the broker purged it, or a worker drops it."""

    async def never(job: Job[int]) -> None:
        raise AssertionError("there are no workers")

    queue = spec.add_job(int, never)
    lost, lives = [await queue.enqueue(number) for number in range(2)]
    state = queue._state()
    assert state is not None
    for job, worker in ((lost, f"{process_token()}/gone.1"), (lives, "elsewhere/1.1")):
        snapshot = await queue._kept.read(job.job_id)
        begun = msgspec.structs.replace(snapshot.record, status=JobStatus.running, attempts=1, worker=worker)
        await state.mark(snapshot, begun)
    await queue.purge()
    record = (await queue._kept.read(lost.job_id)).record
    assert (record.status, record.message_waits) == (JobStatus.cancelled, True)
    assert (await queue.get(lives.job_id)).status is JobStatus.running
