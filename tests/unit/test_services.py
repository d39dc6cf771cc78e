"""What the services module does before any server runs."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from services import (
    MissingProgramError,
    PostgresEndpoint,
    S3Endpoint,
    ServiceError,
    ServiceHost,
    given,
    ports,
    programs,
)
from services.__main__ import main, named_by


def test_only_servers_that_a_configuration_names_and_the_environment_lacks_are_started() -> None:
    configuration = '{"dsn": "${POSTGRES_DSN}", "url": "$AMQP_URL", "endpoint_url": "${S3_ENDPOINT_URL:-}"}'
    assert named_by(configuration, {}) == ["postgres", "rabbitmq", "s3"]
    assert named_by(configuration, {"AMQP_URL": "amqp://elsewhere"}) == ["postgres", "s3"]
    assert named_by('{"dsn": "postgresql://fixed"}', {}) == []


def test_servers_of_the_users_own_are_taken_from_the_environment() -> None:
    environment = {
        "SPECSTAR_TEST_POSTGRES_DSN": "postgresql://ann:word@db:6000/app",
        "SPECSTAR_TEST_S3_ENDPOINT_URL": "http://s3:9000",
        "SPECSTAR_TEST_S3_ACCESS_KEY_ID": "key",
        "SPECSTAR_TEST_S3_SECRET_ACCESS_KEY": "word",
    }
    found = given.given_endpoints(environment)
    assert set(found) == {"postgres", "s3"}
    assert "word" not in repr(found)
    postgres = found["postgres"]
    assert isinstance(postgres, PostgresEndpoint)
    assert (postgres.host, postgres.port, postgres.user, postgres.password) == ("db", 6000, "ann", "word")
    assert postgres.database("other") == "postgresql://ann:word@db:6000/other"
    with ServiceHost(found) as host:
        assert host.endpoint("s3") == S3Endpoint(
            endpoint_url="http://s3:9000", access_key_id="key", secret_access_key="word"
        )


def test_an_s3_server_without_its_keys_is_refused() -> None:
    with pytest.raises(ServiceError, match="SPECSTAR_TEST_S3_ACCESS_KEY_ID"):
        given.given_endpoints({"SPECSTAR_TEST_S3_ENDPOINT_URL": "http://s3:9000"})


def test_a_missing_program_is_named_with_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(programs.PROGRAMS, "teapot", {"teapotd-of-nobody": "teapot-server"})
    with pytest.raises(MissingProgramError, match=r"teapotd-of-nobody is not installed.*apt-get .* teapot-server\."):
        programs.need("teapotd-of-nobody")


def test_only_root_installs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(programs.PROGRAMS, "teapot", {"teapotd-of-nobody": "teapot-server"})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MissingProgramError, match="make services"):
        programs.install(["teapot"])


def test_the_newest_postgresql_is_taken(tmp_path: Path) -> None:
    directories = [tmp_path / version / "bin" for version in ("9.6", "15", "17")]
    assert max(directories, key=programs.version_of).parent.name == "17"


def test_ports_are_free_distinct_and_outside_the_range_of_outgoing_connections() -> None:
    chosen = [ports.free_port() for _ in range(20)]
    assert len(set(chosen)) == 20
    with socket.socket() as outgoing:
        outgoing.bind((ports.LOOPBACK, 0))
        assert outgoing.getsockname()[1] not in chosen
    assert all(port < ports.first_ephemeral_port() or port >= 49_152 for port in chosen)


def test_run_without_a_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "postgres"])
    assert ended.value.code == 2
    assert "after --" in capsys.readouterr().err


def test_an_unknown_server_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["up", "mysql"])
    assert ended.value.code == 2
    assert "mysql" in capsys.readouterr().err
