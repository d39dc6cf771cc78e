"""Where the outcome of a job lies: a plain success in its row alone, everything else in a revision; readers see no difference."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from specstar import QB, Job, JobStatus, NoRetry, SpecStar
from specstar.message_queue.job import JobRecord
from specstar.message_queue.state import JobState
from specstar.message_queue.stored_state import MAX_RESULT_IN_ROW, StoredJobState
from tests.conformance.jobs.harness import Mail, workers


@pytest.fixture
async def spec(anyio_backend: Any, tmp_path: Path) -> AsyncIterator[SpecStar]:
    """With state on disk: stored at once, not behind."""
    disk = {"type": "disk", "options": {"rootdir": str(tmp_path)}}
    spec = SpecStar()
    mq = {"type": "simple", "options": {"retry_delay_seconds": 0}}
    spec.configure(backend={"meta": disk, "resource": disk, "mq": mq})
    async with spec:
        yield spec


def _record(job_id: str) -> JobRecord:
    return JobRecord(
        job_id=job_id,
        queue="mails",
        payload=msgspec.Raw(b"{}"),
        created_time=datetime.now(UTC),
        revision_id=f"{job_id}-first",
    )


def _begun(record: JobRecord, worker: str) -> JobRecord:
    return msgspec.structs.replace(
        record, status=JobStatus.running, attempts=record.attempts + 1, worker=worker, started_time=datetime.now(UTC)
    )


def _state(spec: SpecStar) -> JobState:
    return spec._jobs.backend.current().state


@pytest.mark.parametrize("length", [0, 1, MAX_RESULT_IN_ROW - 2, MAX_RESULT_IN_ROW - 1, 100_000])
async def test_a_result_is_read_back_wherever_it_lies(spec: SpecStar, length: int) -> None:
    async def handler(job: Job[Mail]) -> str:
        return "é\n@"[:length] if length < 4 else "x" * length

    queue = spec.add_job(Mail, handler, name="mails")
    sent = await queue.enqueue(Mail("a", 7))
    async with workers(spec):
        done = await queue.wait(sent.job_id, timeout=10)
    assert done.result == await handler(done)
    assert (done.status, done.attempts, done.error, done.payload) == (JobStatus.succeeded, 1, None, Mail("a", 7))
    assert done.started_time is not None
    assert done.finished_time is not None
    assert done.created_time <= done.started_time <= done.finished_time
    stored = await spec.get_resource_manager(JobRecord).get(sent.job_id)
    assert stored.meta.revision_count == (1 if length + 2 <= MAX_RESULT_IN_ROW else 2)
    assert (stored.data.status, msgspec.json.decode(stored.data.result)) == (JobStatus.succeeded, done.result)
    assert (stored.data.finished_time, stored.data.started_time) == (done.finished_time, done.started_time)
    assert [job.result for job in await queue.search(status=JobStatus.succeeded)] == [done.result]


async def test_a_success_after_a_failure_says_nothing_of_it(spec: SpecStar) -> None:
    async def handler(job: Job[Mail]) -> None:
        if job.attempts == 1:
            raise ValueError("not yet")

    queue = spec.add_job(Mail, handler, name="mails", max_retries=1)
    sent = await queue.enqueue(Mail())
    async with workers(spec):
        done = await queue.wait(sent.job_id, timeout=10)
    assert (done.status, done.attempts, done.result) == (JobStatus.succeeded, 2, None)
    assert (done.error, done.traceback, done.scheduled_time) == (None, None, None)
    manager = spec.get_resource_manager(JobRecord)
    first, second = await manager.list_revisions(sent.job_id)
    # What a revision says of its own time is not changed by the row.
    assert (await manager.get(sent.job_id, revision_id=first.revision_id)).data.status is JobStatus.pending
    assert (await manager.get(sent.job_id, revision_id=second.revision_id)).data.status is JobStatus.succeeded


async def test_jobs_are_found_by_every_status(spec: SpecStar) -> None:
    async def handler(job: Job[Mail]) -> None:
        if job.payload.number:
            raise NoRetry("no")

    queue = spec.add_job(Mail, handler, name="mails")
    good, bad = await queue.enqueue(Mail()), await queue.enqueue(Mail(number=1))
    async with workers(spec):
        for job in (good, bad):
            await queue.wait(job.job_id, timeout=10)
    waiting, cancelled = await queue.enqueue(Mail()), await queue.enqueue(Mail())
    assert await queue.cancel(cancelled.job_id)
    expected = {
        JobStatus.succeeded: good,
        JobStatus.failed: bad,
        JobStatus.pending: waiting,
        JobStatus.cancelled: cancelled,
    }
    for status in JobStatus:
        ids = [expected[status].job_id] if status in expected else []
        asked = [
            QB["status"] == status.value,
            QB["status"].in_([status.value]),
            (QB["status"] == status) & (QB["attempts"] >= 0),
        ]
        assert [job.job_id for job in await queue.search(status=status)] == ids
        for condition in asked:
            assert [job.job_id for job in await queue.search(condition)] == ids
            assert await queue.count(condition) == len(ids)
    both = QB["status"].in_([JobStatus.failed.value, JobStatus.pending.value])
    assert await queue.count(both) == 2
    assert await queue.count(~(QB["status"] == JobStatus.failed.value)) == 3
    assert await queue.count((QB["status"] == JobStatus.failed.value) | (QB["attempts"] == 0)) == 3


async def test_what_ends_a_job_otherwise_is_a_revision(spec: SpecStar) -> None:
    """A cancellation that someone asked for while it ran is not forgotten on the way."""
    spec.add_job(Mail, _nothing, name="mails")
    state = _state(spec)
    assert isinstance(state, StoredJobState)
    record = _record("j")
    pending = await state.create(record)
    begun = _begun(record, "host:1:2/a.1")
    running = await state.mark(pending, begun)
    done = msgspec.structs.replace(
        begun, status=JobStatus.succeeded, finished_time=datetime.now(UTC), cancel_requested=True
    )
    await state.settle(running, done)
    found = await state.read("j")
    assert found is not None
    assert found.row is not None
    assert (found.record, found.row.revision_count) == (done, 2)


async def test_the_run_after_one_that_was_to_be_cancelled_is_known(spec: SpecStar) -> None:
    """Its predecessor's revision says `running` too, but of another worker."""
    spec.add_job(Mail, _nothing, name="mails")
    state = _state(spec)
    record = _record("j")
    first = await state.mark(await state.create(record), _begun(record, "host:1:2/a.1"))
    asked = await state.settle(first, msgspec.structs.replace(first.record, cancel_requested=True))
    again = _begun(asked.record, "host:2:3/b.1")
    await state.mark(asked, again)
    found = await state.read("j")
    assert found is not None
    assert found.record == again


async def _nothing(job: Job[Mail]) -> None:
    pass
