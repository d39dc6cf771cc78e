"""The checksums that the driver sends and asks for on AWS by default: behind bodies sent through TLS, and with answers."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from specstar.backends.s3 import S3Options
from specstar.errors import BackendUnavailable
from specstar.roles import PayloadKey
from tests.faults.tools.scripted_s3 import ScriptedS3
from tests.integration.certificates import Authority
from tests.unit.s3.rig import opened, options_for

pytestmark = pytest.mark.anyio

KEY = PayloadKey("r", "p")
MIB = 1 << 20


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A file with the certificate of the authority; beside it the server's, with its key."""
    issuer = Authority()
    (tmp_path / "authority.pem").write_bytes(issuer.certificate)
    (tmp_path / "server.pem").write_bytes(b"".join(issuer.issue("server")))
    return tmp_path / "authority.pem"


@pytest.fixture
async def server(authority: Path) -> AsyncIterator[ScriptedS3]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(authority.with_name("server.pem"))
    async with ScriptedS3(tls=tls) as server:
        yield server


@pytest.fixture
def options(server: ScriptedS3, authority: Path) -> S3Options:
    """As without an `endpoint_url`."""
    config = {"request_checksum_calculation": "when_supported", "response_checksum_validation": "when_supported"}
    more: dict[str, Any] = {"client_kwargs": {"verify": str(authority), "config": config}}
    return options_for(
        server.endpoint_url, multipart_threshold_bytes=5 * MIB, part_size_bytes=5 * MIB, max_attempts=2, **more
    )


@pytest.mark.parametrize("size", [0, 1, 300_000, 3 * MIB])
async def test_a_payload_goes_and_comes_with_its_checksum(server: ScriptedS3, options: S3Options, size: int) -> None:
    payload = os.urandom(size)
    async with opened(options) as rig:
        store = rig.resource()
        await store.put(KEY, payload)
        assert len(server.checksums) == 1
        assert await store.get(KEY) == payload


async def test_a_blob_in_parts_goes_with_the_checksum_of_each(server: ScriptedS3, options: S3Options) -> None:
    data = os.urandom(12 * MIB)
    async with opened(options) as rig:
        store = rig.blob()
        writer = await store.create(content_type="text/plain")
        for start in range(0, len(data), MIB):
            await writer.write(data[start : start + MIB])
        info = await writer.commit()
        assert len(server.checksums) == 3
        assert await store.get(info.file_id) == data


async def test_an_answer_that_does_not_have_its_checksum_is_asked_for_again(
    server: ScriptedS3, options: S3Options
) -> None:
    async with opened(options) as rig:
        store = rig.resource()
        await store.put(KEY, b"x" * 1000)
        ((name, stored),) = server.objects.items()
        server.put(name, stored.data, {**stored.headers, "x-amz-checksum-crc32": "AAAAAA=="})
        server.requests.clear()
        with pytest.raises(BackendUnavailable, match="checksum"):
            await store.get(KEY)
        assert len(server.requests) == 2
