"""A worker loses its connection to the broker in the last attempt of a job: another one must not give the job up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from specstar import Job, JobStatus, SpecStar
from specstar.message_queue import JobQueue, claiming
from specstar.message_queue.owner import process_token
from tests.conformance.jobs.harness import Mail, dead_jobs, eventually, eventually_gives, workers
from tests.faults.tools.tcp_proxy import TcpProxy

SIGN_OF_LIFE_SECONDS = 2.5


class Program:
    """One worker program with the queue and the state that it shares with others."""

    def __init__(self, url: str, prefix: str, folder: Path, *, operation_timeout_seconds: float = 2) -> None:
        disk = {"type": "disk", "options": {"rootdir": str(folder)}}
        options = {
            "amqp_url": url,
            "queue_prefix": prefix,
            "operation_timeout_seconds": operation_timeout_seconds,
        }
        self.spec = SpecStar()
        self.spec.configure(backend={"meta": disk, "resource": disk, "mq": {"type": "rabbitmq", "options": options}})
        self.runs = 0
        self.seconds = 0.0
        self.fails = False
        self.queue: JobQueue[Mail] = self.spec.add_job(Mail, self._handle, name="mails", max_retries=0)

    async def _handle(self, job: Job[Mail]) -> str:
        self.runs += 1
        await anyio.sleep(self.seconds)
        if self.fails:
            raise ValueError("not today")
        return "whole"


@pytest.fixture
async def proxy(amqp_url: str) -> AsyncIterator[TcpProxy]:
    async with TcpProxy.before(amqp_url) as proxy:
        yield proxy


@pytest.fixture
async def far(proxy: TcpProxy, amqp_url: str, queue_prefix: str, tmp_path: Path) -> AsyncIterator[Program]:
    """Reaches the broker through the proxy."""
    program = Program(proxy.url_of(amqp_url), queue_prefix, tmp_path)
    async with program.spec:
        yield program


@pytest.fixture
async def near(amqp_url: str, queue_prefix: str, tmp_path: Path) -> AsyncIterator[Program]:
    program = Program(amqp_url, queue_prefix, tmp_path)
    async with program.spec:
        yield program


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("comes_back", [False, True])
async def test_it_is_left_to_the_worker_that_runs_it(
    far: Program, near: Program, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch, comes_back: bool, fails: bool
) -> None:
    """Whether that worker reaches the broker again or not, the job ends as its only run does."""
    monkeypatch.setattr(claiming, "_SIGN_OF_LIFE_SECONDS", SIGN_OF_LIFE_SECONDS)
    monkeypatch.setattr(claiming, "_LEFT_ALONE_SECONDS", 0.5)
    far.seconds, far.fails = 4.5, fails
    sent = await far.queue.enqueue(Mail())
    async with workers(far.spec, drain_timeout=0.1):
        await eventually(lambda: far.runs == 1)
        async with workers(near.spec):
            await proxy.shut()
            await proxy.cut()
            if comes_back:
                await asyncio.sleep(SIGN_OF_LIFE_SECONDS + 0.5)
                await proxy.listen()
            done = await near.queue.wait(sent.job_id, timeout=30)
            assert done.status is (JobStatus.failed if fails else JobStatus.succeeded)
            assert done.result == (None if fails else "whole")
            assert "WorkerLost" not in (done.error or "")
            assert (far.runs, near.runs) == (1, 0)
            if fails:
                assert [dead.job_id for dead in await dead_jobs(near.queue)] == [sent.job_id]
            await eventually_gives(lambda: _nothing_waits(near))
            assert len(await near.queue.list_dead()) == fails


async def _nothing_waits(program: Program) -> bool:
    return not await program.queue.depth()


async def _begin_elsewhere(program: Program, job_id: str, worker: str) -> None:
    """Take the message and begin the run, as the worker of that name would, and go without a word."""
    async with program.queue._messages().consume(prefetch=1) as consumer:
        delivery = await asyncio.wait_for(consumer.receive(), 10)
        state = program.queue._state()
        assert state is not None
        snapshot = await program.queue._kept.read(job_id)
        begun = msgspec.structs.replace(snapshot.record, status=JobStatus.running, attempts=1, worker=worker)
        assert delivery.message.id == job_id
        await state.mark(snapshot, begun)


async def test_a_worker_that_gives_no_sign_of_life_is_dead(near: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """One on another host, of which nobody can tell otherwise."""
    monkeypatch.setattr(claiming, "_SIGN_OF_LIFE_SECONDS", 0.5)
    host = process_token().partition(":")[0]
    sent = await near.queue.enqueue(Mail())
    await _begin_elsewhere(near, sent.job_id, process_token().replace(host, "elsewhere.example.org") + "/1.1")
    async with workers(near.spec):
        done = await near.queue.wait(sent.job_id, timeout=20)
        assert (done.status, near.runs) == (JobStatus.failed, 0)
        assert "WorkerLost" in (done.error or "")
        assert [dead.job_id for dead in await dead_jobs(near.queue)] == [sent.job_id]


async def test_a_run_that_was_taken_for_dead_counts_when_it_succeeds(far: Program, near: Program) -> None:
    far.seconds = 1.0
    sent = await far.queue.enqueue(Mail())
    async with workers(far.spec):
        await eventually(lambda: far.runs == 1)
        state = near.queue._state()
        assert state is not None
        snapshot = await near.queue._kept.read(sent.job_id)
        given_up = msgspec.structs.replace(
            snapshot.record, status=JobStatus.failed, error="WorkerLost: no sign of life"
        )
        await state.settle(snapshot, given_up)

        async def result() -> Any:
            return (await near.queue.get(sent.job_id)).result

        assert await eventually_gives(result) == "whole"
    done = await near.queue.get(sent.job_id)
    assert (done.status, done.error, done.attempts) == (JobStatus.succeeded, None, 1)


async def test_a_broker_that_does_not_answer_does_not_hold_up_the_drain(
    proxy: TcpProxy, amqp_url: str, queue_prefix: str, tmp_path: Path
) -> None:
    patient = Program(proxy.url_of(amqp_url), queue_prefix, tmp_path, operation_timeout_seconds=600)
    async with patient.spec:
        sent = await patient.queue.enqueue(Mail())
        with anyio.fail_after(60):  # a tenth of what one operation would wait
            async with workers(patient.spec, drain_timeout=0.2) as stop:
                await patient.queue.wait(sent.job_id, timeout=20)
                proxy.hold()
                stop.set()
        proxy.heal()
