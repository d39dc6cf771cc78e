"""What `cancel()` says holds, whatever becomes of this process."""

from __future__ import annotations

import anyio

from specstar import Job, JobStatus, SpecStar


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
