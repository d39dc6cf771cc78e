"""Jobs from end to end: sending, running, retrying, looking, cancelling, and the dead letters."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import anyio
import pytest

from specstar import QB, DelayRetry, Job, JobStatus, NoRetry, SpecStar
from specstar.errors import (
    IdempotencyConflictError,
    InvalidInputError,
    JobNotFoundError,
    LimitExceededError,
    NotConfiguredError,
    WaitTimeoutError,
)
from specstar.message_queue import JobRecord, sender
from tests.conformance.jobs.harness import Mail, Receipt, dead_jobs, eventually, eventually_gives, workers


async def test_a_job_runs_and_its_result_is_kept(spec: SpecStar) -> None:
    @spec.job
    async def send(job: Job[Mail]) -> Receipt:
        assert job.status is JobStatus.running
        assert job.attempts == 1
        return Receipt(to=job.payload.to, number=job.payload.number)

    sent = await send.enqueue(Mail(to="ada", number=7))
    assert sent.status is JobStatus.pending
    assert sent.payload == Mail(to="ada", number=7)
    assert (await send.get(sent.job_id)).status is JobStatus.pending
    async with workers(spec):
        done = await send.wait(sent.job_id, timeout=20)
    assert done.status is JobStatus.succeeded
    assert done.result == Receipt(to="ada", number=7)
    assert done.attempts == 1
    assert done.error is None
    assert done.started_time is not None
    assert done.finished_time is not None
    assert done.created_time <= done.started_time <= done.finished_time
    assert done == await send.get(sent.job_id)


async def test_a_plain_function_runs_in_a_thread(spec: SpecStar) -> None:
    home = threading.get_ident()

    @spec.job
    def count(job: Job[Mail]) -> int:
        assert threading.get_ident() != home
        return job.payload.number + 1

    async with workers(spec):
        sent = await count.enqueue(Mail(number=41))
        assert (await count.wait(sent.job_id, timeout=20)).result == 42


async def test_a_failing_job_is_tried_again_then_parked(spec: SpecStar) -> None:
    runs = 0

    @spec.job(max_retries=2)
    async def fail(job: Job[Mail]) -> None:
        nonlocal runs
        runs += 1
        assert job.attempts == runs
        raise ValueError(f"boom {runs}")

    async with workers(spec):
        sent = await fail.enqueue(Mail(number=1))
        done = await fail.wait(sent.job_id, timeout=20)
        assert done.status is JobStatus.failed
        assert done.attempts == runs == 3
        assert done.error == "ValueError: boom 3"
        assert done.traceback is not None
        assert "raise ValueError" in done.traceback
        assert "message_queue" not in done.traceback  # it begins in the handler
        dead = await dead_jobs(fail)
    assert len(dead) == 1
    assert dead[0].job_id == sent.job_id
    assert dead[0].payload == Mail(number=1)
    assert dead[0].attempts == 3
    assert dead[0].reason == "ValueError: boom 3"


async def test_a_job_that_succeeds_at_the_second_try_keeps_no_error(spec: SpecStar) -> None:
    @spec.job
    async def shaky(job: Job[Mail]) -> int:
        if job.attempts == 1:
            raise RuntimeError("not yet")
        return job.attempts

    async with workers(spec):
        sent = await shaky.enqueue(Mail())
        done = await shaky.wait(sent.job_id, timeout=20)
    assert (done.status, done.result, done.attempts, done.error) == (JobStatus.succeeded, 2, 2, None)


async def test_no_retry_gives_up_at_once_and_delay_retry_waits(spec: SpecStar) -> None:
    moments: list[float] = []

    @spec.job(max_retries=5)
    async def give_up(job: Job[Mail]) -> None:
        raise NoRetry("a wrong address")

    @spec.job(max_retries=5)
    async def later(job: Job[Mail]) -> None:
        moments.append(time.monotonic())
        if len(moments) == 1:
            raise DelayRetry(timedelta(seconds=1))

    async with workers(spec):
        first = await give_up.enqueue(Mail())
        second = await later.enqueue(Mail())
        done = await give_up.wait(first.job_id, timeout=20)
        assert (done.status, done.attempts, done.error) == (JobStatus.failed, 1, "NoRetry: a wrong address")
        await eventually(lambda: len(moments) == 1)
        waiting = await later.get(second.job_id)
        assert waiting.status in {JobStatus.running, JobStatus.retrying}
        done = await later.wait(second.job_id, timeout=20)
    assert (done.status, done.attempts) == (JobStatus.succeeded, 2)
    assert 0.9 <= moments[1] - moments[0] < 5


async def test_retries_wait_longer_each_time(spec: SpecStar) -> None:
    moments: list[float] = []

    @spec.job(max_retries=2, retry_delay=0.3, retry_backoff=2)
    async def fail(job: Job[Mail]) -> None:
        moments.append(time.monotonic())
        raise ValueError("no")

    async with workers(spec):
        sent = await fail.enqueue(Mail())
        await fail.wait(sent.job_id, timeout=20)
    assert 0.28 <= moments[1] - moments[0] < 3
    assert 0.58 <= moments[2] - moments[1] < 4


async def test_a_delayed_job_waits_and_does_not_hold_back_others(spec: SpecStar) -> None:
    order: list[int] = []

    @spec.job
    async def note(job: Job[Mail]) -> None:
        order.append(job.payload.number)

    async with workers(spec):
        late = await note.enqueue(Mail(number=1), delay=timedelta(seconds=1))
        assert late.scheduled_time is not None
        assert timedelta(0) < late.scheduled_time - datetime.now(UTC) <= timedelta(seconds=1)
        soon = await note.enqueue(Mail(number=2))
        await note.wait(soon.job_id, timeout=20)
        await note.wait(late.job_id, timeout=timedelta(seconds=20))
        (many,) = await note.enqueue_many([Mail(number=3)], delay=timedelta(minutes=5))
        assert many.scheduled_time is not None
        assert timedelta(minutes=4) < many.scheduled_time - datetime.now(UTC) <= timedelta(minutes=5)
        with pytest.raises(WaitTimeoutError, match=r"after 0\.01 s"):
            await note.wait(many.job_id, timeout=timedelta(milliseconds=10))
    assert order == [2, 1]
    assert await note.forget_finished(older_than=timedelta(days=1)) == 0
    assert await note.forget_finished(older_than=timedelta(0)) == 2


async def test_jobs_of_one_partition_run_one_at_a_time(spec: SpecStar) -> None:
    at_work: set[str] = set()
    most = 0

    @spec.job
    async def step(job: Job[Mail]) -> None:
        nonlocal most
        key = job.partition_key
        assert key is not None
        assert key not in at_work
        at_work.add(key)
        most = max(most, len(at_work))
        await anyio.sleep(0.01)
        at_work.discard(key)

    sent = [await step.enqueue(Mail(number=number), partition_key=f"key-{number % 4}") for number in range(24)]
    async with workers(spec, concurrency=8):
        done = [await step.wait(job.job_id, timeout=30) for job in sent]
    assert all(job.status is JobStatus.succeeded and job.attempts == 1 for job in done), [job.error for job in done]
    assert most > 1


async def test_one_idempotency_key_is_one_job(spec: SpecStar) -> None:
    runs: list[int] = []

    @spec.job
    async def once(job: Job[Mail]) -> None:
        runs.append(job.payload.number)

    jobs: list[Job[Mail]] = []

    async def send() -> None:
        jobs.append(await once.enqueue(Mail(number=1), idempotency_key="order 1"))

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(send)
    assert len({job.job_id for job in jobs}) == 1
    with pytest.raises(IdempotencyConflictError) as conflict:
        await once.enqueue(Mail(number=2), idempotency_key="order 1")
    assert conflict.value.job_id == jobs[0].job_id
    other = await once.enqueue(Mail(number=3), idempotency_key="order 2")
    async with workers(spec):
        await once.wait(jobs[0].job_id, timeout=20)
        await once.wait(other.job_id, timeout=20)
        again = await once.enqueue(Mail(number=1), idempotency_key="order 1")
        assert again.job_id == jobs[0].job_id
        assert again.status is JobStatus.succeeded
        last = await once.enqueue(Mail(number=4))
        await once.wait(last.job_id, timeout=20)
    assert sorted(runs) == [1, 3, 4]


async def test_a_handler_over_time_is_cancelled_and_tried_again(spec: SpecStar) -> None:
    cancelled = 0

    @spec.job(timeout=0.2, max_retries=1)
    async def hang(job: Job[Mail]) -> None:
        nonlocal cancelled
        try:
            await anyio.sleep(60)
        finally:
            cancelled += 1

    async with workers(spec):
        sent = await hang.enqueue(Mail())
        done = await hang.wait(sent.job_id, timeout=20)
    assert (done.status, done.attempts, cancelled) == (JobStatus.failed, 2, 2)
    assert done.error is not None
    assert "timeout of 0.2 s" in done.error


async def test_a_plain_function_over_time_is_left_and_tried_again(spec: SpecStar) -> None:
    released = threading.Event()

    @spec.job(timeout=0.2, max_retries=1)
    def hang(job: Job[Mail]) -> str:
        if job.attempts == 1:
            released.wait(30)
            return "late"
        return "in time"

    async with workers(spec):
        sent = await hang.enqueue(Mail())
        done = await hang.wait(sent.job_id, timeout=20)
        released.set()
        await anyio.sleep(0.2)
        assert (await hang.get(sent.job_id)).result == "in time"
    assert (done.status, done.attempts, done.result) == (JobStatus.succeeded, 2, "in time")


async def test_a_waiting_job_can_be_cancelled(spec: SpecStar) -> None:
    runs: list[int] = []

    @spec.job
    async def note(job: Job[Mail]) -> None:
        runs.append(job.payload.number)

    one, two = await note.enqueue_many([Mail(number=1), Mail(number=2)])
    assert await note.cancel(one.job_id) is True
    assert await note.cancel(one.job_id) is False
    async with workers(spec):
        assert (await note.wait(two.job_id, timeout=20)).status is JobStatus.succeeded
        assert (await note.wait(one.job_id, timeout=20)).status is JobStatus.cancelled
        await eventually(lambda: runs == [2])
        assert await note.cancel(two.job_id) is False
    with pytest.raises(JobNotFoundError):
        await note.cancel("unknown")


async def test_a_cancelled_job_that_was_forgotten_never_runs(spec: SpecStar) -> None:
    """Its message waits still, and a message whose job nobody knows is one to run."""
    ran: list[int] = []

    @spec.job
    async def send(job: Job[Mail]) -> None:
        ran.append(job.payload.number)

    cancelled = await send.enqueue(Mail(number=1))
    assert await send.cancel(cancelled.job_id)
    assert await send.forget_finished(older_than=0) == 0
    other = await send.enqueue(Mail(number=2))
    async with workers(spec, concurrency=1):
        await send.wait(other.job_id, timeout=10)
    assert ran == [2]
    assert await send.forget_finished(older_than=0) == 2
    assert await send.count() == 0


async def test_purged_jobs_can_be_forgotten(spec: SpecStar) -> None:
    @spec.job
    async def send(job: Job[Mail]) -> None: ...

    job = await send.enqueue(Mail(number=1))
    await send.enqueue(Mail(number=2))
    assert await send.cancel(job.job_id)
    assert await send.purge() == 2
    assert await send.forget_finished(older_than=0) == 2
    assert await send.count() == 0


async def test_a_delay_that_a_subclass_computed_wrong_takes_no_slot(spec: SpecStar) -> None:
    class UntilReset(DelayRetry):
        def __init__(self, seconds: object) -> None:
            Exception.__init__(self, "until the limit is reset")
            self.seconds = seconds  # type: ignore[assignment]

    @spec.job(max_retries=1)
    async def limited(job: Job[Mail]) -> None:
        if job.attempts == 1:
            raise UntilReset([-0.5, "soon", float("nan"), None, timedelta(milliseconds=10)][job.payload.number])

    async with workers(spec, concurrency=2):
        jobs = await limited.enqueue_many([Mail(number=number) for number in range(5)])
        done = [await limited.wait(job.job_id, timeout=20) for job in jobs]
    assert [(job.status, job.attempts) for job in done] == [(JobStatus.succeeded, 2)] * 5


async def test_what_a_plain_function_raises_ends_its_attempt_alone(spec: SpecStar) -> None:
    @spec.job(max_retries=0)
    def pooled(job: Job[Mail]) -> None:
        if job.payload.number < 2:
            raise [KeyboardInterrupt, GeneratorExit][job.payload.number]

    async with workers(spec, concurrency=2):
        jobs = await pooled.enqueue_many([Mail(number=number) for number in range(3)])
        done = [await pooled.wait(job.job_id, timeout=20) for job in jobs]
    assert [job.status for job in done] == [JobStatus.failed, JobStatus.failed, JobStatus.succeeded]
    assert "KeyboardInterrupt" in (done[0].error or "")


async def test_a_generator_exit_of_an_async_handler_ends_its_attempt_alone(spec: SpecStar) -> None:
    @spec.job(max_retries=0)
    async def leaving(job: Job[Mail]) -> None:
        await anyio.sleep(0)
        if job.payload.number == 0:
            raise GeneratorExit

    async with workers(spec, concurrency=2):
        jobs = await leaving.enqueue_many([Mail(number=number) for number in range(3)])
        done = [await leaving.wait(job.job_id, timeout=20) for job in jobs]
    assert [job.status for job in done] == [JobStatus.failed, JobStatus.succeeded, JobStatus.succeeded]
    assert "GeneratorExit" in (done[0].error or "")


async def test_a_running_job_can_be_cancelled(spec: SpecStar) -> None:
    began: list[str] = []

    @spec.job
    async def long(job: Job[Mail]) -> None:
        began.append(job.job_id)  # maybe on another loop than the test's
        await anyio.sleep(60)

    async with workers(spec):
        sent = await long.enqueue(Mail())
        await eventually(lambda: began)
        assert (await long.get(sent.job_id)).status is JobStatus.running
        assert await long.cancel(sent.job_id) is True
        done = await long.wait(sent.job_id, timeout=20)
    assert done.status is JobStatus.cancelled
    assert done.attempts == 1
    assert await long.list_dead() == []


async def test_a_cancel_that_says_true_holds_at_whatever_moment(spec: SpecStar) -> None:
    """Also just when the handler has failed and the worker writes that: it would be tried again."""
    runs: dict[str, int] = {}

    @spec.job(max_retries=3, retry_delay=0.005)
    async def fail(job: Job[Mail]) -> None:
        runs[job.job_id] = runs.get(job.job_id, 0) + 1
        await anyio.sleep(0.005)
        raise ValueError("every time")

    said: dict[str, bool] = {}
    after: dict[str, int] = {}

    async def cancel_in_between(number: int) -> None:
        sent = await fail.enqueue(Mail(number=number))
        await anyio.sleep(number % 40 * 0.001)
        said[sent.job_id] = await fail.cancel(sent.job_id)
        await fail.wait(sent.job_id, timeout=20)
        after[sent.job_id] = runs.get(sent.job_id, 0)

    async with workers(spec, concurrency=100):
        async with anyio.create_task_group() as group:
            for number in range(120):
                group.start_soon(cancel_in_between, number)
        await anyio.sleep(0.1)
        ends = {job_id: (await fail.get(job_id)).status for job_id in said}
    assert {ends[job_id] for job_id in said if said[job_id]} == {JobStatus.cancelled}
    assert {ends[job_id] for job_id in said if not said[job_id]} <= {JobStatus.failed}
    assert {job_id: runs.get(job_id, 0) for job_id in said} == after


async def test_a_handler_that_ends_well_although_it_was_cancelled_is_cancelled(spec: SpecStar) -> None:
    began: list[str] = []

    @spec.job
    async def stubborn(job: Job[Mail]) -> str:
        began.append(job.job_id)
        try:
            await anyio.sleep(60)
        except BaseException:
            return "done all the same"
        return "done"

    async with workers(spec):
        sent = await stubborn.enqueue(Mail())
        await eventually(lambda: began)
        assert await stubborn.cancel(sent.job_id) is True
        done = await stubborn.wait(sent.job_id, timeout=20)
    assert done.status is JobStatus.cancelled
    assert done.result is None


async def test_dead_jobs_are_requeued_with_no_attempts_counted(spec: SpecStar) -> None:
    broken = True

    @spec.job(max_retries=0)
    async def mend(job: Job[Mail]) -> int:
        if broken:
            raise RuntimeError("broken")
        return job.attempts

    async with workers(spec):
        jobs = await mend.enqueue_many([Mail(number=number) for number in range(3)])
        for job in jobs:
            assert (await mend.wait(job.job_id, timeout=20)).status is JobStatus.failed
        await dead_jobs(mend, 3)
        broken = False
        assert await mend.requeue_dead([jobs[0].job_id]) == 1
        first = await mend.wait(jobs[0].job_id, timeout=20)
        assert (first.status, first.result) == (JobStatus.succeeded, 1)
        assert await mend.purge_dead([jobs[1].job_id]) == 1
        assert await mend.requeue_dead() == 1
        assert (await mend.wait(jobs[2].job_id, timeout=20)).status is JobStatus.succeeded
        assert (await mend.get(jobs[1].job_id)).status is JobStatus.failed
    assert await mend.list_dead() == []


async def test_a_payload_that_does_not_decode_goes_to_the_dead_letters(spec: SpecStar) -> None:
    async def old_handler(job: Job[dict[str, Any]]) -> None: ...

    async def new_handler(job: Job[Receipt]) -> str:
        return job.payload.to

    old = spec.add_job(dict, old_handler, name="change")
    sent = await old.enqueue({"to": 5})
    good = await old.enqueue({"to": "x", "number": 1})
    spec._jobs.queues.clear()
    new = spec.add_job(Receipt, new_handler, name="change")
    async with workers(spec):
        await new.wait(good.job_id, timeout=20)
        dead = await dead_jobs(new)
    assert dead[0].job_id == sent.job_id
    assert dead[0].payload is None
    assert "DecodeError" in dead[0].reason
    assert await new.count(status=JobStatus.failed) == 1


async def test_the_state_of_jobs_is_searched_and_counted(spec: SpecStar) -> None:
    @spec.job(max_retries=0)
    async def mixed(job: Job[Mail]) -> None:
        if job.payload.number % 2:
            raise ValueError("odd")

    @spec.job
    async def other(job: Job[Mail]) -> None: ...

    jobs = [await mixed.enqueue(Mail(number=number), partition_key=f"p{number}") for number in range(4)]
    await other.enqueue(Mail())
    assert await mixed.count() == 4
    assert await mixed.count(status=JobStatus.pending) == 4
    async with workers(spec):
        for job in jobs:
            await mixed.wait(job.job_id, timeout=20)
    failed = await mixed.search(status=JobStatus.failed, sort=["created_time"])
    assert [job.payload.number for job in failed] == [1, 3]
    assert [job.job_id for job in await mixed.search(QB["partition_key"] == "p2")] == [jobs[2].job_id]
    assert await mixed.count(QB["attempts"] == 1) == 4
    assert len(await mixed.search(limit=3)) == 3
    manager = spec.get_resource_manager(JobRecord)
    stored = await manager.get(jobs[1].job_id)
    assert stored.data.status is JobStatus.failed
    assert await manager.count(QB["queue"] == "mixed") == 4


async def test_finished_jobs_can_be_forgotten(spec: SpecStar) -> None:
    @spec.job
    async def note(job: Job[Mail]) -> None: ...

    async with workers(spec):
        done = await note.enqueue(Mail())
        await note.wait(done.job_id, timeout=20)
    waiting = await note.enqueue(Mail(), delay=60)
    assert await note.forget_finished(older_than=3600) == 0
    assert await note.forget_finished(older_than=0) == 1
    with pytest.raises(JobNotFoundError):
        await note.get(done.job_id)
    assert (await note.get(waiting.job_id)).status is JobStatus.pending


async def test_purge_cancels_what_waits(spec: SpecStar) -> None:
    @spec.job
    async def note(job: Job[Mail]) -> None: ...

    jobs = await note.enqueue_many([Mail(number=number) for number in range(3)])
    await note.enqueue(Mail(), delay=60)
    assert await note.depth() == 3
    assert await note.purge() == 4
    assert await note.depth() == 0
    assert (await note.get(jobs[0].job_id)).status is JobStatus.cancelled
    assert await note.count(status=JobStatus.cancelled) == 4


@pytest.mark.parametrize("seconds", [3, 600, 31_536_000])
async def test_purge_cancels_what_a_sender_with_a_clock_that_is_ahead_has_sent(
    spec: SpecStar, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(seconds=seconds)

    @spec.job
    async def note(job: Job[Mail]) -> None: ...

    monkeypatch.setattr(sender, "datetime", Ahead)
    job = await note.enqueue(Mail())
    monkeypatch.undo()
    assert await note.purge() == 1
    assert (await note.get(job.job_id)).status is JobStatus.cancelled


async def test_wait_gives_up_in_time_and_refuses_unknown_jobs(spec: SpecStar) -> None:
    @spec.job
    async def never(job: Job[Mail]) -> None: ...

    sent = await never.enqueue(Mail())
    began = time.monotonic()
    with pytest.raises(WaitTimeoutError):
        await never.wait(sent.job_id, timeout=0.3)
    assert 0.25 <= time.monotonic() - began < 3
    with pytest.raises(JobNotFoundError):
        await never.wait("unknown", timeout=1)


async def test_wrong_input_is_refused_before_anything_is_sent(spec: SpecStar) -> None:
    @spec.job(max_payload_bytes=100)
    async def note(job: Job[Mail]) -> None: ...

    wrong: Any = {"to": 5}
    with pytest.raises(InvalidInputError, match=r"\$\.to"):
        await note.enqueue(wrong)
    with pytest.raises(LimitExceededError):
        await note.enqueue(Mail(to="x" * 200))
    wrong_options: list[dict[str, Any]] = [
        {"delay": -1},
        {"delay": float("nan")},
        {"delay": timedelta(seconds=-1)},
        {"delay": timedelta(days=366)},
        {"priority": 10},
        {"partition_key": ""},
    ]
    for options in wrong_options:
        with pytest.raises(InvalidInputError):
            await note.enqueue(Mail(), **options)
    with pytest.raises(InvalidInputError):
        await note.enqueue(Mail(), idempotency_key="a\0b")
    assert await note.count() == 0
    assert await note.depth() == 0


async def test_a_job_without_state_runs_retries_and_dies(spec: SpecStar) -> None:
    runs: list[int] = []

    @spec.job(keep_state=False, max_retries=2)
    async def fail(job: Job[Mail]) -> None:
        runs.append(job.attempts)
        raise ValueError("boom")

    async with workers(spec):
        sent = await fail.enqueue(Mail(number=5))
        dead = await dead_jobs(fail)
        assert runs == [1, 2, 3]
        assert (dead[0].job_id, dead[0].attempts, dead[0].reason) == (sent.job_id, 3, "ValueError: boom")
        with pytest.raises(NotConfiguredError):
            await fail.get(sent.job_id)
        with pytest.raises(InvalidInputError):
            await fail.enqueue(Mail(), idempotency_key="k")
        assert await fail.requeue_dead() == 1
        await eventually(lambda: len(runs) == 6)


async def test_what_a_handler_does_wrong_fails_its_job_only(spec: SpecStar) -> None:
    @spec.job(max_retries=0)
    async def wrong(job: Job[Mail]) -> int:
        match job.payload.number:
            case 0:
                raise SystemExit(3)
            case 1:
                return "no number"  # type: ignore[return-value]
            case 2:
                raise ExceptionGroup("several", [ValueError("a"), KeyError("b")])
            case 3:
                raise anyio.get_cancelled_exc_class()
            case 4:
                raise ValueError("\0 and \ud800 and " + "x" * 100_000)
        return 1

    async with workers(spec, concurrency=2):
        jobs = await wrong.enqueue_many([Mail(number=number) for number in range(6)])
        done = [await wrong.wait(job.job_id, timeout=30) for job in jobs]
    assert [job.status for job in done] == [JobStatus.failed] * 5 + [JobStatus.succeeded]
    assert "SystemExit" in (done[0].error or "")
    assert "does not fit its type" in (done[1].error or "")
    assert len(done[4].error or "") <= 4096
    assert len(done[4].traceback or "") <= 16_384


async def test_tracebacks_begin_in_the_handler(spec: SpecStar, case: str) -> None:
    def broken() -> None:
        raise ValueError("inside")

    @spec.job(max_retries=0)
    def plain(job: Job[Mail]) -> None:
        broken()

    @spec.job(max_retries=0)
    async def refuses(job: Job[Mail]) -> None:
        try:
            broken()
        except ValueError as error:
            raise NoRetry("no") from error

    async with workers(spec):
        for queue in (plain, refuses):
            sent = await queue.enqueue(Mail())
            done = await queue.wait(sent.job_id, timeout=20)
            assert done.traceback is not None
            assert "broken()" in done.traceback
            assert "invoke.py" not in done.traceback
            assert "handler_threads.py" not in done.traceback


async def test_due_jobs_are_counted_as_ready_without_any_worker(spec: SpecStar, case: str) -> None:
    @spec.job
    async def note(job: Job[Mail]) -> None: ...

    await note.enqueue(Mail(), delay=0.3)
    await note.enqueue(Mail(), delay=60)
    assert await note.depth() == 0
    time.sleep(0.4)  # noqa: ASYNC251  the loop, too, hears of it only afterwards

    async def one_is_ready() -> bool:
        return await note.depth() == 1

    if case.startswith("simple"):
        assert await one_is_ready()
    await eventually_gives(one_is_ready)
