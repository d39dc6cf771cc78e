"""What bounds a worker: jobs that always kill it, a stop amid work, handlers that hang, and messages that come twice."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from specstar import JobStatus, SpecStar
from specstar.message_queue import JobQueue
from specstar.message_queue.sender import message_of
from tests.conformance.jobs.harness import eventually_gives
from tests.faults.ledger import Figures, fault_count
from tests.faults.tools.stores import disk_backend, postgres_backend
from tests.faults.tools.victims import Victim, victims
from tests.faults.tools.worked import Worked
from tests.faults.tools.working import Duty, Task, declared, work

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["simple", "rabbitmq"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def backend(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Messages in the process with state on disk, or on the broker with state in PostgreSQL."""
    if kind == "simple":
        return disk_backend(tmp_path) | {"mq": {"type": "simple", "options": {"retry_delay_seconds": 0}}}
    options = {
        "amqp_url": request.getfixturevalue("amqp_url"),
        "queue_prefix": request.getfixturevalue("queue_prefix"),
        "retry_delay_seconds": 0,
        "partition_shards": 4,
    }
    stored = postgres_backend(request.getfixturevalue("postgres_database"), "", tmp_path)
    return stored | {"mq": {"type": "rabbitmq", "options": options}}


class _Works:
    """Workers over one backend, and a program beside them that sends jobs and looks at them."""

    def __init__(self, backend: dict[str, Any], start: Callable[..., Victim]) -> None:
        self.seed = int(os.environ.get("SPECSTAR_FAULTS_SEED") or random.SystemRandom().getrandbits(32))
        self.random = random.Random(self.seed)
        self._backend = backend
        self._start = start

    def worker(self, **more: Any) -> Victim:
        duty = Duty(backend=self._backend, seed=self.seed, **more)
        return self._start(work, msgspec.msgpack.encode(duty))

    def program(self) -> tuple[SpecStar, dict[str, JobQueue[Task]]]:
        spec = SpecStar()
        spec.configure(backend=self._backend)
        return spec, declared(spec, lambda *_: None)

    async def send(self, queue: str, tasks: list[Task]) -> list[str]:
        """Send jobs; on simple the messages end with this program, and the next worker picks the jobs up by their state."""
        spec, queues = self.program()
        async with spec:
            return [job.job_id for job in await queues[queue].enqueue_many(tasks)]


@pytest.fixture
def works(backend: dict[str, Any]) -> Iterator[_Works]:
    with victims() as start:
        yield _Works(backend, start)


async def ended(victim: Victim) -> int:
    return await asyncio.to_thread(victim.end)


def begun(victim: Victim, job_id: str) -> list[int]:
    """The attempts at a job that a worker began."""
    return [record[2] for record in victim.records if record[0] == "begin" and record[1] == job_id]


async def test_a_job_that_kills_its_workers_ends_in_the_dead_letters(
    figures: Figures, works: _Works, kind: str
) -> None:
    figures.name = f"{kind}: jobs that always kill their worker"
    count = fault_count(3, share=0.1) // 3
    poison = await works.send("poison", [Task(number=number, kills=100) for number in range(count)])
    fine = await works.send("async", [Task(number=number) for number in range(10)])
    attempts: dict[str, list[int]] = {job_id: [] for job_id in poison}
    spec, queues = works.program()
    async with spec:
        for _ in range(3 * count):
            # One job at a time: what waits beside it must not be counted.
            victim = works.worker(concurrency=1)
            assert await ended(victim) == -signal.SIGKILL
            figures.faults += 1
            for job_id in poison:
                attempts[job_id] += begun(victim, job_id)
        if kind == "rabbitmq":
            # One more death, between the dead letter and the ack: the letter must not count twice.
            victim = works.worker(concurrency=1, die_at="dead letter sent, no ack")
            assert await ended(victim) == -signal.SIGKILL
            figures.faults += 1
        survivor = works.worker(concurrency=1)
        assert await asyncio.to_thread(survivor.heard_word, "ready"), survivor.end()
        with figures.stall():
            for job_id in poison:
                job = await queues["poison"].wait(job_id, timeout=40)
                assert (job.status, job.attempts) == (JobStatus.failed, 3)
                assert "WorkerLost" in (job.error or "")
        assert attempts == {job_id: [1, 2, 3] for job_id in poison}
        for job_id in fine:
            done = await queues["async"].wait(job_id, timeout=40)
            assert (done.status, done.attempts) == (JobStatus.succeeded, 1), done
            figures.acknowledged += 1
        if kind == "rabbitmq":
            dead = await queues["poison"].list_dead()
            assert sorted((letter.job_id, letter.attempts) for letter in dead) == [(name, 3) for name in sorted(poison)]
        survivor.signal(signal.SIGTERM)
        assert await ended(survivor) == 0


async def test_sigterm_drains(figures: Figures, works: _Works, kind: str) -> None:
    figures.name = f"{kind}: workers stopped with SIGTERM amid work"
    worked = Worked(figures, works.seed)
    sent = 0
    for _ in range(fault_count(4, share=0.25)):
        victim = works.worker(numbers=(sent, sent + 60), loop=works.random.choice(["asyncio", "trio"]))
        sent += 60
        assert await asyncio.to_thread(victim.heard_word, "begin"), victim.end()
        await asyncio.sleep(works.random.uniform(0, 0.25))
        victim.signal(signal.SIGTERM)
        with figures.stall():
            assert await ended(victim) == 0
        assert victim.records[-1] == ["over"]
        figures.faults += 1
        worked.take(victim.pid, victim.records)
    last = works.worker()
    spec, queues = works.program()
    async with spec:
        both = [queues["async"], queues["plain"]]

        async def all_done() -> bool:
            return not await worked.unfinished(both)

        await eventually_gives(all_done, within=60)
        last.signal(signal.SIGTERM)
        assert await ended(last) == 0
        worked.take(last.pid, last.records)
        await worked.check(both)
        # A stop is no loss: every job ran once, and counts as tried once.
        assert {len(runs) for runs in worked.runs.values()} == {1}
        for queue in both:
            assert {job.attempts for job in await queue.search(limit=None)} <= {1}


@pytest.mark.parametrize("queue", ["hangs", "hangs async"])
async def test_a_handler_that_hangs_is_timed_out(figures: Figures, works: _Works, kind: str, queue: str) -> None:
    figures.name = f"{kind}: handlers that hang"
    count = fault_count(2, share=0.05)
    hung = await works.send(queue, [Task(number=number, hangs=600) for number in range(count)])
    # Threads that hang cannot be ended: room for all of them, and for the others.
    victim = works.worker(concurrency=2 * count + 4, numbers=(0, 20), drain=3)
    spec, queues = works.program()
    async with spec:
        with figures.stall():
            for job_id in hung:
                job = await queues[queue].wait(job_id, timeout=60)
                assert (job.status, job.attempts) == (JobStatus.failed, 2)
                assert "TimeoutError" in (job.error or "")
        figures.faults += 2 * count
        await asyncio.to_thread(victim.heard, lambda said: sum(record[0] == "sent" for record in said) == 20)
        for record in [record for record in victim.records if record[0] == "sent"]:
            jobs = [await name.search(limit=None) for name in (queues["async"], queues["plain"])]
            job_id = record[2]
            name = next(job.queue for found in jobs for job in found if job.job_id == job_id)
            assert (await queues[name].wait(job_id, timeout=30)).status is JobStatus.succeeded
            figures.acknowledged += 1
    assert all(begun(victim, job_id) == [1, 2] for job_id in hung)
    victim.signal(signal.SIGTERM)
    with figures.stall():
        # It does not wait for threads that hang.
        assert await asyncio.to_thread(victim.end, 30) == 0


async def test_a_delivery_of_a_finished_job_does_not_run_it_again(figures: Figures, works: _Works, kind: str) -> None:
    figures.name = f"{kind}: killed between state and ack, and messages sent twice"
    runs: Counter[str] = Counter()
    spec, queues = works.program()
    jobs: list[str] = []
    async with spec:
        for number in range(fault_count(3, share=0.1)):
            jobs += await works.send("async", [Task(number=4 * number + place) for place in range(4)])
            # One at a time: the death of a worker interrupts no other job.
            victim = works.worker(concurrency=1, die_at="state there, no ack", die_after=works.random.randrange(3))
            assert await ended(victim) == -signal.SIGKILL
            figures.faults += 1
            runs.update(record[1] for record in victim.records if record[0] == "begin")
        last = works.worker(concurrency=1)
        for job_id in jobs:
            done = await queues["async"].wait(job_id, timeout=60)
            assert (done.status, done.attempts) == (JobStatus.succeeded, 1)
        if kind == "rabbitmq":
            # Copies of the first message, as by a sender whose answer was lost.
            for job_id in jobs:
                record = (await queues["async"]._kept.read(job_id)).record
                await queues["async"]._messages().publish(message_of(record))
                figures.faults += 1
            # It comes after them all.
            (marker,) = await works.send("async", [Task(number=0)])
            await queues["async"].wait(marker, timeout=30)
        last.signal(signal.SIGTERM)
        assert await ended(last) == 0
        runs.update(record[1] for record in last.records if record[0] == "begin")
    figures.acknowledged += len(jobs)
    figures.duplicated += sum(runs[job_id] - 1 for job_id in jobs)
    assert {job_id: runs[job_id] for job_id in jobs} == dict.fromkeys(jobs, 1)
