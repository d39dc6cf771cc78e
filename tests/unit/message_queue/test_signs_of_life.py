"""The mark that a worker renews while it runs a job, for those who would give the job up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from specstar import Job, JobStatus, SpecStar
from specstar.message_queue import worker
from specstar.message_queue.endings import Endings
from specstar.message_queue.stored_state import StoredJobState
from tests.conformance.jobs.harness import Mail, eventually, workers


async def test_a_run_that_is_over_and_whose_delivery_is_not_keeps_its_result(
    tmp_path: Path, anyio_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker may take long to answer, or the connection be lost."""
    monkeypatch.setattr(worker, "_LEASE_RENEWAL_SECONDS", 0.0)
    monkeypatch.setattr(worker, "_WATCH_AFTER_SECONDS", 0.0)
    answered = anyio.Event()
    end_of, read = Endings.end_of, StoredJobState.read
    over: list[str] = []
    looks: list[str] = []

    async def slow_end_of(endings: Endings, attempt: Any, ending: Any) -> None:
        over.append(attempt.record.job_id)
        await answered.wait()
        await end_of(endings, attempt, ending)

    async def counted_read(state: StoredJobState, job_id: str) -> Any:
        if over:
            looks.append(job_id)
        return await read(state, job_id)

    async def handler(job: Job[Mail]) -> str:
        return "the result"

    disk = {"type": "disk", "options": {"rootdir": str(tmp_path)}}
    spec = SpecStar()
    spec.configure(backend={"meta": disk, "resource": disk, "mq": {"type": "simple"}})
    queue = spec.add_job(Mail, handler, name="mails")
    monkeypatch.setattr(Endings, "end_of", slow_end_of)
    monkeypatch.setattr(StoredJobState, "read", counted_read)
    async with spec, workers(spec):
        sent = await queue.enqueue(Mail("a"))
        await eventually(lambda: over)
        before = await queue.get(sent.job_id)
        seen = len(looks)
        await eventually(lambda: len(looks) >= seen + 3)
        after = await queue.get(sent.job_id)
        answered.set()
        await eventually(lambda: not any(lane.attempts for lane in queue._lanes))
    assert (before.status, before.result) == (JobStatus.succeeded, "the result")
    assert (after.status, after.result, after.finished_time) == (before.status, before.result, before.finished_time)
