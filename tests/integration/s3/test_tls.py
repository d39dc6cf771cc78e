"""https, to a server with a certificate of an authority that is named in `verify`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import services
from specstar.backends.s3 import S3Options
from specstar.backends.s3.errors import RequestFailed
from specstar.errors import BackendError, BackendUnavailable, ConfigError
from specstar.roles import PayloadKey
from tests.conformance.samples import created
from tests.integration.certificates import Authority
from tests.unit.s3.rig import opened, options_for

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("s3-tls")]


@dataclass
class Gateway:
    """A server that speaks TLS too, and files to name in `verify`."""

    server: services.CephS3Server
    files: Path

    def options(self, verify: str | bool | None, *, host: str = "127.0.0.1", proxy: str | None = None) -> S3Options:
        endpoint = self.server.endpoint
        given: dict[str, Any] = {
            "bucket": endpoint.bucket,
            "access_key_id": endpoint.access_key_id,
            "secret_access_key": endpoint.secret_access_key,
            "region_name": endpoint.region,
        }
        client: dict[str, Any] = {"config": {"proxies": {"https": proxy}}} if proxy is not None else {}
        if verify is not None:
            client["verify"] = str(self.files / verify) if isinstance(verify, str) else verify
        given["client_kwargs"] = client
        return options_for(self.server.tls_endpoint_url.replace("127.0.0.1", host), **given)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    authority = Authority()
    files = tmp_path_factory.mktemp("tls")
    (files / "authority.pem").write_bytes(authority.certificate)
    (files / "stranger.pem").write_bytes(Authority().certificate)
    (files / "garbage.pem").write_text("no certificate")
    with services.s3(certificate=b"".join(authority.issue("server"))) as server:
        yield Gateway(server, files)


@asynccontextmanager
async def tunnelling_proxy() -> AsyncIterator[tuple[str, list[str]]]:
    """The URL of an HTTP proxy that takes CONNECT, and the hosts that it was asked for."""
    asked: list[str] = []

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                target.write(data)
                await target.drain()
        target.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, address, _ = (await reader.readline()).decode().split()
        assert method == "CONNECT"
        while await reader.readline() != b"\r\n":
            pass
        asked.append(address)
        host, port = address.rsplit(":", 1)
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


@pytest.mark.parametrize("verify", ["authority.pem", False])
async def test_data_of_any_size_travels(gateway: Gateway, verify: str | bool) -> None:
    async with opened(gateway.options(verify)) as rig:
        meta, payloads = rig.meta(), rig.resource()
        name = f"r-{verify}"
        await meta.write(created(name))
        assert await meta.get(name) is not None
        sizes = [0, 1, 100_000, 5_000_000]
        await asyncio.gather(*(payloads.put(PayloadKey(name, str(size)), b"x" * size) for size in sizes))
        found = await asyncio.gather(*(payloads.get(PayloadKey(name, str(size))) for size in sizes))
        assert found == [b"x" * size for size in sizes]


async def test_a_bundle_named_by_the_environment_is_taken(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(gateway.files / "authority.pem"))
    async with opened(gateway.options(None)) as rig:
        assert await rig.resource().get(PayloadKey("r", "none")) is None


@pytest.mark.parametrize(
    ("verify", "host", "reason"),
    [
        (None, "127.0.0.1", "unable to get local issuer certificate"),
        ("stranger.pem", "127.0.0.1", "client_kwargs.verify takes a CA file"),
        ("authority.pem", "localhost", "not valid for 'localhost'"),
    ],
)
async def test_a_server_that_is_not_the_one_asked_for_gets_nothing(
    gateway: Gateway, verify: str | None, host: str, reason: str
) -> None:
    """Nor one with a certificate that is trusted, of another host."""
    async with opened(gateway.options(verify, host=host)) as rig:
        with pytest.raises(BackendError, match=reason) as caught:
            await rig.resource().put(PayloadKey("r", "secret"), b"1")
        assert not isinstance(caught.value, BackendUnavailable)


async def test_a_proxy_may_lead_to_the_server_and_to_no_other(gateway: Gateway) -> None:
    async with tunnelling_proxy() as (proxy, asked):
        async with opened(gateway.options("authority.pem", proxy=proxy)) as rig:
            await rig.resource().put(PayloadKey("proxied", "p"), b"1")
        for options, reason in (
            (gateway.options(None, proxy=proxy), "unable to get local issuer certificate"),
            (gateway.options("authority.pem", host="localhost", proxy=proxy), "not valid for 'localhost'"),
        ):
            async with opened(options) as rig:
                with pytest.raises(BackendError, match=reason):
                    await rig.resource().put(PayloadKey("r", "secret"), b"1")
    assert {address.rpartition(":")[0] for address in asked} == {"127.0.0.1", "localhost"}


async def test_a_proxy_that_is_not_there_was_sent_nothing(gateway: Gateway) -> None:
    async with opened(gateway.options("authority.pem", proxy="http://127.0.0.1:1")) as rig:
        with pytest.raises(RequestFailed, match="not reached") as caught:
            await rig.resource().put(PayloadKey("r", "p"), b"1")
        assert not caught.value.sent


@pytest.mark.parametrize("by_environment", [False, True])
async def test_files_that_are_no_certificates_are_refused(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, *, by_environment: bool
) -> None:
    if by_environment:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(gateway.files / "none.pem"))
    async with opened(gateway.options(None if by_environment else "garbage.pem")) as rig:
        with pytest.raises(ConfigError, match=r"client_kwargs\.verify, the variable AWS_CA_BUNDLE"):
            await rig.resource().get(PayloadKey("r", "p"))
