"""Workers: their bounds, their drain, and what becomes of jobs whose worker, message or clock misbehaves."""

from __future__ import annotations

import contextvars
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import anyio
import msgspec
import pytest

from specstar import Job, JobStatus, SpecStar
from specstar.errors import BackendUnavailable, NotConfiguredError, UsageError
from specstar.message_queue import JobQueue, WorkerStop
from specstar.message_queue import worker as worker_module
from specstar.message_queue.job import JobRecord
from specstar.message_queue.owner import process_token
from specstar.message_queue.sender import message_of
from specstar.message_queue.state import Snapshot
from specstar.message_queue.stored_state import StoredJobState
from specstar.roles import Message
from tests.conformance.jobs.harness import Mail, dead_jobs, eventually, eventually_gives, workers

seen: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="nothing")
DEAD_PROCESS = process_token().replace(f":{os.getpid()}:", ":999999999:")


async def at_home(queue: JobQueue[Any], work: Callable[[], Awaitable[Any]]) -> Any:
    """Do something below the jobs, on the home loop."""
    return await queue._gate.run(work)


async def snapshot_of(queue: JobQueue[Any], job_id: str) -> Snapshot:
    return await queue._read(job_id)


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


async def test_no_more_than_concurrency_jobs_run_at_once(spec: SpecStar) -> None:
    running: dict[str, int] = {"one": 0, "two": 0}
    most: dict[str, int] = {"one": 0, "two": 0, "all": 0}

    async def handle(job: Job[Mail]) -> None:
        running[job.queue] += 1
        most[job.queue] = max(most[job.queue], running[job.queue])
        most["all"] = max(most["all"], sum(running.values()))
        await anyio.sleep(0.02)
        running[job.queue] -= 1

    one = spec.add_job(Mail, handle, name="one")
    two = spec.add_job(Mail, handle, name="two", concurrency=2)
    jobs = [*await one.enqueue_many([Mail()] * 20), *await two.enqueue_many([Mail()] * 20)]
    async with workers(spec, concurrency=5):
        for job in jobs:
            await (one if job.queue == "one" else two).wait(job.job_id, timeout=30)
    assert most["two"] <= 2
    assert 3 <= most["all"] <= 5


async def test_async_handlers_run_on_the_callers_loop(spec: SpecStar, anyio_backend: Any) -> None:
    libraries: set[str] = set()

    @spec.job
    async def note(job: Job[Mail]) -> None:
        libraries.add("trio" if _in_trio() else "asyncio")
        await anyio.sleep(0)

    async with workers(spec):
        sent = await note.enqueue(Mail())
        await note.wait(sent.job_id, timeout=20)
    assert libraries == {anyio_backend[0]}


def _in_trio() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_run()


async def test_what_a_handler_sets_in_its_context_the_next_does_not_see(spec: SpecStar) -> None:
    found: list[str] = []

    @spec.job
    async def note(job: Job[Mail]) -> None:
        found.append(seen.get())
        token = seen.set(f"job {job.payload.number}")
        await anyio.sleep(0.001)
        found.append(seen.get())
        if job.payload.number == 2:
            seen.reset(token)

    async with workers(spec, concurrency=1):
        for number in range(3):
            sent = await note.enqueue(Mail(number=number))
            await note.wait(sent.job_id, timeout=20)
    assert found == ["nothing", "job 0", "nothing", "job 1", "nothing", "job 2"]


async def test_a_drain_lets_running_jobs_end_and_starts_no_more(spec: SpecStar) -> None:
    began, go_on = anyio.Event(), anyio.Event()
    ended: list[int] = []

    @spec.job
    async def slow(job: Job[Mail]) -> None:
        began.set()
        await go_on.wait()
        ended.append(job.payload.number)

    jobs = await slow.enqueue_many([Mail(number=1), Mail(number=2)])
    async with workers(spec, concurrency=1) as stop:
        with anyio.fail_after(20):
            await began.wait()
        stop.set()
        await anyio.sleep(0.1)
        go_on.set()
    assert ended == [1]
    assert (await slow.get(jobs[0].job_id)).status is JobStatus.succeeded
    assert (await slow.get(jobs[1].job_id)).status is JobStatus.pending
    async with workers(spec):
        done = await slow.wait(jobs[1].job_id, timeout=20)
    assert done.attempts == 1


async def test_a_cancelled_run_workers_drains(spec: SpecStar) -> None:
    began = anyio.Event()

    @spec.job
    async def slow(job: Job[Mail]) -> str:
        began.set()
        await anyio.sleep(0.3)
        return "whole"

    sent = await slow.enqueue(Mail())
    async with anyio.create_task_group() as group:
        group.start_soon(spec.run_workers)
        with anyio.fail_after(20):
            await began.wait()
        group.cancel_scope.cancel()
    assert (await slow.get(sent.job_id)).result == "whole"


@pytest.mark.parametrize("hurried", [False, True])
async def test_a_job_that_outlasts_the_drain_goes_back_and_the_attempt_does_not_count(
    spec: SpecStar, hurried: bool
) -> None:
    began = anyio.Event()
    runs: list[int] = []

    @spec.job(max_retries=0)
    async def slow(job: Job[Mail]) -> None:
        runs.append(job.attempts)
        began.set()
        if len(runs) == 1:
            await anyio.sleep(60)

    sent = await slow.enqueue(Mail())
    started = time.monotonic()
    async with workers(spec, drain_timeout=30 if hurried else 0.2) as stop:
        with anyio.fail_after(20):
            await began.wait()
        stop.set()
        if hurried:
            stop.set()
    assert time.monotonic() - started < 15
    assert (await slow.get(sent.job_id)).status is JobStatus.retrying
    async with workers(spec):
        done = await slow.wait(sent.job_id, timeout=20)
    assert (done.status, done.attempts, runs) == (JobStatus.succeeded, 1, [1, 1])


async def test_a_job_goes_back_after_a_handler_that_takes_its_time_to_clean_up(
    spec: SpecStar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_INTERRUPT_SECONDS", 1.0)
    began, cleaned = anyio.Event(), anyio.Event()
    runs: list[int] = []

    @spec.job(max_retries=0)
    async def slow(job: Job[Mail]) -> None:
        runs.append(job.attempts)
        if len(runs) > 1:
            return
        try:
            began.set()
            await anyio.sleep(60)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1.3)
                cleaned.set()

    sent = await slow.enqueue(Mail())
    async with workers(spec, drain_timeout=0):
        with anyio.fail_after(20):
            await began.wait()
    assert cleaned.is_set()
    assert (await slow.get(sent.job_id)).status is JobStatus.retrying
    async with workers(spec):
        done = await slow.wait(sent.job_id, timeout=20)
    assert (done.status, runs) == (JobStatus.succeeded, [1, 1])


async def test_a_job_that_outlasts_the_drain_keeps_its_place_in_its_partition(spec: SpecStar) -> None:
    began = anyio.Event()
    runs: list[tuple[int, int]] = []

    @spec.job(max_retries=0)
    async def turn(job: Job[Mail]) -> None:
        runs.append((job.payload.number, job.attempts))
        if not began.is_set():
            began.set()
            await anyio.sleep(60)

    jobs = [await turn.enqueue(Mail(number=number), partition_key="k") for number in range(3)]
    async with workers(spec, drain_timeout=0):
        with anyio.fail_after(20):
            await began.wait()
    assert [(await turn.get(job.job_id)).status for job in jobs] == [
        JobStatus.retrying,
        JobStatus.pending,
        JobStatus.pending,
    ]
    async with workers(spec):
        for job in jobs:
            await turn.wait(job.job_id, timeout=20)
    assert runs == [(0, 1), (0, 1), (1, 1), (2, 1)]


async def test_sigterm_drains_and_the_handlers_before_are_put_back(spec: SpecStar) -> None:
    before = signal.getsignal(signal.SIGTERM)
    began = anyio.Event()

    @spec.job
    async def slow(job: Job[Mail]) -> str:
        began.set()
        await anyio.sleep(0.2)
        return "whole"

    sent = await slow.enqueue(Mail())

    async def terminate() -> None:
        await began.wait()
        os.kill(os.getpid(), signal.SIGTERM)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(terminate)
            await spec.run_workers()
    assert signal.getsignal(signal.SIGTERM) is before
    assert (await slow.get(sent.job_id)).result == "whole"


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


async def test_a_periodic_job_runs_once_a_tick_however_many_workers(spec: SpecStar) -> None:
    moments: list[float] = []

    @spec.job(every=0.5)
    async def tick(job: Job[Mail]) -> None:
        assert job.payload == Mail()
        moments.append(time.time())

    async with workers(spec), workers(spec):
        await eventually(lambda: len(moments) >= 4)
    ticks = [int(moment // 0.5) for moment in moments]
    assert len(ticks) == len(set(ticks)), ticks
    assert ticks == sorted(ticks)


async def test_a_periodic_job_without_state_runs_once_a_tick_and_process(spec: SpecStar) -> None:
    moments: list[float] = []

    @spec.job(every=0.5, keep_state=False)
    async def tick(job: Job[Mail]) -> None:
        moments.append(time.time())

    async with workers(spec), workers(spec):
        await eventually(lambda: len(moments) >= 3)
    ticks = [int(moment // 0.5) for moment in moments]
    assert len(ticks) == len(set(ticks)), ticks


async def test_workers_need_jobs_and_a_queue(spec: SpecStar) -> None:
    with pytest.raises(UsageError, match="no jobs"):
        await spec.run_workers()
    bare = SpecStar()
    bare.configure(backend={"meta": {"type": "memory"}, "resource": {"type": "memory"}})
    queue = bare.add_job(Mail, _nothing, name="nothing")
    async with bare:
        with pytest.raises(NotConfiguredError, match="mq"):
            await queue.enqueue(Mail())
        with pytest.raises(NotConfiguredError, match="mq"):
            await bare.run_workers()


async def _nothing(job: Job[Mail]) -> None: ...


async def test_workers_end_when_their_spec_is_closed(spec: SpecStar) -> None:
    @spec.job
    async def handler(job: Job[Mail]) -> None: ...

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:

            async def run() -> None:
                await spec.run_workers(handle_signals=False)
                group.cancel_scope.cancel()

            group.start_soon(run)
            sent = await handler.enqueue(Mail())
            await handler.wait(sent.job_id, timeout=20)
            await spec.aclose()
            await anyio.sleep(30)
            pytest.fail("the workers go on without connections")


async def test_a_handler_may_close_its_own_spec(spec: SpecStar, configuration: dict[str, Any]) -> None:
    """All that runs goes back, as in any other drain."""
    began = anyio.Event()
    runs: list[int] = []

    @spec.job(max_retries=0)
    async def handler(job: Job[Mail]) -> None:
        runs.append(job.payload.number)
        if len(runs) > 2:
            return
        if job.payload.number:
            began.set()
            await anyio.sleep(60)
        await began.wait()
        await spec.aclose()

    jobs = await handler.enqueue_many([Mail(number=0), Mail(number=1)])
    with anyio.fail_after(5):
        await spec.run_workers(handle_signals=False)
    assert spec._gate.connections.opened() == []
    if configuration["meta"]["type"] == "memory":
        return  # gone with the spec
    assert [(await handler.get(job.job_id)).status for job in jobs] == [JobStatus.retrying] * 2
    async with workers(spec):
        done = [await handler.wait(job.job_id, timeout=20) for job in jobs]
    assert [(job.status, job.attempts) for job in done] == [(JobStatus.succeeded, 1)] * 2
    assert sorted(runs) == [0, 0, 1, 1]


async def test_a_handler_may_enqueue_while_the_spec_closes(spec: SpecStar) -> None:
    """What a job hands on when it is told to end is taken: the queues close after the workers."""
    handed_on: list[str] = []
    began = anyio.Event()

    @spec.job
    async def later(job: Job[Mail]) -> None: ...

    @spec.job
    async def handler(job: Job[Mail]) -> None:
        began.set()
        try:
            await anyio.sleep(60)
        finally:
            with anyio.CancelScope(shield=True):
                handed_on.append((await later.enqueue(Mail())).job_id)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(functools.partial(spec.run_workers, handle_signals=False))
            await handler.enqueue(Mail())
            await began.wait()
            await spec.aclose()
    assert len(handed_on) == 1


async def test_a_job_that_is_claimed_while_the_worker_ends_goes_back(
    spec: SpecStar, configuration: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its handler does not begin, and its attempt does not count."""
    if configuration["meta"]["type"] == "memory":
        return  # its state goes with the spec
    runs: list[int] = []
    claiming = anyio.Event()
    mark = StoredJobState.mark

    async def slow(self: StoredJobState, snapshot: Snapshot, record: JobRecord) -> Snapshot:
        claiming.set()
        marked = await mark(self, snapshot, record)
        await anyio.sleep(0.3)
        return marked

    @spec.job(max_retries=0)
    async def handler(job: Job[Mail]) -> None:
        runs.append(job.payload.number)

    sent = await handler.enqueue(Mail(number=1))
    with monkeypatch.context() as patch:
        patch.setattr(StoredJobState, "mark", slow)
        async with anyio.create_task_group() as group:
            group.start_soon(functools.partial(spec.run_workers, handle_signals=False))
            await claiming.wait()
            await anyio.sleep(0.05)
            await spec.aclose()
    assert runs == []
    found = await handler.get(sent.job_id)
    assert (found.status, found.attempts) == (JobStatus.retrying, 0)
    async with workers(spec):
        assert (await handler.wait(sent.job_id, timeout=20)).status is JobStatus.succeeded


async def test_a_cancelled_closing_is_over(spec: SpecStar) -> None:
    """The next calls work at once."""

    @spec.job
    async def handler(job: Job[Mail]) -> None: ...

    await handler.enqueue(Mail())
    with anyio.CancelScope() as scope:
        scope.cancel()
        await spec.aclose()
    await handler.enqueue(Mail())


async def test_workers_forget_what_finished_long_ago(spec: SpecStar) -> None:
    gate = anyio.Event()

    @spec.job(forget_after=0.1, max_retries=0)
    async def handler(job: Job[Mail]) -> None:
        if job.payload.number == 1:
            raise RuntimeError("as it was told")
        if job.payload.number == 2:
            await gate.wait()

    @spec.job
    async def other(job: Job[Mail]) -> None: ...

    jobs = await handler.enqueue_many([Mail(number=number) for number in range(3)])
    kept = await other.enqueue(Mail())
    async with workers(spec):
        with anyio.fail_after(20):
            while await handler.count() > 1:  # noqa: ASYNC110  the stores tell
                await anyio.sleep(0.05)
        assert (await handler.get(jobs[2].job_id)).status is JobStatus.running
        gate.set()
        with anyio.fail_after(20):
            while await handler.count():  # noqa: ASYNC110
                await anyio.sleep(0.05)
        assert (await other.wait(kept.job_id, timeout=20)).status is JobStatus.succeeded
    assert await other.count() == 1


async def test_a_wait_does_not_open_again_what_was_closed(spec: SpecStar) -> None:
    @spec.job
    async def handler(job: Job[Mail]) -> None: ...

    sent = await handler.enqueue(Mail())
    waiting = anyio.Event()

    async def wait() -> None:
        waiting.set()
        with pytest.raises(BackendUnavailable):
            await handler.wait(sent.job_id)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await waiting.wait()
            await anyio.sleep(0.1)
            await spec.aclose()
    assert spec._gate.connections.opened() == []


async def test_a_stop_before_the_start_is_kept(spec: SpecStar) -> None:
    @spec.job
    async def handler(job: Job[Mail]) -> None: ...

    stop = WorkerStop()
    stop.set()
    with anyio.fail_after(20):
        await spec.run_workers(stop=stop, handle_signals=False)
