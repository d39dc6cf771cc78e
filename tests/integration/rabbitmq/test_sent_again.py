"""Jobs with shared state whose messages a restarted broker may have lost: workers send them again, from any store."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from specstar import Job, JobStatus, SpecStar
from specstar.errors import BackendUnavailable
from specstar.message_queue import JobQueue, recovery, sender
from specstar.message_queue.owner import process_token
from tests.conformance.jobs.harness import Mail, eventually, eventually_gives, workers

WAITED = 30


@pytest.fixture(params=["disk", "postgres"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    if request.param == "disk":
        return {"type": "disk", "options": {"rootdir": str(tmp_path)}}
    return {"type": "postgres", "options": {"connection_string": request.getfixturevalue("postgres_database")}}


@pytest.fixture
def runs() -> Counter[int]:
    return Counter()


@pytest.fixture
async def spec(state: dict[str, Any], amqp_url: str, queue_prefix: str) -> AsyncIterator[SpecStar]:
    spec = SpecStar()
    options = {"amqp_url": amqp_url, "queue_prefix": queue_prefix, "delay_queue_type": "classic"}
    spec.configure(backend={"meta": state, "resource": state, "mq": {"type": "rabbitmq", "options": options}})
    async with spec:
        yield spec


@pytest.fixture
def queue(spec: SpecStar, runs: Counter[int], monkeypatch: pytest.MonkeyPatch) -> JobQueue[Mail]:
    # Several pages, on which jobs end meanwhile.
    monkeypatch.setattr(recovery, "_PAGE", 7)

    async def handler(job: Job[Mail]) -> None:
        runs[job.payload.number] += 1

    return spec.add_job(Mail, handler)


async def is_complete(queue: JobQueue[Mail]) -> bool:
    return not await queue._messages().may_have_lost()


async def is_empty(queue: JobQueue[Mail]) -> bool:
    return not await queue.depth()


async def lose(queue: JobQueue[Mail], count: int) -> None:
    """The messages go, once so many are over their wait."""

    async def all_there() -> bool:
        return await queue.depth() == count

    await eventually_gives(all_there)
    await queue._messages().purge()


async def test_what_waited_and_is_gone_runs_and_what_did_not_wait_is_left_to_the_broker(
    spec: SpecStar, queue: JobQueue[Mail], runs: Counter[int]
) -> None:
    waited = [await queue.enqueue(Mail(number=number), delay=0.01) for number in range(WAITED)]
    partitioned = await queue.enqueue(Mail(number=100), delay=0.01, partition_key="p")
    direct = await queue.enqueue(Mail(number=200))
    not_due = await queue.enqueue(Mail(number=300), delay=600)
    cancelled = await queue.enqueue(Mail(number=400), delay=0.01)
    await queue.cancel(cancelled.job_id)
    await lose(queue, WAITED + 3)
    async with workers(spec):
        for job in (*waited, partitioned):
            assert (await queue.wait(job.job_id, timeout=20)).status is JobStatus.succeeded
    assert runs == Counter(dict.fromkeys((*range(WAITED), 100), 1))
    assert (await queue.get(direct.job_id)).status is JobStatus.pending
    assert (await queue.get(not_due.job_id)).status is JobStatus.pending
    assert (await queue.get(cancelled.job_id)).status is JobStatus.cancelled


async def test_what_waited_and_is_gone_is_sent_again_also_by_a_clock_that_is_behind(
    spec: SpecStar, queue: JobQueue[Mail], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Behind(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) - timedelta(minutes=10)

    # With a delay that is shorter than the clocks differ by, it is no longer than that.
    await queue.enqueue_many([Mail(number=number) for number in range(WAITED)], delay=6)
    await lose(queue, WAITED)
    monkeypatch.setattr(sender, "datetime", Behind)
    async with workers(spec):
        await eventually_gives(lambda: is_complete(queue))
    # They are there, and wait until they are due by that clock.
    assert (await queue.depth(), await queue.purge()) == (0, WAITED)


async def test_what_the_broker_still_has_runs_once_all_the_same(
    spec: SpecStar, queue: JobQueue[Mail], runs: Counter[int]
) -> None:
    waited = await queue.enqueue_many([Mail(number=number) for number in range(WAITED)], delay=0.01)
    async with workers(spec):
        for job in waited:
            await queue.wait(job.job_id, timeout=20)
        # A mark says so once all are sent again; the copies are taken and dropped by then, or soon.
        await eventually_gives(lambda: is_complete(queue))
        await eventually_gives(lambda: is_empty(queue))
    assert runs == Counter(dict.fromkeys(range(WAITED), 1))
    assert await queue.list_dead() == []


async def test_a_run_that_ended_with_its_process_and_its_message_is_taken_up(
    spec: SpecStar, queue: JobQueue[Mail], runs: Counter[int]
) -> None:
    job = await queue.enqueue(Mail(number=1), delay=0.01)
    state = queue._state()
    assert state is not None
    snapshot = await queue._kept.read(job.job_id)
    host, _, started = process_token().rsplit(":", 2)
    running = msgspec.structs.replace(
        snapshot.record, status=JobStatus.running, attempts=1, worker=f"{host}:999999999:{started}/1"
    )
    await state.mark(snapshot, running)
    await lose(queue, 1)
    async with workers(spec):
        await eventually(lambda: runs[1] == 1)
        found = await queue.wait(job.job_id, timeout=20)
    assert (found.status, found.attempts) == (JobStatus.succeeded, 2)


async def test_after_the_first_look_workers_do_not_look_again(spec: SpecStar, queue: JobQueue[Mail]) -> None:
    async with workers(spec):
        await eventually_gives(lambda: is_complete(queue))
    job = await queue.enqueue(Mail(number=1), delay=0.01)
    await lose(queue, 1)
    async with workers(spec):
        await anyio.sleep(2.0)
    assert (await queue.get(job.job_id)).status is JobStatus.pending


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("pause", [0.0, 0.01, 0.03])
async def test_what_is_being_sent_when_the_spec_is_closed_is_sent_whole(
    spec: SpecStar, queue: JobQueue[Mail], many: bool, pause: float
) -> None:
    """Nor does a job that was refused leave a record that waits for ever."""
    sent: list[str] = []
    await queue.enqueue(Mail())

    async def send_all() -> None:
        sent.extend(job.job_id for job in await queue.enqueue_many([Mail(number=number) for number in range(2000)]))

    async def send(number: int) -> None:
        try:
            sent.append((await queue.enqueue(Mail(number=number))).job_id)
        except BackendUnavailable as error:
            assert "closing" in str(error)  # noqa: PT017  begun too late

    async with anyio.create_task_group() as group:
        if many:
            group.start_soon(send_all)
        else:
            for number in range(500):
                group.start_soon(send, number)
        await anyio.sleep(pause)
        await spec.aclose()
    assert (await queue.count(), await queue.depth()) == (len(sent) + 1, len(sent) + 1)
    assert len(sent) == 2000 if many else sent
