"""A second message of a job that runs in this very worker."""

from __future__ import annotations

from typing import ClassVar

import anyio
import msgspec
import pytest

from specstar import Job, JobStatus, NoRetry, SpecStar
from specstar.errors import BackendUnavailable, OutcomeUnknownError
from specstar.message_queue import JobQueue
from specstar.message_queue.claim import Decision, decide
from specstar.message_queue.job import JobRecord
from specstar.message_queue.owner import process_token
from specstar.message_queue.sender import message_of
from specstar.message_queue.state import Snapshot
from specstar.message_queue.stored_state import StoredJobState
from specstar.roles import Delivery, Message
from tests.conformance.jobs.harness import Mail, dead_jobs, eventually, eventually_gives, workers


class Copy(Delivery):
    """A message that comes again, since whoever had it died."""

    lost = False

    def __init__(self, message: Message) -> None:
        self.message = message
        self.redelivered = True
        self.ends: list[str] = []
        self.sent: list[Message] = []

    async def ack(self) -> None:
        self.ends.append("ack")

    async def retry(self, message: Message, *, delay: float) -> None:
        self.ends.append("retry")
        self.sent.append(message)

    async def dead(self, message: Message, *, reason: str) -> None:
        self.ends.append("dead")


@pytest.mark.parametrize("max_retries", [0, 5])
async def test_it_is_dropped_while_the_job_runs(spec: SpecStar, max_retries: int) -> None:
    """It neither runs beside it, nor ends a job that is on its last attempt."""
    begun, go_on = anyio.Event(), anyio.Event()
    runs = 0

    async def handler(job: Job[Mail]) -> None:
        nonlocal runs
        runs += 1
        begun.set()
        await go_on.wait()

    queue = spec.add_job(Mail, handler, name="mails", max_retries=max_retries)
    sent = await queue.enqueue(Mail("a"))
    async with workers(spec, concurrency=2):
        await begun.wait()
        (lane,) = queue._lanes
        copy = Copy(lane.attempts[sent.job_id].delivery.message)
        with anyio.fail_after(5):
            await lane._runner.handle(copy)
        assert copy.ends == ["ack"]
        go_on.set()
        await eventually(lambda: not lane.attempts)
    assert (await queue.get(sent.job_id)).status is JobStatus.succeeded
    assert runs == 1


async def test_one_that_ran_here_before_this_process_was_restored_from_a_snapshot_runs_again(spec: SpecStar) -> None:
    """The names of runs that came after the snapshot are given once more: to other jobs."""
    begun, go_on = anyio.Event(), anyio.Event()
    ran: list[str] = []

    async def handler(job: Job[Mail]) -> None:
        ran.append(job.payload.to)
        if job.payload.to == "held":
            begun.set()
            await go_on.wait()

    queue = spec.add_job(Mail, handler, name="mails", max_retries=5)
    await queue.enqueue(Mail("held"))
    async with workers(spec, concurrency=2):
        await begun.wait()
        (lane,) = queue._lanes
        (held,) = lane.attempts.values()
        record, _ = queue._sender.record(Mail("before"), None, None, None, None)
        state = queue._state()
        assert state is not None
        running = msgspec.structs.replace(record, status=JobStatus.running, attempts=1, worker=held.record.worker)
        await state.mark(await state.create(record), running)
        with anyio.fail_after(20):
            await lane._runner.handle(Copy(message_of(record)))
        assert ran == ["held", "before"]
        assert (await queue.get(record.job_id)).status is JobStatus.succeeded
        go_on.set()
        await eventually(lambda: not lane.attempts)


async def test_a_retry_that_is_sent_in_case_it_was_lost_has_a_name_of_its_own(spec: SpecStar) -> None:
    """The lost one may be there all the same: whichever of them the job runs by, the other is known for a copy."""

    async def handler(job: Job[Mail]) -> None:
        raise ValueError("not this time")

    queue = spec.add_job(Mail, handler, name="mails", max_retries=5, retry_delay=60)
    sent = await queue.enqueue(Mail("a"))
    async with workers(spec):
        await eventually_gives(lambda: _retrying(queue, sent.job_id))
        (lane,) = queue._lanes
        first = Copy(message_of((await queue._kept.read(sent.job_id)).record))
        again = Copy(first.message)
        for copy in (first, again):
            await lane._runner.handle(copy)
    (one,), (two,) = first.sent, again.sent
    assert one.attempts == two.attempts == 1
    assert len({"", one.copy, two.copy}) == 3


@pytest.mark.parametrize(("lineage", "runs"), [("", 0), (None, 1)])
async def test_one_of_a_retry_is_dropped_while_another_worker_runs_what_came_back_from_the_dead(
    spec: SpecStar, lineage: str | None, runs: int
) -> None:
    """A worker had died between the retry and the acknowledgement; the second copy waited all the time.

    None: one of an earlier version may be the last message.
    """
    ran: list[int] = []
    dead = True

    async def handler(job: Job[Mail]) -> None:
        if dead:
            raise NoRetry("no")
        ran.append(job.attempts)

    queue = spec.add_job(Mail, handler, name="mails", max_retries=5)
    sent = await queue.enqueue(Mail("a"))
    stale = msgspec.structs.replace(
        message_of((await queue._kept.read(sent.job_id)).record), attempts=3, lineage=lineage
    )
    async with workers(spec):
        await dead_jobs(queue, 1)
        (lane,) = queue._lanes
        await lane.stop()
        dead = False
        assert await queue.requeue_dead() == 1
        snapshot = await queue._kept.read(sent.job_id)
        assert snapshot.record.lineage
        begun = msgspec.structs.replace(
            snapshot.record, status=JobStatus.running, attempts=1, delivery=0, copy="", worker="elsewhere"
        )
        state = queue._state()
        assert state is not None
        await state.settle(snapshot, begun)
        copy = Copy(stale)
        copy.redelivered = False
        with anyio.fail_after(20):
            await lane._runner.handle(copy)
        assert copy.ends == ["ack"]
        expected = JobStatus.succeeded if runs else JobStatus.running
        assert (await queue.get(sent.job_id)).status is expected
    assert len(ran) == runs


async def test_what_is_put_off_and_left_alone_is_newer_than_the_run(spec: SpecStar) -> None:
    """Also where the job was sent back from the dead letters meanwhile: it may be the last message."""

    async def handler(job: Job[Mail]) -> None: ...

    queue = spec.add_job(Mail, handler, name="mails", max_retries=5)
    async with workers(spec):
        await eventually(lambda: queue._lanes)
        (lane,) = queue._lanes
        put_off = Copy(Message(id="1", body=b"", lineage="before"))
        await lane._runner._endings.put_off(put_off, ValueError("a fault of ours"))
        found = msgspec.structs.replace(
            queue._sender.record(Mail("a"), None, None, None, None)[0],
            status=JobStatus.running,
            attempts=1,
            lineage="now",
        )
        left_alone = Copy(Message(id="1", body=b"", lineage="before"))
        await lane._runner._claims._leave_alone(found, left_alone)
    for copy in (put_off, left_alone):
        (message,) = copy.sent
        assert decide(found, message, redelivered=False, max_attempts=9) is Decision.run


async def test_a_dead_letter_that_was_lost_is_sent_again_and_a_copy_of_the_message_is_not(spec: SpecStar) -> None:
    """The worker of the last attempt died; the one that found out loses its connection."""

    async def handler(job: Job[Mail]) -> None:
        raise AssertionError("it had all its attempts")

    class LosesItsDeadLetter(Copy):
        async def dead(self, message: Message, *, reason: str) -> None:
            raise BackendUnavailable("the connection broke")

    queue = spec.add_job(Mail, handler, name="mails", max_retries=0)
    sent = await queue.enqueue(Mail("a"))
    snapshot = await queue._kept.read(sent.job_id)
    begun = msgspec.structs.replace(
        snapshot.record, status=JobStatus.running, attempts=1, worker=f"{process_token()}/gone.1"
    )
    state = queue._state()
    assert state is not None
    await state.mark(snapshot, begun)
    async with workers(spec):
        await eventually(lambda: queue._lanes)
        (lane,) = queue._lanes
        newer = msgspec.structs.replace(message_of(begun), attempts=1, copy="b")
        await lane._runner.handle(LosesItsDeadLetter(newer))
        assert (await queue.get(sent.job_id)).status is JobStatus.failed
        again, other = Copy(newer), Copy(msgspec.structs.replace(newer, copy="c"))
        await lane._runner.handle(other)
        await lane._runner.handle(again)
    assert (other.ends, again.ends) == (["ack"], ["dead"])


async def _retrying(queue: JobQueue[Mail], job_id: str) -> bool:
    return (await queue.get(job_id)).status is JobStatus.retrying


class _FailingOnce(StoredJobState):
    """State whose first mark loses its answer, and then cannot be read once."""

    troubles: ClassVar[list[Exception]] = []

    async def mark(self, snapshot: Snapshot, record: JobRecord) -> Snapshot:
        after = await super().mark(snapshot, record)
        if len(self.troubles) == 2:
            raise self.troubles.pop()
        return after

    async def read(self, job_id: str) -> Snapshot | None:
        if len(self.troubles) == 1:
            raise self.troubles.pop()
        return await super().read(job_id)


async def test_a_mark_that_landed_before_its_store_failed_is_known_again(
    spec: SpecStar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run begins, instead of being taken for another worker's."""

    async def handler(job: Job[Mail]) -> str:
        return "done"

    monkeypatch.setattr("specstar.message_queue.backend.StoredJobState", _FailingOnce)
    queue = spec.add_job(Mail, handler, name="mails")
    queue._backend._state_is_durable = lambda: True
    sent = await queue.enqueue(Mail("a"))
    _FailingOnce.troubles[:] = [BackendUnavailable("gone"), OutcomeUnknownError("the answer was lost")]
    async with workers(spec):
        job = await queue.wait(sent.job_id, timeout=10)
    assert job.result == "done"
    assert not _FailingOnce.troubles
