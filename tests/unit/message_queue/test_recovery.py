"""Jobs of `simple` over a change of event loop, a close and a new process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
import trio
import trio.testing

from specstar import Job, JobStatus, SpecStar
from specstar.errors import DecodeError
from specstar.message_queue import JobQueue, WorkerStop
from specstar.message_queue.job import JobRecord
from specstar.message_queue.owner import is_gone, living_workers, process_token, run_is_gone
from specstar.message_queue.recovery import Leases
from specstar.message_queue.sender import message_of
from specstar.message_queue.state import Snapshot
from specstar.message_queue.stored_state import StoredJobState
from specstar.roles import MetaWrite, ResourceMeta
from specstar.roles.storage import StorageWrite
from tests.conformance.jobs.harness import Mail, eventually, eventually_gives, workers


def on_disk(folder: Path) -> dict[str, Any]:
    disk = {"type": "disk", "options": {"rootdir": str(folder)}}
    return {"meta": disk, "resource": disk, "mq": {"type": "simple", "options": {"retry_delay_seconds": 0}}}


async def test_unfinished_jobs_of_a_closed_spec_are_picked_up_and_finished_ones_are_not(tmp_path: Path) -> None:
    runs: list[int] = []

    async def note(job: Job[Mail]) -> int:
        runs.append(job.payload.number)
        if job.payload.number == 2 and job.attempts == 1:
            raise ValueError("not yet")
        return job.payload.number

    def fresh() -> SpecStar:
        spec = SpecStar()
        spec.configure(backend=on_disk(tmp_path))
        return spec

    async with fresh() as before:
        queue = before.add_job(Mail, note, retry_delay=30)
        done = await queue.enqueue(Mail(number=1))
        retried = await queue.enqueue(Mail(number=2))
        async with workers(before):
            await queue.wait(done.job_id, timeout=20)

            async def is_retried() -> bool:
                return (await queue.get(retried.job_id)).status is JobStatus.retrying

            await eventually_gives(is_retried)
        waiting = await queue.enqueue(Mail(number=3), partition_key="p")
        delayed = await queue.enqueue(Mail(number=4), delay=0.5)
        cancelled = await queue.enqueue(Mail(number=5))
        await queue.cancel(cancelled.job_id)
        state = queue._state()
        assert state is not None
        # It runs in a process that is gone.
        lost = await queue.enqueue(Mail(number=6))
        snapshot = await queue._kept.read(lost.job_id)
        token = process_token().replace(f":{os.getpid()}:", ":999999999:")
        await state.mark(
            snapshot,
            msgspec.structs.replace(snapshot.record, status=JobStatus.running, attempts=1, worker=f"{token}/1"),
        )
    assert sorted(runs) == [1, 2]
    async with fresh() as after:
        queue = after.add_job(Mail, note, retry_delay=30)
        async with workers(after):
            for job in (waiting, delayed, lost):
                assert (await queue.wait(job.job_id, timeout=20)).status is JobStatus.succeeded
        assert (await queue.get(lost.job_id)).attempts == 2
        assert (await queue.get(retried.job_id)).status is JobStatus.retrying
        assert (await queue.get(cancelled.job_id)).status is JobStatus.cancelled
    assert sorted(runs) == [1, 2, 3, 4, 6]


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_job_in_hand_goes_back_when_its_spec_is_closed(tmp_path: Path, kind: str) -> None:
    """While the process lives: the next workers, here or elsewhere, run it."""
    released, runs = threading.Event(), 0

    async def wait_long(job: Job[Mail]) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            await anyio.sleep(60)

    def block(job: Job[Mail]) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            released.wait(30)

    def fresh() -> tuple[SpecStar, JobQueue[Mail]]:
        spec = SpecStar()
        spec.configure(backend=on_disk(tmp_path))
        handler: Any = wait_long if kind == "async" else block
        return spec, spec.add_job(Mail, handler, name="long")

    before, queue = fresh()
    async with anyio.create_task_group() as group:
        group.start_soon(partial(before.run_workers, handle_signals=False))
        sent = await queue.enqueue(Mail())
        await eventually(lambda: runs == 1)
        await before.aclose()
    assert not living_workers
    after, queue = fresh()
    async with after:
        left = await queue.get(sent.job_id)
        assert (left.status, left.attempts) == (JobStatus.retrying, 0)
        async with workers(after):
            done = await queue.wait(sent.job_id, timeout=20)
    released.set()
    assert (done.status, done.attempts, runs) == (JobStatus.succeeded, 1, 2)


async def test_a_run_of_a_worker_of_this_process_that_ended_without_a_word_is_taken_over(tmp_path: Path) -> None:
    spec = SpecStar()
    spec.configure(backend=on_disk(tmp_path))

    async def note(job: Job[Mail]) -> None: ...

    queue = spec.add_job(Mail, note)
    async with spec:
        sent = await queue.enqueue(Mail())

        async def begin() -> None:
            state = queue._state()
            assert state is not None
            snapshot = await queue._kept.read(sent.job_id)
            worker = f"{process_token()}/0.1"
            begun = msgspec.structs.replace(snapshot.record, status=JobStatus.running, attempts=1, worker=worker)
            await state.mark(snapshot, begun)
            await queue._messages().purge()

        await spec._gate.run(begin)
        async with workers(spec):
            done = await queue.wait(sent.job_id, timeout=20)
    assert (done.status, done.attempts) == (JobStatus.succeeded, 2)


def seen(job_id: str, version: int, updated_time: datetime) -> Snapshot:
    row = ResourceMeta(
        resource_id=job_id, current_revision_id="r", created_time=updated_time, updated_time=updated_time
    )
    record = JobRecord(job_id=job_id, queue="q", payload=msgspec.Raw(b"{}"), created_time=updated_time, revision_id="r")
    return Snapshot(record, version, row)


def test_a_run_elsewhere_is_over_when_it_was_not_renewed_while_we_watched() -> None:
    """Whatever its host, or ours, says of the time."""
    now = datetime.now(UTC)

    async def watch() -> list[list[bool]]:
        leases, looks = Leases(), []
        for version in (1, 1, 2, 2, 2):
            leases.look_again()
            looks.append(
                [
                    leases.over(seen("silent", 1, now - timedelta(seconds=100))),
                    leases.over(seen("renewed", version, now)),
                    leases.over(seen("by a clock that is behind", version, now - timedelta(days=365))),
                ]
            )
            await anyio.sleep(31)
        return looks

    looks = trio.run(watch, clock=trio.testing.MockClock(autojump_threshold=0))
    assert [silent for silent, _, _ in looks] == [False, False, True, True, True]
    assert [renewed for _, renewed, _ in looks] == [False, False, False, False, True]
    assert [behind for _, _, behind in looks] == [False, False, False, False, True]


def test_a_long_time_between_two_looks_is_no_watching() -> None:
    """What kept us from looking, a store that did not answer or a host that stood still, may have kept others from renewing."""

    async def watch() -> list[bool]:
        leases, looks = Leases(), []
        for version, pause in ((1, 30), (1, 3600), (2, 3600), (2, 30), (2, 30)):
            leases.look_again()
            looks.append(leases.over(seen("renewed once all goes on", version, datetime.now(UTC))))
            await anyio.sleep(pause)
        return looks

    assert trio.run(watch, clock=trio.testing.MockClock(autojump_threshold=0)) == [False, False, False, False, True]


async def test_a_record_that_cannot_be_read_stands_in_nobodys_way(tmp_path: Path) -> None:
    """A newer program may have written it."""
    runs: list[int] = []

    def fresh() -> tuple[SpecStar, JobQueue[Mail]]:
        spec = SpecStar()
        spec.configure(backend=on_disk(tmp_path))

        async def note(job: Job[Mail]) -> None:
            runs.append(job.payload.number)

        return spec, spec.add_job(Mail, note, name="mails")

    before, queue = fresh()
    async with before:
        sent = [await queue.enqueue(Mail(number=number)) for number in range(3)]

        async def change() -> None:
            state = queue._state()
            assert isinstance(state, StoredJobState)
            row = (await queue._kept.read(sent[0].job_id)).row
            assert row is not None
            data = {**row.indexed_data, "status": "postponed"}
            changed = msgspec.structs.replace(row, version=row.version + 1, indexed_data=data)
            await state._storage.write(StorageWrite(MetaWrite(changed, None, row.version), None))

        await before._gate.run(change)
    after, queue = fresh()
    async with after:
        assert {job.job_id for job in await queue.search()} == {job.job_id for job in sent[1:]}
        with pytest.raises(DecodeError, match=sent[0].job_id):
            await queue.get(sent[0].job_id)
        async with workers(after):
            for job in sent[1:]:
                assert (await queue.wait(job.job_id, timeout=20)).status is JobStatus.succeeded
        assert await queue.forget_finished(older_than=0) == 2
    assert sorted(runs) == [1, 2]


async def test_a_finished_job_is_not_forgotten_while_a_copy_of_its_message_waits() -> None:
    spec = SpecStar()
    spec.configure(backend={"meta": {"type": "memory"}, "resource": {"type": "memory"}, "mq": {"type": "simple"}})
    runs = 0

    async def note(job: Job[Mail]) -> None:
        nonlocal runs
        runs += 1

    queue = spec.add_job(Mail, note)
    async with spec:
        sent = await queue.enqueue(Mail(), idempotency_key="once")
        copy = msgspec.structs.replace(message_of((await queue._kept.read(sent.job_id)).record), copy="another")
        await queue._messages().publish(copy, delay=0.3)
        async with workers(spec):
            await queue.wait(sent.job_id, timeout=20)
            assert await queue.forget_finished(older_than=0) == 0
            await anyio.sleep(0.6)
            assert await queue.forget_finished(older_than=0) == 1
    assert runs == 1


async def test_a_job_that_kills_its_process_is_not_run_for_ever(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import os, sys
        import anyio
        from specstar import Job, SpecStar
        spec = SpecStar()
        disk = {"type": "disk", "options": {"rootdir": sys.argv[1]}}
        spec.configure(backend={"meta": disk, "resource": disk, "mq": {"type": "simple"}})

        async def poison(job: Job[int]) -> None:
            with open(os.path.join(sys.argv[1], "runs"), "a") as runs:
                runs.write(f"{job.attempts}\\n")
            os._exit(9)

        queue = spec.add_job(int, poison, max_retries=2)

        async def main():
            async with spec:
                if sys.argv[2] == "send":
                    await queue.enqueue(5, idempotency_key="the one")
                    return
                async with anyio.create_task_group() as group:
                    group.start_soon(spec.run_workers)
                    (job,) = await queue.search()
                    job = await queue.wait(job.job_id, timeout=20)
                    print(job.status, job.attempts, job.error)
                    group.cancel_scope.cancel()

        anyio.run(main)
        """
    )

    def run(what: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, str(tmp_path), what]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def all_runs() -> list[subprocess.CompletedProcess[str]]:
        return [run("send"), run("work"), run("work"), run("work"), run("work")]

    sent, *killed, last = await anyio.to_thread.run_sync(all_runs)
    assert sent.returncode == 0, sent.stderr
    assert [process.returncode for process in killed] == [9, 9, 9], [process.stderr for process in killed]
    assert last.returncode == 0, last.stderr
    assert last.stdout.startswith("failed 3 WorkerLost")
    assert (tmp_path / "runs").read_text().split() == ["1", "2", "3"]


def test_messages_outlive_their_event_loop() -> None:
    spec = SpecStar()
    spec.configure(backend={"meta": {"type": "memory"}, "resource": {"type": "memory"}, "mq": {"type": "simple"}})
    runs: list[int] = []

    @spec.job
    async def note(job: Job[Mail]) -> None:
        runs.append(job.payload.number)

    async def send() -> list[str]:
        jobs = await note.enqueue_many([Mail(number=1), Mail(number=2)])
        late = await note.enqueue(Mail(number=3), delay=0.2)
        # In the hands of a consumer when the loop ends.
        context = note._messages().consume(prefetch=1)
        consumer = await context.__aenter__()
        await consumer.receive()
        kept.append(context)
        return [job.job_id for job in (*jobs, late)]

    async def work(ids: list[str]) -> list[JobStatus]:
        async with workers(spec):
            found = [(await note.wait(job_id, timeout=20)).status for job_id in ids]
        await spec.aclose()
        return found

    kept: list[Any] = []
    ids = asyncio.run(send())
    assert asyncio.run(work(ids)) == [JobStatus.succeeded] * 3
    assert sorted(runs) == [1, 2, 3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_leaves_its_parents_messages_alone() -> None:
    spec = SpecStar()
    spec.configure(backend={"meta": {"type": "memory"}, "resource": {"type": "memory"}, "mq": {"type": "simple"}})

    @spec.job
    async def note(job: Job[Mail]) -> None: ...

    async def send() -> None:
        await note.enqueue(Mail())

    async def depth() -> int:
        found = await note.depth()
        await spec.aclose()
        return found

    asyncio.run(send())
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if asyncio.run(depth()) == 0 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert asyncio.run(depth()) == 1


def test_a_process_is_told_from_others_with_its_id() -> None:
    token = process_token()
    assert is_gone(token) is False
    host, pid, started = token.rsplit(":", 2)
    assert is_gone(f"{host}:999999999:{started}") is True
    assert is_gone(f"another-host:{pid}:{started}") is None
    assert is_gone(f"{host}0:{pid}:1-of-another-container") is None
    assert is_gone(f"{host}:{pid}:1-another0") is True
    assert run_is_gone(f"another-host:{pid}:{started}/1.1") is None
    assert run_is_gone(f"{host}:999999999:{started}/1.1") is True
    assert run_is_gone(f"{token}/no-such-worker.1") is True


def test_a_killed_process_is_gone_before_its_parent_has_noticed() -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, process_token().encode())
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        token = os.read(reading, 1000).decode()
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert is_gone(token) is True
    finally:
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)


async def test_a_stop_from_another_thread_ends_the_workers(tmp_path: Path) -> None:
    spec = SpecStar()
    spec.configure(backend=on_disk(tmp_path))
    stop = WorkerStop()

    @spec.job
    async def note(job: Job[Mail]) -> None: ...

    async with spec:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: spec.run_workers(stop=stop))
                sent = await note.enqueue(Mail())
                await note.wait(sent.job_id, timeout=10)
                await anyio.to_thread.run_sync(stop.set)
