"""How workers open their queues."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from specstar import Job, SpecStar
from specstar.backends.simple.queue import _SimpleQueue
from specstar.errors import InvalidInputError
from specstar.roles import Consumer
from tests.conformance.jobs.harness import Mail


async def test_what_a_queue_refuses_is_raised_as_it_is(spec: SpecStar, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    @asynccontextmanager
    async def consume(self: _SimpleQueue, *, prefetch: int) -> AsyncIterator[Consumer]:
        asked.append(prefetch)
        raise InvalidInputError("not like this", field="prefetch")
        yield

    @spec.job()
    async def mails(job: Job[Mail]) -> None: ...

    monkeypatch.setattr(_SimpleQueue, "consume", consume)
    with pytest.raises(InvalidInputError, match="not like this"):
        await spec.run_workers(concurrency=70_000, handle_signals=False)
    assert asked == [65_535]
