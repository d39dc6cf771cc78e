"""What `cancel()` and `purge()` say holds, whatever becomes of this process and whoever sends meanwhile."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from specstar import Job, JobStatus, SpecStar
from tests.conformance.jobs.harness import workers


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
        record = (await slow_to_stop._read(sent.job_id)).record
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
