"""Programs that use specstar, run as processes of their own, over real backends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[3]
Backend = dict[str, Any]

PRELUDE = """\
import json, os, sys, threading, time
from msgspec import Struct

BACKEND = json.loads(os.environ["BACKEND"])

class User(Struct):
    name: str
    age: int = 0

class Email(Struct):
    to: str

def say(*words):
    print(*words, flush=True)

def open_files():
    return len(os.listdir("/proc/self/fd"))

"""


class Done(NamedTuple):
    """How a program ended, and after how long."""

    code: int
    out: str
    err: str
    seconds: float


class Running:
    """A program that runs: its lines, signals, and its end."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        self._folder = folder
        self._began = time.monotonic()

    def line(self) -> str:
        """The next line that it says; empty once it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def signal(self, number: int) -> None:
        """Send a signal; from here on its `seconds` count."""
        self._began = time.monotonic()
        self.process.send_signal(number)

    def end(self, timeout: float = 60.0) -> Done:
        """Wait for its end; killed after `timeout` seconds, with a failure."""
        try:
            out, _ = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, _ = self.process.communicate()
            pytest.fail(f"the program hangs; it said:\n{out}\n{self._errors()}")
        return Done(self.process.returncode, out, self._errors(), time.monotonic() - self._began)

    def _errors(self) -> str:
        return (self._folder / "stderr").read_text()


class Programs:
    """Starts programs in a folder, with the prelude above before their text and the backend in the environment."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._running: list[Running] = []

    def start(
        self, text: str, backend: Backend, *arguments: str, flags: tuple[str, ...] = (), environment: Any = None
    ) -> Running:
        """Start one. `flags` are those of Python."""
        self._count += 1
        folder = self._folder / f"program{self._count}"
        folder.mkdir()
        script = folder / "program.py"
        script.write_text(PRELUDE + text)
        return self.start_command([sys.executable, *flags, str(script), *arguments], backend, folder, environment)

    def start_command(self, command: list[str], backend: Backend, folder: Path, environment: Any = None) -> Running:
        """Start any program in this way."""
        variables = {
            **os.environ,
            "PYTHONPATH": f"{folder}:{ROOT}",
            "BACKEND": json.dumps(backend),
            **(environment or {}),
        }
        errors: IO[str]
        with (folder / "stderr").open("w") as errors:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env=variables, cwd=folder
            )
        running = Running(process, folder)
        self._running.append(running)
        return running

    def run(self, text: str, backend: Backend, *arguments: str, timeout: float = 60.0, **options: Any) -> Done:
        """Run one to its end."""
        return self.start(text, backend, *arguments, **options).end(timeout)

    def close(self) -> None:
        """End what a failed test left running."""
        for running in self._running:
            if running.process.poll() is None:
                running.process.kill()
            running.process.communicate()


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    """Starts programs."""
    programs = Programs(tmp_path)
    yield programs
    programs.close()


def _roles(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    simple = {"type": "simple"}
    if kind == "memory":
        memory = {"type": "memory"}
        return {"meta": memory, "resource": memory, "blob": memory, "mq": simple}
    disk = {"type": "disk", "options": {"rootdir": str(tmp_path / "data")}}
    if kind == "disk":
        return {"meta": disk, "resource": disk, "blob": disk, "mq": simple}
    postgres = {"type": "postgres", "options": {"dsn": request.getfixturevalue("postgres_database")}}
    if kind == "postgres":
        return {"meta": postgres, "resource": postgres, "blob": disk, "mq": simple}
    rabbitmq = {
        "type": "rabbitmq",
        "options": {
            "amqp_url": request.getfixturevalue("amqp_url"),
            "queue_prefix": request.getfixturevalue("queue_prefix"),
        },
    }
    if kind == "jobs":
        return {"meta": postgres, "resource": postgres, "blob": disk, "mq": rabbitmq}
    server = request.getfixturevalue("s3")
    s3 = {
        "type": "s3",
        "options": {
            "bucket": request.getfixturevalue("s3_bucket"),
            "endpoint_url": server.endpoint_url,
            "access_key_id": server.access_key_id,
            "secret_access_key": server.secret_access_key,
        },
    }
    if kind == "s3":
        return {"meta": s3, "resource": s3, "blob": s3, "mq": rabbitmq}
    assert kind == "servers", kind
    return {"meta": postgres, "resource": s3, "blob": s3, "mq": rabbitmq}


@pytest.fixture(params=["disk", "postgres"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """The configuration under test, by its short name: memory, disk, postgres, jobs (with RabbitMQ), s3 and servers
    (RabbitMQ too)."""
    return _roles(request.param, request, tmp_path)


@pytest.fixture
def rabbit(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """PostgreSQL, disk and RabbitMQ."""
    return _roles("jobs", request, tmp_path)
