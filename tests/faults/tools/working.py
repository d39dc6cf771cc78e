"""A worker that is killed: it sends jobs, runs jobs, and says of each when it begins and ends.

Records, times by the clock that all processes share: `sending, number` and `sent, number, job_id`; `begin, job_id, attempt,
queue, partition, time` and `stop, job_id, attempt, time, ended`; `dying, time, job_id, status, after`, the last of a process that
kills itself, with the job whose state it was writing or, `after`, had written; `over`.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from typing import Any

import anyio
import msgspec

from specstar import Job, SpecStar
from specstar.message_queue import JobQueue, JobRecord
from tests.faults.tools.kill_points import POINTS, die, die_at

# Imported here, before the fork, and not by each process.
for _name in ("aiormq", "apsw", "asyncpg", "specstar.message_queue.run", "specstar.message_queue.worker", "trio"):
    __import__(_name)

__all__ = ["Duty", "Task", "declared", "work"]

PARTITIONS = 4


class Task(msgspec.Struct):
    """What a job does: takes its time, and dies, fails or hangs in its first attempts."""

    number: int
    seconds: float = 0
    kills: int = 0
    fails: int = 0
    hangs: float = 0


class Duty(msgspec.Struct, frozen=True):
    """What a worker process is to do. `numbers`: the jobs that it sends, from the first to before the second."""

    backend: dict[str, Any]
    seed: int
    numbers: tuple[int, int] = (0, 0)
    loop: str = "asyncio"
    concurrency: int = 8
    drain: float = 20
    kills: float = 0
    """The part of the jobs sent that kill their process, in the middle of the handler, in their first attempt."""
    fails: float = 0
    """The part of the jobs sent that fail in their first attempt."""
    die_at: str = ""
    die_after: int = 0


def declared(spec: SpecStar, told: Callable[..., None]) -> dict[str, JobQueue[Task]]:
    """The jobs, by name."""

    def begin(job: Job[Task]) -> None:
        told("begin", job.job_id, job.attempts, job.queue, job.partition_key, time.monotonic())
        if job.attempts <= job.payload.kills:
            # In the middle of it, with neighbours that are in the middle of theirs.
            time.sleep(job.payload.seconds / 2)
            told("dying", time.monotonic(), "", "", False)
            die()

    def end(job: Job[Task]) -> int:
        ended = job.attempts > job.payload.fails
        told("stop", job.job_id, job.attempts, time.monotonic(), ended)
        if not ended:
            raise ValueError("not this time")
        return job.payload.number

    async def handle(job: Job[Task]) -> int:
        begin(job)
        ended = False
        try:
            await anyio.sleep(job.payload.seconds + job.payload.hangs)
            ended = True
        finally:
            if not ended:
                told("stop", job.job_id, job.attempts, time.monotonic(), False)
        return end(job)

    def handle_in_thread(job: Job[Task]) -> int:
        begin(job)
        time.sleep(job.payload.seconds + job.payload.hangs)
        return end(job)

    return {
        "async": spec.add_job(Task, handle, name="async", max_retries=60, retry_delay=0),
        "plain": spec.add_job(Task, handle_in_thread, name="plain", max_retries=60, retry_delay=0),
        "poison": spec.add_job(Task, handle, name="poison", max_retries=2, retry_delay=0),
        "hangs": spec.add_job(Task, handle_in_thread, name="hangs", max_retries=1, retry_delay=0, timeout=0.5),
        "hangs async": spec.add_job(Task, handle, name="hangs async", max_retries=1, retry_delay=0, timeout=0.5),
    }


def task_of(number: int, duty: Duty) -> tuple[str, Task, str | None]:
    """Queue, payload and partition key of a job, which follow from the seed."""
    chance = random.Random(f"{duty.seed} {number}")
    task = Task(
        number=number,
        seconds=chance.uniform(0, 0.03),
        kills=int(chance.random() < duty.kills),
        fails=int(chance.random() < duty.fails) * chance.choice([1, 2]),
    )
    partition = f"key {chance.randrange(PARTITIONS)}" if chance.random() < 0.5 else None
    return chance.choice(["async", "plain"]), task, partition


def work(told: Callable[..., None], orders: bytes) -> None:
    """The program of the process: a `Duty` in msgpack. Ends by SIGTERM."""
    duty = msgspec.msgpack.decode(orders, type=Duty)
    if duty.die_at:

        def before(*arguments: Any) -> None:
            records = [item for item in arguments if isinstance(item, JobRecord)]
            what = (records[0].job_id, records[0].status) if records else ("", "")
            told("dying", time.monotonic(), *what, POINTS[duty.die_at].after)

        die_at(duty.die_at, duty.die_after, before=before)
    # A worker whose test has gone ends by itself.
    signal.alarm(120)
    anyio.run(_work, told, duty, backend=duty.loop)


async def _work(told: Callable[..., None], duty: Duty) -> None:
    spec = SpecStar()
    spec.configure(backend=duty.backend)
    queues = declared(spec, told)
    async with spec, anyio.create_task_group() as group:
        group.start_soon(_send, told, duty, queues)
        told("ready")
        await spec.run_workers(concurrency=duty.concurrency, drain_timeout=duty.drain)
        group.cancel_scope.cancel()
    told("over")


async def _send(told: Callable[..., None], duty: Duty, queues: dict[str, JobQueue[Task]]) -> None:
    """Eight at a time: an enqueue and the death of the process meet in every way."""
    numbers = iter(range(*duty.numbers))

    async def send() -> None:
        for number in numbers:
            name, task, partition = task_of(number, duty)
            told("sending", number)
            job = await queues[name].enqueue(task, partition_key=partition)
            told("sent", number, job.job_id)

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(send)
