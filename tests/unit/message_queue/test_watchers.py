"""Waiting for a job's end keeps to its own time limit, whatever the stores do."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from specstar import Job, SpecStar
from specstar.errors import WaitTimeoutError
from specstar.message_queue import watchers


async def test_a_wait_ends_though_the_stores_do_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchers, "_GRACE_SECONDS", 0.05)
    spec = SpecStar()
    spec.configure(backend={"meta": {"type": "memory"}, "mq": {"type": "simple"}})

    async def handle(job: Job[int]) -> None: ...

    queue = spec.add_job(int, handle)
    async with spec:
        job = await queue.enqueue(1)

        async def silent(job_id: str) -> Any:
            await anyio.sleep_forever()

        read = queue._kept.read
        monkeypatch.setattr(queue._kept, "read", silent)
        with pytest.raises(WaitTimeoutError, match=r"its state could not be read within 0\.05 s"):
            await queue.wait(job.job_id, timeout=0.05)
        assert job.job_id not in queue._watchers
        monkeypatch.setattr(queue._kept, "read", read)
        with pytest.raises(WaitTimeoutError, match="is still pending after 0 s"):
            await queue.wait(job.job_id, timeout=0)
