"""`specstar jobs`, `dead` and `worker` on a program of plain functions, as its operator runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from specstar import Job, JobStatus, SpecStar
from specstar.cli import jobs as jobs_command
from specstar.message_queue import JobQueue
from tests.conformance.jobs.harness import Mail

PROGRAM = """
import os
from pathlib import Path

from msgspec import Struct

from specstar.message_queue import Job
from specstar.sync import SpecStar

spec = SpecStar()


class Mail(Struct):
    number: int


@spec.job(max_retries=0)
def mails(job: Job[Mail]) -> None:
    print(f"ran {job.payload.number}\\n", end="", flush=True)
    if not Path("mended").exists():
        raise RuntimeError("no paper")


@spec.job(keep_state=False)
def pings(job: Job[Mail]) -> None: ...


state = {"type": "disk", "options": {"rootdir": "data"}}
mq = {"type": "rabbitmq", "options": {"amqp_url": os.environ["AMQP_URL"], "queue_prefix": os.environ["PREFIX"]}}
spec.configure(backend={"meta": state, "resource": state, "blob": state, "mq": mq})

if __name__ == "__main__":
    with spec:
        for number in range(3):
            mails.enqueue(Mail(number))
        pings.enqueue(Mail(0))
"""


class Program:
    """The program in its folder."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.folder = folder
        self.environ = {**os.environ, **environ, "PYTHONPATH": str(Path(__file__).parents[3])}
        (folder / "app.py").write_text(PROGRAM)

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            check=False,
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    def command(self, *arguments: str) -> Any:
        return json.loads(self.run("-m", "specstar", *arguments, "--json"))

    def work(self, runs: int) -> None:
        """Run a worker until so many runs have begun; SIGTERM drains it."""
        command = [sys.executable, "-m", "specstar", "worker", "app:spec"]
        with subprocess.Popen(command, cwd=self.folder, env=self.environ, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            try:
                for _ in range(runs):
                    assert worker.stdout.readline().startswith("ran")
                worker.send_signal(signal.SIGTERM)
                assert worker.wait(30) == 0
            finally:
                worker.kill()


@pytest.fixture
def program(tmp_path: Path, amqp_url: str, queue_prefix: str) -> Program:
    return Program(tmp_path, AMQP_URL=amqp_url, PREFIX=queue_prefix)


def test_an_operator_sees_jobs_and_mends_dead_ones(program: Program) -> None:
    program.run("app.py")
    found = program.command("jobs", "app:spec")["jobs"]
    assert (found["mails"]["ready"], found["mails"]["pending"], found["mails"]["failed"]) == (3, 3, 0)
    assert found["pings"] == {"ready": 1}

    program.work(3)
    found = program.command("jobs", "app:spec")["jobs"]["mails"]
    assert (found["ready"], found["failed"]) == (0, 3)
    letters = program.command("dead", "app:spec", "mails")["dead"]
    assert {(one["reason"], one["attempts"]) for one in letters} == {("RuntimeError: no paper", 1)}
    assert sorted(one["payload"]["number"] for one in letters) == [0, 1, 2]
    lines = program.run("-m", "specstar", "dead", "app:spec", "mails", "--limit", "1").splitlines()
    assert [line.split()[0] for line in lines] == ["job", letters[0]["job_id"]]

    one = program.command("job", "app:spec", "mails", letters[0]["job_id"])["job"]
    assert (one["status"], one["attempts"], one["error"]) == ("failed", 1, "RuntimeError: no paper")
    assert one["payload"] == letters[0]["payload"]
    text = program.run("-m", "specstar", "job", "app:spec", "mails", letters[0]["job_id"])
    assert 'raise RuntimeError("no paper")' in text
    assert ["status", "failed"] in [line.split() for line in text.splitlines()]

    (program.folder / "mended").touch()
    assert program.command("dead", "app:spec", "mails", letters[0]["job_id"], "--purge") == {"purged": 1}
    assert program.command("dead", "app:spec", "mails", "--all", "--requeue") == {"requeued": 2}
    assert program.run("-m", "specstar", "worker", "app:spec", "--burst").count("ran") == 2
    found = program.command("jobs", "app:spec")["jobs"]["mails"]
    assert (found["ready"], found["failed"], found["succeeded"]) == (0, 1, 2)
    assert program.command("dead", "app:spec", "mails") == {"dead": []}


async def test_all_counts_are_asked_at_once(
    tmp_path: Path, amqp_url: str, queue_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = {"type": "disk", "options": {"rootdir": str(tmp_path)}}
    rabbitmq = {"type": "rabbitmq", "options": {"amqp_url": amqp_url, "queue_prefix": queue_prefix}}
    spec = SpecStar()
    spec.configure(backend={"meta": disk, "resource": disk, "mq": rabbitmq})
    for name in ("one", "two"):
        spec.add_job(Mail, _handle, name=name)
    asked, all_asked = 0, anyio.Event()
    count = JobQueue.count

    async def counted(self: JobQueue[Mail], **options: Any) -> int:
        nonlocal asked
        asked += 1
        if asked == 2 * len(JobStatus):
            all_asked.set()
        with anyio.fail_after(20):
            await all_asked.wait()
        return await count(self, **options)

    monkeypatch.setattr(JobQueue, "count", counted)
    row = {"ready": 0} | dict.fromkeys([status.value for status in JobStatus], 0)
    found = await jobs_command._counts(spec)
    assert found == {"one": row, "two": row}
    assert list(found["one"]) == list(row)


async def _handle(job: Job[Mail]) -> None: ...
