"""TLS by DSN, against a server with a certificate of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import services
from specstar.errors import BackendError, BackendUnavailable, ConfigError
from tests.integration.certificates import Authority
from tests.integration.postgres.rig import new, open_rig


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[services.PostgresServer, Path]]:
    """A server that offers TLS, and the file of its certificate."""
    issuer = Authority()
    authority = tmp_path_factory.mktemp("tls") / "authority.crt"
    authority.write_bytes(issuer.certificate)
    files = dict(zip(("server.crt", "server.key"), issuer.issue("server"), strict=True))
    with services.postgres(settings={"ssl": "on"}, files=files) as server:
        yield server, authority


@pytest.mark.xdist_group("postgres-tls")
async def test_a_verified_connection(tls_server: tuple[services.PostgresServer, Path]) -> None:
    server, authority = tls_server
    async with open_rig(f"{server.dsn}?sslmode=verify-full&sslrootcert={authority}") as rig:
        await rig.storage().write(new("r"))
        rows = await (await rig.connection()).fetch("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        assert rows[0][0] is True


@pytest.mark.xdist_group("postgres-tls")
async def test_a_certificate_of_a_stranger_is_refused(
    tls_server: tuple[services.PostgresServer, Path], tmp_path: Path
) -> None:
    server, _ = tls_server
    stranger = tmp_path / "stranger.crt"
    stranger.write_bytes(Authority().certificate)
    async with open_rig(f"{server.dsn}?sslmode=verify-full&sslrootcert={stranger}") as rig:
        with pytest.raises(BackendError, match="sslrootcert") as caught:
            await rig.storage().read("r")
        assert not isinstance(caught.value, BackendUnavailable)


@pytest.mark.xdist_group("postgres-tls")
async def test_a_certificate_of_another_host_is_refused(tls_server: tuple[services.PostgresServer, Path]) -> None:
    server, authority = tls_server
    dsn = server.dsn.replace("127.0.0.1", "localhost")
    async with open_rig(f"{dsn}?sslmode=verify-full&sslrootcert={authority}") as rig:
        with pytest.raises(BackendError, match="not valid for 'localhost'"):
            await rig.storage().read("r")


@pytest.mark.xdist_group("postgres-tls")
async def test_a_missing_certificate_file_is_named(
    tls_server: tuple[services.PostgresServer, Path], tmp_path: Path
) -> None:
    server, _ = tls_server
    async with open_rig(f"{server.dsn}?sslmode=verify-full&sslrootcert={tmp_path}/none.crt") as rig:
        with pytest.raises(ConfigError, match="file that sslrootcert"):
            await rig.storage().read("r")


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
async def test_a_root_certificate_that_is_not_named_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    async with open_rig(f"postgresql://127.0.0.1:1/app?sslmode={mode}") as rig:
        with pytest.raises(ConfigError, match="sslrootcert"):
            await rig.storage().read("r")
