"""The servers that the other tests stand on: they answer, break as told, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import services
from services import s3_client
from services.guard import descendants

ROOT = Path(__file__).resolve().parents[2]
SERVERS = [services.postgres, services.rabbitmq, services.s3]


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def wait_gone(pids: list[int], directory: Path, timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and (alive(pids) or directory.exists()):
        time.sleep(0.05)
    assert alive(pids) == []
    assert not directory.exists()


@pytest.mark.parametrize("kind", SERVERS, ids=lambda kind: kind.name)
def test_a_server_is_killed_started_again_on_its_port_and_leaves_nothing(kind: type[services.Server]) -> None:
    before = set(descendants(os.getpid()))
    with kind() as server:
        assert server.ready()
        server.kill()
        assert not server.running
        assert not server.ready()
        server.start()
        assert server.ready()
        ours = [pid for pid in descendants(os.getpid()) if pid not in before]
        assert ours
    wait_gone(ours, server.directory, timeout=0.0)


def test_postgres_keeps_what_was_committed_through_a_kill_and_a_restart() -> None:
    with services.postgres() as server:
        server.sql("CREATE TABLE kept AS SELECT 41 AS number")
        server.kill()
        server.start()
        server.sql("UPDATE kept SET number = 42")
        server.restart()
        assert server.sql("SELECT number FROM kept") == "42"
        assert server.sql("SHOW fsync") == "on"
        assert server.sql("SHOW max_connections") == "100"


def test_postgres_refuses_a_wrong_password() -> None:
    with services.postgres() as server:
        right = server.endpoint
        server.endpoint = services.PostgresEndpoint(dsn=right.dsn.replace(right.password, "wrong"))
        with pytest.raises(services.ServiceError, match="password authentication failed"):
            server.sql("SELECT 1")


def test_pgbouncer_serves_the_database_behind_it() -> None:
    with services.postgres() as server, services.pgbouncer(server.endpoint) as bouncer:
        assert bouncer.ready()
        assert bouncer.endpoint.port != server.endpoint.port
        assert bouncer.endpoint.password == server.endpoint.password


def test_a_paused_server_does_not_answer_until_it_resumes() -> None:
    with services.s3() as server:
        server.pause()
        assert not server.ready()
        server.resume()
        # Not at the first asking: that gives up after two seconds, which a busy machine may take to let the server run.
        server.wait_ready()


def test_objects_survive_the_gateway() -> None:
    with services.s3() as server:
        s3_client.request(server.endpoint, "PUT", f"/{server.endpoint.bucket}/kept")
        server.kill()
        server.start()
        assert s3_client.list_keys(server.endpoint, server.endpoint.bucket) == ["kept"]
        s3_client.delete_bucket(server.endpoint, server.endpoint.bucket)
        with pytest.raises(services.ServiceError, match="404"):
            s3_client.list_keys(server.endpoint, server.endpoint.bucket)


def test_rabbitmq_settings_reach_the_broker() -> None:
    with services.rabbitmq(internals={"consumer_timeout": 1234}) as server:
        assert server.ctl("eval", "application:get_env(rabbit, consumer_timeout).") == "{ok,1234}"


@pytest.mark.parametrize("kind", ["postgres", "rabbitmq", "s3"])
def test_a_server_ends_with_the_process_that_started_it_even_by_sigkill(kind: str) -> None:
    script = (
        "import sys, time, services\n"
        f"server = services.{kind}().open()\n"
        "print(server.directory, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        directory = Path(owner.stdout.readline().strip())
        pids = descendants(owner.pid)
        assert len(pids) > 1
        owner.kill()
    wait_gone(pids, directory)


def test_a_server_that_cannot_start_says_why_and_leaves_nothing() -> None:
    server = services.postgres(settings={"max_connections": "none"})
    with pytest.raises(services.ServiceError, match=r'invalid value for parameter "max_connections"'):
        server.open()
    assert not server.directory.exists()


def test_run_gives_the_command_its_servers_and_its_exit_status() -> None:
    command = [sys.executable, "-m", "services", "run", "postgres", "--"]
    code = "import os, sys; print(os.environ['POSTGRES_DSN']); sys.exit(7)"
    done = subprocess.run([*command, sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    assert done.stdout.startswith("postgresql://")


def test_run_starts_only_what_a_configuration_names(tmp_path: Path) -> None:
    configuration = tmp_path / "plain.json"
    configuration.write_text('{"connections": {}}')
    command = [sys.executable, "-m", "services", "run", "--for", str(configuration), "--"]
    code = "import os; print('POSTGRES_DSN' in os.environ)"
    done = subprocess.run([*command, sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_up_stops_its_servers_on_sigterm() -> None:
    command = [sys.executable, "-m", "services", "up", "postgres"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as up:
        assert up.stdout is not None
        assert up.stdout.readline().startswith("POSTGRES_DSN=")
        pids = descendants(up.pid)
        up.send_signal(signal.SIGTERM)
        assert up.wait(20) == 0
    assert alive(pids) == []
