"""How handlers are called: threads that stay stuck, blocking callers, and stores that fail in between."""

from __future__ import annotations

import functools
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from specstar import Job, JobStatus, SpecStar
from specstar.errors import BackendUnavailable, OutcomeUnknownError
from specstar.message_queue import JobQueue, run_workers_blocking
from specstar.message_queue.claiming import Claims
from specstar.message_queue.handler_threads import HandlerThreads
from specstar.message_queue.state import Snapshot
from specstar.message_queue.stored_state import StoredJobState
from specstar.sync import SpecStar as BlockingSpecStar
from tests.conformance.jobs.harness import Mail, eventually, workers


async def test_threads_that_are_left_count_until_they_end() -> None:
    threads = HandlerThreads(2)
    go_on = threading.Event()
    job: Any = None
    for _ in range(2):
        with anyio.move_on_after(0.05):
            await threads.call(lambda job: go_on.wait(30), job)
    assert threads.stuck == 2
    go_on.set()
    await eventually(lambda: threads.stuck == 0)
    assert await threads.call(lambda job: 5, job) == 5
    threads.close()


@pytest.mark.parametrize("gone", [False, True])
def test_a_thread_that_outlives_its_loop_ends_with_its_handler(gone: bool) -> None:
    """`gone`: the loop is closed before the handler is over."""
    go_on = threading.Event()
    seen: list[threading.Thread] = []
    job: Any = None

    def handler(job: Any) -> None:
        seen.append(threading.current_thread())
        go_on.wait(30)

    async def main() -> None:
        threads = HandlerThreads(1)
        with anyio.move_on_after(0.05):
            await threads.call(handler, job)
        threads.close()
        if not gone:
            go_on.set()
            seen[0].join(10)

    anyio.run(main)
    go_on.set()
    seen[0].join(10)
    assert not seen[0].is_alive()


async def test_threads_are_used_again_and_end_with_their_worker() -> None:
    threads = HandlerThreads(2)
    job: Any = None
    names = {await threads.call(lambda job: threading.current_thread(), job) for _ in range(5)}
    assert len(names) == 1
    with pytest.raises(RuntimeError, match="StopIteration"):
        await threads.call(lambda job: next(iter(())), job)
    assert await threads.call(lambda job: anyio.run(anyio.sleep, 0), job) is None
    threads.close()
    await eventually(lambda: not any(thread.is_alive() for thread in names))


def test_a_stuck_thread_does_not_outlast_the_drain() -> None:
    program = textwrap.dedent(
        """
        import time
        import anyio
        from specstar import Job, SpecStar

        spec = SpecStar()
        spec.configure(backend={"meta": {"type": "memory"}, "resource": {"type": "memory"}, "mq": {"type": "simple"}})

        @spec.job
        def stuck(job: Job[int]) -> None:
            print("began", flush=True)
            time.sleep(600)

        async def main():
            async with spec:
                await stuck.enqueue(1)
                await spec.run_workers(drain_timeout=0.2)

        anyio.run(main)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        process.terminate()
        process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0


async def test_stuck_threads_stop_the_intake_of_plain_jobs_and_of_no_others(spec: SpecStar) -> None:
    go_on = threading.Event()
    runs: list[int] = []

    @spec.job(timeout=0.1, max_retries=0)
    def plain(job: Job[Mail]) -> None:
        runs.append(job.payload.number)
        go_on.wait(30)

    @spec.job
    async def other(job: Job[Mail]) -> None: ...

    try:
        async with workers(spec, concurrency=2):
            jobs = await plain.enqueue_many([Mail(number=number) for number in range(6)])
            await plain.wait(jobs[0].job_id, timeout=20)
            await plain.wait(jobs[1].job_id, timeout=20)
            await anyio.sleep(0.3)
            # Those that were waiting for a job already get one more each, at most.
            assert len(runs) <= 4
            assert (await plain.get(jobs[5].job_id)).status is JobStatus.pending
            fine = await other.enqueue(Mail())
            assert (await other.wait(fine.job_id, timeout=20)).status is JobStatus.succeeded
            go_on.set()
            for job in jobs:
                await plain.wait(job.job_id, timeout=20)
    finally:
        go_on.set()
    assert sorted(runs) == list(range(6))


def test_a_blocking_caller_runs_workers_until_told_to_stop() -> None:
    program = textwrap.dedent(
        """
        import sys, time
        from specstar.sync import SpecStar
        from specstar import Job
        from specstar.message_queue import JobQueue, run_workers_blocking
        spec = SpecStar()
        spec.configure(backend={"meta": {"type": "memory"}, "resource": {"type": "memory"}, "mq": {"type": "simple"}})

        def slow(job: Job[int]) -> None:
            print("began", flush=True)
            time.sleep(0.5)
            print("ended", flush=True)

        queue = spec._inner.add_job(int, slow)
        spec._gate.call(lambda: queue.enqueue(1))
        run_workers_blocking([queue], drain_timeout=10)
        print("drained", flush=True)
        spec.close()
        """
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "began\n"
            os.kill(process.pid, number)
            out, _ = process.communicate(timeout=30)
        finally:
            process.kill()
        assert (out, process.returncode) == ("ended\ndrained\n", 0)


def test_workers_of_a_blocking_caller_end_when_their_spec_is_closed() -> None:
    spec = BlockingSpecStar()
    memory = {"type": "memory"}
    spec.configure(backend={"meta": memory, "resource": memory, "mq": {"type": "simple"}})
    began, released, ended = threading.Event(), threading.Event(), threading.Event()
    errors: list[BaseException] = []

    @spec.job
    def block(job: Job[Mail]) -> None:
        began.set()
        released.wait(30)

    def run() -> None:
        try:
            spec.run_workers()
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    block.enqueue(Mail())
    threading.Thread(target=run, daemon=True).start()
    assert began.wait(20)
    spec.close()
    assert ended.wait(20)
    released.set()
    assert errors == []


def test_workers_of_a_blocking_caller_need_jobs() -> None:
    from specstar.errors import UsageError

    with pytest.raises(UsageError):
        run_workers_blocking([])


class _Shaky(StoredJobState):
    """State whose every other write fails, before or after it was made."""

    calls = 0

    def _trouble(self) -> int:
        _Shaky.calls += 1
        return _Shaky.calls % 4

    async def mark(self, snapshot: Snapshot, record: Any) -> Snapshot:
        return await self._write(super().mark, snapshot, record)

    async def settle(self, snapshot: Snapshot, record: Any) -> Snapshot:
        return await self._write(super().settle, snapshot, record)

    async def _write(self, write: Any, snapshot: Snapshot, record: Any) -> Snapshot:
        trouble = self._trouble()
        if trouble == 0:
            raise BackendUnavailable("no answer", role="meta")
        after: Snapshot = await write(snapshot, record)
        if trouble == 2:
            raise OutcomeUnknownError("the answer was lost", role="meta")
        return after


async def test_each_job_runs_once_over_a_shaky_store(spec: SpecStar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specstar.message_queue.backend.StoredJobState", _Shaky)
    runs: list[int] = []

    @spec.job(max_retries=0)
    async def note(job: Job[Mail]) -> int:
        runs.append(job.payload.number)
        return job.payload.number

    note._backend._state_is_durable = lambda: True
    jobs = await note.enqueue_many([Mail(number=number) for number in range(12)])
    async with workers(spec, concurrency=3):
        done = [await note.wait(job.job_id, timeout=60) for job in jobs]
    assert [job.result for job in done] == list(range(12))
    assert sorted(runs) == list(range(12))


async def test_a_sender_that_fails_leaves_no_record(spec: SpecStar, monkeypatch: pytest.MonkeyPatch) -> None:
    @spec.job
    async def note(job: Job[Mail]) -> None: ...

    await note.depth()
    queue = note._messages()

    async def broken(*args: Any, **options: Any) -> None:
        raise BackendUnavailable("the broker is down", role="mq")

    monkeypatch.setattr(queue, "publish", broken)
    monkeypatch.setattr(queue, "publish_many", broken)
    with pytest.raises(BackendUnavailable):
        await note.enqueue(Mail(), idempotency_key="k")
    with pytest.raises(BackendUnavailable):
        await note.enqueue_many([Mail(), Mail()])
    assert await note.count() == 0
    monkeypatch.undo()
    sent = await note.enqueue(Mail(), idempotency_key="k")
    async with workers(spec):
        assert (await note.wait(sent.job_id, timeout=20)).status is JobStatus.succeeded


async def test_a_cancelled_sender_leaves_no_record_or_a_job(spec: SpecStar) -> None:
    @spec.job
    async def note(job: Job[Mail]) -> None: ...

    for number in range(20):
        with anyio.move_on_after(0.0001 * number):
            await note.enqueue(Mail(number=number))
    waiting = await note.count()
    assert waiting == await note.depth()


async def test_a_crash_of_the_sender_between_state_and_message_is_mended_by_the_next_with_its_key(
    spec: SpecStar,
) -> None:
    @spec.job
    async def note(job: Job[Mail]) -> int:
        return job.payload.number

    state = note._state()
    assert state is not None
    record, _ = note._sender.record(Mail(number=4), None, "k", None, None)
    await state.create(record)
    again = await note.enqueue(Mail(number=4), idempotency_key="k")
    assert again.job_id == record.job_id
    async with workers(spec):
        assert (await note.wait(again.job_id, timeout=20)).result == 4


async def test_a_full_queue_refuses_more(anyio_backend: Any) -> None:
    spec = SpecStar()
    memory = {"type": "memory"}
    spec.configure(backend={"meta": memory, "resource": memory, "mq": {"type": "simple", "options": {"max_depth": 2}}})

    @spec.job
    async def note(job: Job[Mail]) -> None: ...

    async with spec:
        await note.enqueue_many([Mail(), Mail()])
        with pytest.raises(BackendUnavailable, match="max_depth"):
            await note.enqueue(Mail())
        assert await note.count() == 2


def lose_the_connection(queue: JobQueue[Any]) -> None:
    """What a broken connection does to a consumer: it ends, and what was in its hands goes back."""
    state: Any = queue._messages()
    for hand in list(state._state.hands):
        hand.leave()


@pytest.mark.parametrize("keep_state", [True, False])
async def test_a_job_whose_delivery_is_lost_goes_on_and_is_not_begun_again(spec: SpecStar, keep_state: bool) -> None:
    runs: list[int] = []
    go_on = anyio.Event()

    @spec.job(keep_state=keep_state, max_retries=1)
    async def note(job: Job[Mail]) -> None:
        runs.append(job.attempts)
        if len(runs) == 1:
            await go_on.wait()

    async with workers(spec, concurrency=2):
        await note.enqueue(Mail())
        await eventually(lambda: runs)
        first = next(iter(note._lanes[0].attempts.values()))
        lost = first.delivery
        lose_the_connection(note)
        await eventually(lambda: first.delivery is not lost)
        go_on.set()
        await eventually(lambda: not note._lanes[0].attempts)
        assert await note.depth() == 0
        if keep_state:
            assert runs == [1]
            assert await note.count(status=JobStatus.succeeded) == 1
    assert len(runs) <= 2
    assert await note.list_dead() == []


async def test_a_partition_job_whose_delivery_is_lost_ends_before_it_begins_again(
    spec: SpecStar, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if another process got the message.
    monkeypatch.setattr(Claims, "_adopted", lambda claims, delivery: False)
    events: list[str] = []

    @spec.job
    async def note(job: Job[Mail]) -> None:
        events.append("begin")
        try:
            await anyio.sleep(30 if len(events) == 1 else 0)
        finally:
            events.append("end")

    async with workers(spec):
        sent = await note.enqueue(Mail(), partition_key="p")
        await eventually(lambda: events)
        lose_the_connection(note)
        done = await note.wait(sent.job_id, timeout=20)
    assert (done.status, done.attempts) == (JobStatus.succeeded, 1)
    assert events == ["begin", "end", "begin", "end"]


def through_a_plain_decorator(handler: Callable[[Job[Mail]], Any]) -> Callable[[Job[Mail]], Any]:
    """Of another library: it knows nothing of coroutines, and returns them."""

    @functools.wraps(handler)
    def wrapper(job: Job[Mail]) -> Any:
        return handler(job)

    return wrapper


@pytest.mark.parametrize("elsewhere", [False, True], ids=["home", "another loop"])
async def test_what_a_plain_handler_returns_is_awaited(elsewhere: bool) -> None:
    """On the loop of the caller, as an async handler is, with its timeout."""
    spec = SpecStar()
    spec.configure(backend={role: {"type": "memory"} for role in ("meta", "resource")} | {"mq": {"type": "simple"}})
    threads: set[int] = set()

    @spec.job(max_retries=0, timeout=0.5)
    @through_a_plain_decorator
    async def wrapped(job: Job[Mail]) -> int:
        await anyio.sleep(60 if job.payload.number == 2 else 0)
        threads.add(threading.get_ident())
        if job.payload.number == 1:
            raise ValueError("no")
        return 7

    async def work() -> None:
        async with workers(spec):
            jobs = await wrapped.enqueue_many([Mail(number=number) for number in range(3)])
            done = [await wrapped.wait(job.job_id, timeout=20) for job in jobs]
        assert [job.status for job in done] == [JobStatus.succeeded, JobStatus.failed, JobStatus.failed]
        assert done[0].result == 7
        assert "ValueError: no" in (done[1].error or "")
        assert "TimeoutError" in (done[2].error or "")
        assert threads == {threading.get_ident()}

    async with spec:
        if elsewhere:
            await wrapped.count()  # the spec is opened here
            await anyio.to_thread.run_sync(anyio.run, work)
        else:
            await work()


async def test_a_coroutine_that_comes_too_late_is_closed(recwarn: pytest.WarningsRecorder) -> None:
    threads, go_on, made = HandlerThreads(1), threading.Event(), threading.Event()

    async def never() -> None: ...

    def handler(job: Any) -> Any:
        go_on.wait(30)
        made.set()
        return never()

    job: Any = None
    with anyio.move_on_after(0.05):
        await threads.call(handler, job)
    go_on.set()
    await anyio.to_thread.run_sync(made.wait)
    await eventually(lambda: threads.stuck == 0)
    threads.close()
    gc.collect()
    assert not [str(warning.message) for warning in recwarn if "never awaited" in str(warning.message)]
