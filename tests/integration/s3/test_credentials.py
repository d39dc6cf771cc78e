"""Credentials that a service of the machine gives out for a while, as on EC2, ECS and EKS."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from services.endpoints import S3Endpoint
from specstar.backends.s3 import S3Options
from specstar.backends.s3.errors import RequestFailed
from specstar.errors import BackendUnavailable
from specstar.roles import PayloadKey
from tests.unit.s3.rig import opened, options_for

pytestmark = pytest.mark.anyio


class CredentialService:
    """Gives out the server's keys, each time for `lifetime`; `up` False: it answers with errors."""

    def __init__(self, s3: S3Endpoint) -> None:
        self.up = True
        self.lifetime = timedelta(minutes=5)
        self.asked = 0
        self._s3 = s3

    def answer(self) -> tuple[int, bytes]:
        self.asked += 1
        if not self.up:
            return 500, b""
        keys = {
            "AccessKeyId": self._s3.access_key_id,
            "SecretAccessKey": self._s3.secret_access_key,
            "Token": "",
            "Expiration": (datetime.now(UTC) + self.lifetime).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return 200, json.dumps(keys).encode()

    @contextmanager
    def running(self) -> Iterator[str]:
        """Its URL."""
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = service.answer()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}/credentials"
            finally:
                server.shutdown()
                thread.join()


@pytest.fixture
def service(s3: S3Endpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[CredentialService]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    service = CredentialService(s3)
    with service.running() as url:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        yield service


@pytest.fixture
def options(s3: S3Endpoint, s3_bucket: str) -> S3Options:
    return options_for(
        s3.endpoint_url,
        bucket=s3_bucket,
        access_key_id=None,
        secret_access_key=None,
        region_name=s3.region,
        max_attempts=1,
    )


async def test_keys_that_expire_are_fetched_again_under_load(service: CredentialService, options: S3Options) -> None:
    """Made in the thread that prepares the client, they are renewed on the loop, by many requests at once."""
    async with opened(options) as rig:
        payloads = rig.resource()
        # Each asks for keys of its own, one after the other, within the time limit of its request.
        keys = [PayloadKey("r", str(number)) for number in range(12)]
        await asyncio.gather(*(payloads.put(key, b"1") for key in keys))
        assert await asyncio.gather(*(payloads.get(key) for key in keys)) == [b"1"] * len(keys)
    assert service.asked > 10


async def test_keys_that_cannot_be_fetched_make_s3_unavailable_for_the_time(
    service: CredentialService, options: S3Options
) -> None:
    async with opened(options) as rig:
        service.up = False
        with pytest.raises(BackendUnavailable, match="creating the client: credentials could not be fetched"):
            await rig.resource().put(PayloadKey("r", "p"), b"1")
        service.up = True
        await rig.resource().put(PayloadKey("r", "p"), b"1")
        service.up = False
        with pytest.raises(RequestFailed, match=r"metadata service is down\?.*retry later") as caught:
            await rig.resource().put(PayloadKey("r", "q"), b"1")
        assert not caught.value.sent
        service.up = True
        assert await rig.resource().get(PayloadKey("r", "p")) == b"1"
        assert await rig.resource().get(PayloadKey("r", "q")) is None
