"""What becomes of jobs whose worker, message or record is lost, or comes twice."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import anyio
import msgspec
import pytest

from specstar import Job, JobStatus, SpecStar
from specstar.message_queue import JobQueue
from specstar.message_queue.owner import process_token
from specstar.message_queue.sender import message_of
from specstar.message_queue.state import Snapshot
from specstar.roles import Message
from tests.conformance.jobs.harness import Mail, dead_jobs, eventually, eventually_gives, workers

DEAD_PROCESS = process_token().replace(f":{os.getpid()}:", ":999999999:")


async def at_home(queue: JobQueue[Any], work: Callable[[], Awaitable[Any]]) -> Any:
    """Do something below the jobs, on the home loop."""
    return await queue._gate.run(work)


async def snapshot_of(queue: JobQueue[Any], job_id: str) -> Snapshot:
    return await queue._kept.read(job_id)


async def send_again(queue: JobQueue[Any], job_id: str, *, attempts: int = 0) -> None:
    """Publish another copy of a job's message, as a sender or broker that lost an answer would."""

    async def work() -> None:
        record = (await snapshot_of(queue, job_id)).record
        await queue._messages().publish(msgspec.structs.replace(message_of(record), attempts=attempts))

    await at_home(queue, work)


async def lose_a_worker(queue: JobQueue[Any], job_id: str) -> None:
    """Take the job's message, mark the run begun, and go without a word, as a killed worker would."""

    async def work() -> None:
        async with queue._messages().consume(prefetch=1) as consumer:
            with anyio.fail_after(10):
                delivery = await consumer.receive()
            assert delivery.message.id == job_id
            state = queue._state()
            assert state is not None
            snapshot = await snapshot_of(queue, job_id)
            begun = msgspec.structs.replace(
                snapshot.record,
                status=JobStatus.running,
                attempts=snapshot.record.attempts + 1,
                delivery=delivery.message.attempts,
                copy=delivery.message.copy,
                worker=f"{DEAD_PROCESS}/1",
                started_time=datetime.now(UTC),
            )
            await state.mark(snapshot, begun)

    await at_home(queue, work)


async def test_copies_of_a_message_run_once(spec: SpecStar) -> None:
    runs: list[str] = []

    @spec.job
    async def once(job: Job[Mail]) -> None:
        runs.append(job.job_id)
        await anyio.sleep(0.2)

    sent = await once.enqueue(Mail())
    await send_again(once, sent.job_id)
    await send_again(once, sent.job_id)
    async with workers(spec):
        await once.wait(sent.job_id, timeout=20)
        await send_again(once, sent.job_id)
        last = await once.enqueue(Mail())
        await once.wait(last.job_id, timeout=20)
    assert runs == [sent.job_id, last.job_id]
    assert await once.depth() == 0
    assert await once.list_dead() == []


async def test_a_finished_job_that_comes_again_is_not_run_again(spec: SpecStar) -> None:
    """Its worker died between recording the outcome and the acknowledgement."""
    runs: list[str] = []

    @spec.job
    async def once(job: Job[Mail]) -> None:
        runs.append(job.job_id)

    sent = await once.enqueue(Mail())

    async def die_before_the_ack() -> None:
        async with once._messages().consume(prefetch=1) as consumer:
            await consumer.receive()
            state = once._state()
            assert state is not None
            snapshot = await snapshot_of(once, sent.job_id)
            done = msgspec.structs.replace(snapshot.record, status=JobStatus.succeeded, attempts=1)
            await state.settle(snapshot, done)

    await at_home(once, die_before_the_ack)
    async with workers(spec):
        last = await once.enqueue(Mail())
        await once.wait(last.job_id, timeout=20)
    assert runs == [last.job_id]
    assert await once.depth() == 0


async def test_a_job_whose_worker_died_runs_again_and_the_loss_counts(spec: SpecStar) -> None:
    @spec.job(max_retries=2)
    async def again(job: Job[Mail]) -> int:
        return job.attempts

    sent = await again.enqueue(Mail())
    await lose_a_worker(again, sent.job_id)
    assert (await again.get(sent.job_id)).status is JobStatus.running
    async with workers(spec):
        done = await again.wait(sent.job_id, timeout=20)
    assert (done.status, done.result, done.attempts) == (JobStatus.succeeded, 2, 2)


async def test_a_copy_that_a_dying_worker_had_in_hand_does_not_run_beside_the_job(spec: SpecStar) -> None:
    """A worker that died between retry and acknowledgement left two messages; the job runs by one of them, elsewhere."""
    runs: list[int] = []

    @spec.job
    async def one(job: Job[Mail]) -> None:
        runs.append(job.attempts)

    sent = await one.enqueue(Mail())
    await lose_a_worker(one, sent.job_id)

    async def run_elsewhere() -> None:
        messages = one._messages()
        async with messages.consume(prefetch=1) as elsewhere:
            with anyio.fail_after(10):
                own = await elsewhere.receive()
            await messages.publish(msgspec.structs.replace(own.message, copy="the second"))
            async with messages.consume(prefetch=1) as dying:
                with anyio.fail_after(10):
                    assert (await dying.receive()).message.copy == "the second"
            async with workers(spec):
                # A later job has its turn after the copy.
                last = await one.enqueue(Mail())
                await one.wait(last.job_id, timeout=20)
            assert runs == [1]
            assert (await one.get(sent.job_id)).status is JobStatus.running

    await at_home(one, run_elsewhere)
    async with workers(spec):
        done = await one.wait(sent.job_id, timeout=20)
    assert (done.status, runs) == (JobStatus.succeeded, [1, 2])
    assert await one.depth() == 0


async def test_a_job_that_kills_its_workers_ends_in_the_dead_letters_with_its_count_right(spec: SpecStar) -> None:
    runs: list[int] = []

    @spec.job(max_retries=2)
    async def poison(job: Job[Mail]) -> None:
        runs.append(job.attempts)

    sent = await poison.enqueue(Mail())
    for _ in range(3):
        await lose_a_worker(poison, sent.job_id)
    async with workers(spec):
        dead = await dead_jobs(poison)
    assert (dead[0].job_id, dead[0].attempts) == (sent.job_id, 3)
    assert "WorkerLost" in dead[0].reason
    found = await poison.get(sent.job_id)
    assert (found.status, found.attempts) == (JobStatus.failed, 3)
    assert runs == []


async def test_without_state_a_killing_job_ends_in_the_dead_letters_too(spec: SpecStar) -> None:
    runs: list[int] = []

    @spec.job(max_retries=2, keep_state=False)
    async def poison(job: Job[Mail]) -> None:
        runs.append(job.attempts)

    await poison.enqueue(Mail())

    async def die() -> None:
        async with poison._messages().consume(prefetch=1) as consumer:
            with anyio.fail_after(10):
                while True:
                    delivery = await consumer.receive()
                    message = delivery.message
                    if not delivery.redelivered:
                        return  # "begun", and never ended
                    counted = msgspec.structs.replace(message, attempts=message.attempts + 1)
                    await delivery.retry(counted, delay=0)  # as the worker does before it runs a job again

    for _ in range(3):
        await at_home(poison, die)
    async with workers(spec):
        dead = await dead_jobs(poison)
    assert dead[0].attempts == 3
    assert runs == []


async def test_a_failed_job_whose_parking_was_lost_is_parked(spec: SpecStar) -> None:
    @spec.job
    async def handler(job: Job[Mail]) -> None: ...

    sent = await handler.enqueue(Mail())

    async def die_before_the_dead_letter() -> None:
        async with handler._messages().consume(prefetch=1) as consumer:
            await consumer.receive()
            state = handler._state()
            assert state is not None
            snapshot = await snapshot_of(handler, sent.job_id)
            failed = msgspec.structs.replace(
                snapshot.record, status=JobStatus.failed, error="E: it was bad", attempts=4
            )
            await state.settle(snapshot, failed)

    await at_home(handler, die_before_the_dead_letter)
    async with workers(spec):
        dead = await dead_jobs(handler)
    assert (dead[0].reason, dead[0].attempts) == ("E: it was bad", 4)


async def test_a_retry_whose_message_was_lost_is_sent(spec: SpecStar) -> None:
    @spec.job
    async def handler(job: Job[Mail]) -> int:
        return job.attempts

    sent = await handler.enqueue(Mail())

    async def die_before_the_retry() -> None:
        async with handler._messages().consume(prefetch=1) as consumer:
            await consumer.receive()
            state = handler._state()
            assert state is not None
            snapshot = await snapshot_of(handler, sent.job_id)
            waiting = msgspec.structs.replace(snapshot.record, status=JobStatus.retrying, attempts=1, error="E: once")
            await state.settle(snapshot, waiting)

    await at_home(handler, die_before_the_retry)
    async with workers(spec):
        done = await handler.wait(sent.job_id, timeout=20)
    assert (done.status, done.result) == (JobStatus.succeeded, 2)


async def test_a_job_without_a_record_runs_all_the_same(spec: SpecStar) -> None:
    """Its sender keeps its state elsewhere, or its record was erased."""

    @spec.job
    async def handler(job: Job[Mail]) -> int:
        return job.payload.number

    sent = await handler.enqueue(Mail(number=8))

    async def erase() -> None:
        state = handler._state()
        assert state is not None
        assert await state.erase(sent.job_id)

    await at_home(handler, erase)
    async with workers(spec):

        async def finished() -> bool:
            found = await handler.search()
            return bool(found) and found[0].status.finished

        await eventually_gives(finished)
    done = await handler.get(sent.job_id)
    assert (done.status, done.result) == (JobStatus.succeeded, 8)


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff\x00", b"[]", b'{"job_id": 5}', b'{"format": 99, "job_id": "bad", "queue": "sturdy"}', b"{" * 5000],
    ids=["empty", "binary", "list", "types", "format", "deep"],
)
async def test_a_damaged_message_goes_to_the_dead_letters_and_the_worker_lives(spec: SpecStar, body: bytes) -> None:
    @spec.job
    async def sturdy(job: Job[Mail]) -> None: ...

    async def publish() -> None:
        await sturdy._messages().publish(Message(id="bad", body=body))

    await at_home(sturdy, publish)
    async with workers(spec):
        dead = await dead_jobs(sturdy)
        good = await sturdy.enqueue(Mail())
        assert (await sturdy.wait(good.job_id, timeout=20)).status is JobStatus.succeeded
    assert (dead[0].job_id, dead[0].payload) == ("bad", None)
    assert "DecodeError" in dead[0].reason
    assert ("has format 99, this version reads up to 1: upgrade" in dead[0].reason) is (b"format" in body)


@pytest.mark.parametrize("kind", ["async", "stubborn", "plain"])
async def test_a_cancellation_from_another_process_reaches_the_handler(
    spec: SpecStar, configuration: dict[str, Any], kind: str
) -> None:
    """What a handler that cannot be stopped makes of it is dropped."""
    if configuration["meta"]["type"] == "memory":
        return  # state that no other process sees
    began, released = threading.Event(), threading.Event()

    async def long(job: Job[Mail]) -> str:
        began.set()
        with anyio.CancelScope(shield=kind == "stubborn"):
            while not released.is_set():  # noqa: ASYNC110  set from another thread
                await anyio.sleep(0.01)
        return "done"

    def plain(job: Job[Mail]) -> str:
        began.set()
        released.wait(20)
        return "done"

    handler: Any = plain if kind == "plain" else long
    queue: JobQueue[Mail] = spec.add_job(Mail, handler, name="long")
    async with SpecStar() as other:
        other.configure(backend=configuration)
        elsewhere = other.add_job(Mail, handler, name="long")
        async with workers(spec):
            sent = await queue.enqueue(Mail())
            await eventually(began.is_set)
            assert await elsewhere.cancel(sent.job_id)
            if kind != "async":
                released.set()
            done = await elsewhere.wait(sent.job_id, timeout=20)
            released.set()
    assert (done.status, done.result) == (JobStatus.cancelled, None)
