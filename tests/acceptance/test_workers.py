"""Worker processes on a real broker: killed, stopped, and sharing partitions."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest

from specstar import JobStatus
from tests.conformance.jobs.harness import dead_jobs, eventually

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


class Note(NamedTuple):
    """One line of a worker."""

    word: str
    number: int
    attempts: int
    pid: int
    time: float


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def options() -> dict[str, Any]:
    """More options of the broker."""
    return {}


@pytest.fixture(params=["classic", "quorum"])
def environment(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    amqp_url: str,
    queue_prefix: str,
    options: dict[str, Any],
) -> dict[str, str]:
    """What the worker processes are told: state in a folder that all share, messages on the broker."""
    disk = {"type": "disk", "options": {"rootdir": str(tmp_path / "state")}}
    options = {
        **options,
        "amqp_url": amqp_url,
        "queue_prefix": queue_prefix,
        "retry_delay_seconds": 0,
        "queue_type": request.param,
    }
    backend = {"meta": disk, "resource": disk, "mq": {"type": "rabbitmq", "options": options}}
    told = {"SPECSTAR_TEST_BACKEND": json.dumps(backend), "SPECSTAR_TEST_FOLDER": str(tmp_path)}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    return {**os.environ, **told, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)])}


@pytest.fixture
async def program(environment: dict[str, str]) -> AsyncIterator[Any]:
    """The program of the workers, loaded here to send jobs and look at them."""
    found = importlib.util.spec_from_file_location("worker_program_here", HERE / "worker_program.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    async with module.spec:
        yield module
    del sys.modules[found.name]


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    """Start a worker process; all are killed after the test."""
    processes: list[subprocess.Popen[bytes]] = []

    def run(*arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "specstar.cli", "worker", "worker_program:spec", *arguments]
        processes.append(subprocess.Popen(command, env=environment, cwd=HERE))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.wait(30)


@pytest.fixture
def notes(tmp_path: Path) -> Callable[[], list[Note]]:
    """Read what the workers noted so far."""

    def read() -> list[Note]:
        path = tmp_path / "notes"
        lines = path.read_text().splitlines() if path.exists() else []
        parts = [line.split() for line in lines]
        return [Note(part[0], int(part[1]), int(part[2]), int(part[3]), float(part[4])) for part in parts]

    return read


async def ended(process: subprocess.Popen[bytes], within: float = 30.0) -> int:
    return await asyncio.to_thread(process.wait, within)


async def test_a_killed_worker_leaves_its_job_to_another(program: Any, start: Start, notes: Any) -> None:
    victim = start()
    sent = await program.work.enqueue(program.Work(number=1, seconds=3))
    await eventually(notes)
    victim.send_signal(signal.SIGKILL)
    await ended(victim)
    start()
    done = await program.work.wait(sent.job_id, timeout=40)
    assert (done.status, done.result, done.attempts) == (JobStatus.succeeded, 1, 2)
    assert [(note.word, note.attempts) for note in notes()] == [("begin", 1), ("begin", 2), ("end", 2)]


@pytest.mark.parametrize("environment", ["classic"], indirect=True)
@pytest.mark.parametrize("options", [{"amqp_heartbeat_seconds": 1}], ids=["short heartbeat"])
async def test_a_worker_that_stands_still_leaves_its_job_to_another_and_goes_on_later(
    program: Any, start: Start, notes: Any
) -> None:
    stopped = start()
    sent = await program.work.enqueue(program.Work(number=1, seconds=1))
    await eventually(notes)
    stopped.send_signal(signal.SIGSTOP)
    other = start()
    done = await program.work.wait(sent.job_id, timeout=40)
    assert (done.status, done.result, done.attempts) == (JobStatus.succeeded, 1, 2)
    other.send_signal(signal.SIGTERM)
    assert await ended(other) == 0
    # The run that comes late changes nothing, and its worker is of use again.
    stopped.send_signal(signal.SIGCONT)
    more = await program.work.enqueue(program.Work(number=2))
    assert (await program.work.wait(more.job_id, timeout=40)).result == 2
    assert {note.pid for note in notes() if note.number == 2} == {stopped.pid}
    stopped.send_signal(signal.SIGTERM)
    assert await ended(stopped) == 0
    after = await program.work.get(sent.job_id)
    assert (after.status, after.result, after.attempts) == (done.status, done.result, done.attempts)
    assert after.finished_time == done.finished_time


@pytest.mark.parametrize("job", ["work", "stateless"])
async def test_a_job_that_kills_its_workers_ends_in_the_dead_letters_with_its_count_right(
    program: Any, start: Start, notes: Any, job: str
) -> None:
    queue = getattr(program, job)
    sent = await queue.enqueue(program.Work(number=1, kills=100))
    for _ in range(3):
        assert await ended(start()) == -signal.SIGKILL
    survivor = start()
    dead = await dead_jobs(queue)
    assert (dead[0].job_id, dead[0].attempts) == (sent.job_id, 3)
    assert "WorkerLost" in dead[0].reason
    assert [(note.word, note.attempts) for note in notes()] == [("begin", 1), ("begin", 2), ("begin", 3)]
    if job == "work":
        found = await queue.get(sent.job_id)
        assert (found.status, found.attempts) == (JobStatus.failed, 3)
    fine = await program.work.enqueue(program.Work(number=2))
    assert (await program.work.wait(fine.job_id, timeout=30)).status is JobStatus.succeeded
    assert survivor.poll() is None


async def test_sigterm_drains_and_exits_with_0(program: Any, start: Start, notes: Any) -> None:
    worker = start("--concurrency", "1")
    jobs = await program.work.enqueue_many([program.Work(number=number, seconds=1) for number in range(2)])
    plain = await program.blocking.enqueue(program.Work(number=5, seconds=1))
    await eventually(notes)
    worker.send_signal(signal.SIGTERM)
    assert await ended(worker) == 0
    begun, finished = ({note.number for note in notes() if note.word == word} for word in ("begin", "end"))
    assert begun == finished
    start()
    for job in jobs:
        done = await program.work.wait(job.job_id, timeout=30)
        assert (done.status, done.attempts) == (JobStatus.succeeded, 1)
    assert (await program.blocking.wait(plain.job_id, timeout=30)).status is JobStatus.succeeded
    assert len([note for note in notes() if note.word == "begin"]) == 3


async def test_a_drain_has_a_limit_and_sends_back_what_outlasts_it(program: Any, start: Start, notes: Any) -> None:
    worker = start("--drain-timeout", "0.5")
    sent = await program.work.enqueue(program.Work(number=1, seconds=600))
    await eventually(notes)
    worker.send_signal(signal.SIGTERM)
    assert await ended(worker, 20) == 0
    found = await program.work.get(sent.job_id)
    assert (found.status, found.attempts) == (JobStatus.retrying, 0)
    assert await program.work.depth() == 1


async def test_workers_share_the_jobs_and_never_a_partition(program: Any, start: Start, notes: Any) -> None:
    sent = [
        await program.work.enqueue(program.Work(number=number % 3, seconds=0.05), partition_key=f"key {number % 3}")
        for number in range(18)
    ]
    for _ in range(2):
        start("--concurrency", "4")
    for job in sent:
        assert (await program.work.wait(job.job_id, timeout=60)).attempts == 1
    for number in range(3):
        words = [note.word for note in sorted(notes(), key=lambda note: note.time) if note.number == number]
        assert words == ["begin", "end"] * 6


async def test_a_job_is_cancelled_from_another_process(program: Any, start: Start, notes: Any) -> None:
    start()
    sent = await program.work.enqueue(program.Work(number=1, seconds=600))
    await eventually(notes)
    assert await program.work.cancel(sent.job_id)
    done = await program.work.wait(sent.job_id, timeout=30)
    assert done.status is JobStatus.cancelled
    await anyio.sleep(0.2)
    assert [note.word for note in notes()] == ["begin"]
