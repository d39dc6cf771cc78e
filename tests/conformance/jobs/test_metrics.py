"""What `spec.metrics()` says of jobs is what has happened to them."""

from __future__ import annotations

import anyio
import pytest

from specstar import DelayRetry, Job, JobMetrics, JobStatus, NoRetry, SpecStar
from specstar.message_queue import JobQueue
from tests.conformance.jobs.harness import Mail, dead_jobs, eventually, workers


def metrics_of(spec: SpecStar, queue: JobQueue[Mail]) -> JobMetrics:
    (found,) = [each for each in spec.metrics().jobs if each.queue == queue.name]
    return found


@pytest.mark.parametrize("keep_state", [True, False])
async def test_every_outcome_is_counted_as_what_it_is(spec: SpecStar, keep_state: bool) -> None:
    async def handle(job: Job[Mail]) -> None:
        await anyio.sleep(0.02)
        if job.payload.to == "twice" and job.attempts == 1:
            raise DelayRetry(0)
        if job.payload.to == "never":
            raise NoRetry("no such address")

    queue = spec.add_job(Mail, handle, name="mails", keep_state=keep_state)
    nothing = metrics_of(spec, queue)
    assert (nothing.enqueued, nothing.started, nothing.run_seconds) == (0, 0, 0.0)
    await queue.enqueue_many([Mail()] * 3)
    await queue.enqueue(Mail(to="twice"))
    await queue.enqueue(Mail(to="never"))
    await anyio.sleep(0.1)
    async with workers(spec):
        await dead_jobs(queue)
        await eventually(lambda: metrics_of(spec, queue).succeeded == 4)
        await eventually(lambda: metrics_of(spec, queue).running == 0)
    told = metrics_of(spec, queue)
    assert (told.enqueued, told.started, told.succeeded) == (5, 6, 4)
    assert (told.retried, told.failed, told.cancelled, told.interrupted) == (1, 1, 0, 0)
    assert told.run_seconds >= 6 * 0.019
    assert told.waited_seconds >= 5 * 0.09
    assert (told.run_times.count, told.run_times.sum) == (6, told.run_seconds)
    # Without state nobody knows when the second attempt was due.
    assert (told.waited_times.count, told.waited_times.sum) == (6 if keep_state else 5, told.waited_seconds)
    # Each run slept for 20 ms.
    assert sum(told.run_times.counts[: told.run_times.bounds.index(0.01) + 1]) == 0


async def test_what_is_cancelled_and_what_is_given_back(spec: SpecStar) -> None:
    async def handle(job: Job[Mail]) -> None:
        await anyio.sleep_forever()

    queue = spec.add_job(Mail, handle, name="mails")
    first = await queue.enqueue(Mail())
    async with workers(spec, drain_timeout=0):
        await eventually(lambda: metrics_of(spec, queue).running == 1)
        await queue.cancel(first.job_id)
        assert (await queue.wait(first.job_id, timeout=20)).status is JobStatus.cancelled
        await queue.enqueue(Mail())
        await eventually(lambda: metrics_of(spec, queue).running == 1)
    told = metrics_of(spec, queue)
    assert (told.enqueued, told.started, told.running, told.cancelled, told.interrupted) == (2, 2, 0, 1, 1)


async def test_a_job_of_one_key_is_sent_once(spec: SpecStar) -> None:
    async def handle(job: Job[Mail]) -> None: ...

    queue = spec.add_job(Mail, handle, name="mails")
    async with workers(spec):
        sent = await queue.enqueue(Mail(), idempotency_key="one")
        await queue.wait(sent.job_id, timeout=20)
        await queue.enqueue(Mail(), idempotency_key="one")
    assert metrics_of(spec, queue).enqueued == 1
