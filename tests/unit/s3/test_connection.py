"""The connection against a server that fails on purpose: retries, deadlines, limits, errors that say what to do."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from asyncio.trsock import TransportSocket
from collections.abc import Callable

import pytest

from specstar.errors import BackendError, BackendUnavailable
from specstar.roles import PayloadKey
from tests.faults.tools.scripted_s3 import Fault, ScriptedS3
from tests.unit.s3.rig import opened, options_for

pytestmark = pytest.mark.anyio

KEY = PayloadKey("r", "p")


def first(count: int, fault: Fault, methods: str = "GET PUT") -> Callable[[str, str, int], Fault | None]:
    """The fault for the first requests for an object."""
    left = [fault] * count

    def script(method: str, key: str, number: int) -> Fault | None:
        return left.pop() if left and "/resource/" in key and method in methods else None

    return script


@pytest.mark.parametrize(
    "fault",
    [
        Fault(503, "SlowDown"),
        Fault(500, "InternalError"),
        Fault(429, "TooManyRequests"),
        Fault(),
        Fault(when="after"),
        Fault(cut=True),
    ],
    ids=["slow-down", "internal-error", "429", "reset", "answer-lost", "cut"],
)
async def test_a_transient_fault_is_retried(server: ScriptedS3, fault: Fault, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "specstar")
    async with opened(options_for(server.endpoint_url)) as rig:
        store = rig.resource()
        await store.put(KEY, b"x" * 1000)
        server.script = first(2, fault)
        assert await store.get(KEY) == b"x" * 1000
        if not fault.cut:
            server.script = first(1, fault)
            await store.put(KEY, b"y")
            assert await store.get(KEY) == b"y"
    assert "attempt 1 failed" in caplog.text


async def test_retries_stop_at_max_attempts(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url, max_attempts=3)) as rig:
        store = rig.resource()
        await store.put(KEY, b"x")
        server.requests.clear()
        server.script = first(100, Fault(503, "SlowDown"))
        with pytest.raises(BackendUnavailable, match="SlowDown"):
            await store.get(KEY)
        assert len(server.requests) == 3


async def test_an_operation_ends_by_its_deadline(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url, operation_timeout_seconds=0.6)) as rig:
        store = rig.resource()
        await store.put(KEY, b"x")
        server.script = lambda method, key, number: Fault(delay=30)
        begun = time.monotonic()
        with pytest.raises(BackendUnavailable, match=r"0\.6 s"):
            await store.get(KEY)
        assert time.monotonic() - begun < 15


async def test_a_silent_server_is_given_up_after_the_read_timeout(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url, read_timeout_seconds=0.3, max_attempts=1)) as rig:
        store = rig.resource()
        await store.put(KEY, b"x")
        server.script = lambda method, key, number: Fault(delay=30)
        begun = time.monotonic()
        with pytest.raises(BackendUnavailable):
            await store.get(KEY)
        assert time.monotonic() - begun < 15


async def test_requests_in_flight_are_bounded_by_the_pool(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url, max_pool_connections=4)) as rig:
        store = rig.resource()
        await store.put(KEY, b"x")
        begun: list[float] = []

        def script(method: str, key: str, number: int) -> Fault | None:
            begun.append(asyncio.get_running_loop().time())
            return Fault(delay=0.1)

        server.script = script
        await asyncio.gather(*(store.get(KEY) for _ in range(20)))
        for number in range(len(begun) - 4):
            assert begun[number + 4] - begun[number] > 0.05, "a fifth request began before one of four had ended"


async def test_a_server_that_is_down_is_unavailable_and_comes_back(server: ScriptedS3) -> None:
    options = options_for("http://127.0.0.1:9", max_attempts=2)
    async with opened(options) as rig:
        with pytest.raises(BackendUnavailable, match="not reached"):
            await rig.resource().put(KEY, b"x")


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        (Fault(404, "NoSuchBucket"), "bucket 'bucket' does not exist; create it"),
        (Fault(403, "InvalidAccessKeyId"), "check access_key_id"),
        (Fault(403, "SignatureDoesNotMatch"), "secret_access_key does not belong"),
        (Fault(403, "AccessDenied"), "s3:PutObject"),
        (Fault(403, "RequestTimeTooSkewed"), "clock"),
        (Fault(400, "ExpiredToken"), "temporary credentials"),
        (
            Fault(
                400, "AuthorizationHeaderMalformed", message="the region 'us-east-1' is wrong; expecting 'eu-west-1'"
            ),
            "it is in 'eu-west-1'; set region_name",
        ),
        (Fault(403, "QuotaExceeded"), "quota"),
    ],
)
async def test_a_refusal_says_what_to_do(server: ScriptedS3, fault: Fault, advice: str) -> None:
    async with opened(options_for(server.endpoint_url)) as rig:
        store = rig.resource()
        await store.put(KEY, b"x")
        server.script = lambda method, key, number: fault
        with pytest.raises(BackendError, match=advice) as caught:
            await store.put(KEY, b"x")
        assert not isinstance(caught.value, BackendUnavailable)
        assert caught.value.__cause__ is not None


async def test_a_wrong_region_is_found_at_once(server: ScriptedS3) -> None:
    def script(method: str, key: str, number: int) -> Fault | None:
        return Fault(301, "PermanentRedirect", headers={"x-amz-bucket-region": "ap-south-1"})

    server.script = script
    async with opened(options_for(server.endpoint_url)) as rig:
        with pytest.raises(BackendError, match="ap-south-1"):
            await rig.resource().get(KEY)


async def test_a_missing_bucket_is_found_at_once() -> None:
    async with ScriptedS3() as server, opened(options_for(server.endpoint_url, bucket="missing")) as rig:
        server.script = lambda method, key, number: Fault(404) if method == "HEAD" else None
        with pytest.raises(BackendError, match="bucket 'missing' does not exist"):
            await rig.blob().stat("0" * 64)


async def test_an_opening_that_failed_is_tried_again(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url, max_attempts=1)) as rig:
        server.script = lambda method, key, number: Fault(503, "SlowDown")
        with pytest.raises(BackendUnavailable):
            await rig.resource().get(KEY)
        server.script = lambda method, key, number: None
        assert await rig.resource().get(KEY) is None


async def test_a_key_that_may_not_list_can_still_work(server: ScriptedS3) -> None:
    server.script = lambda method, key, number: (
        Fault(403, "AccessDenied" if method == "GET" else "") if key == "bucket" else None
    )
    async with opened(options_for(server.endpoint_url)) as rig:
        await rig.resource().put(KEY, b"x")
        assert await rig.resource().get(KEY) == b"x"


async def test_ping_tells_the_server_and_the_bucket(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url, blob_bucket="blobs")) as rig:
        info = await (await rig.lazy.get()).ping()
        assert "bucket" in info.detail
        assert "blobs" in info.detail
        assert server.endpoint_url in info.detail


async def test_the_loop_is_not_blocked_while_the_client_is_made(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url)) as rig:
        # The loop's own work, whatever else the machine does: reading the driver's data files takes ten times as long.
        begun = time.thread_time()
        await rig.lazy.get()
        assert time.thread_time() - begun < 0.2


async def test_credentials_come_from_the_environment_where_none_are_given(
    server: ScriptedS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "FROMENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    async with opened(options_for(server.endpoint_url, access_key_id=None, secret_access_key=None)) as rig:
        await rig.resource().put(KEY, b"x")
        url = await (await rig.lazy.get()).client.generate_presigned_url(
            "get_object", Params={"Bucket": "b-c", "Key": "k"}
        )
        assert "FROMENV" in url


async def test_missing_credentials_say_where_to_put_them(server: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    async with opened(options_for(server.endpoint_url, access_key_id=None, secret_access_key=None)) as rig:
        with pytest.raises(BackendError, match="no credentials found"):
            await rig.resource().put(KEY, b"x")


async def test_virtual_host_addressing_puts_the_bucket_into_the_host(server: ScriptedS3) -> None:
    proxy = {"config": {"proxies": {"http": server.endpoint_url}}}
    async with opened(options_for("http://s3.test", addressing_style="virtual", client_kwargs=proxy)) as rig:
        await rig.resource().put(KEY, b"x")
        assert await rig.resource().get(KEY) == b"x"
        assert all(key.startswith("bucket/resource/") for key in server.objects)
        client = (await rig.lazy.get()).client
        url = await client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "k"})
        assert url.startswith("http://bucket.s3.test/k?")


async def test_abandon_closes_sockets_without_the_loop(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url)) as rig:
        await asyncio.gather(*(rig.resource().get(KEY) for _ in range(4)))
        connection = await rig.lazy.get()
        connection.abandon()
        with pytest.raises(BackendUnavailable, match="closed"):
            await connection.call("head_bucket", Bucket="bucket")


async def test_a_refused_head_under_a_wrong_clock_is_explained(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url)) as rig:
        connection = await rig.lazy.get()
        for date, advice in (("Mon, 01 Jan 2001 00:00:00 GMT", "clock of this machine"), (None, "is denied")):
            headers = {"Date": date} if date else {}
            server.script = lambda method, key, number, headers=headers: Fault(403, headers=headers)  # type: ignore[misc]
            with pytest.raises(BackendError, match=advice):
                await connection.call("head_object", Bucket="bucket", Key="key")


@pytest.mark.parametrize(("code", "works"), [("AccessDenied", True), ("AllAccessDisabled", False)])
async def test_only_a_key_that_may_not_list_is_told_by_its_work(
    server: ScriptedS3, caplog: pytest.LogCaptureFixture, code: str, works: bool
) -> None:
    server.script = lambda method, key, number: None if "/resource/" in key else Fault(403, code)
    async with opened(options_for(server.endpoint_url)) as rig:
        store = rig.resource()
        if works:
            await store.put(KEY, b"x")
            assert await store.get(KEY) == b"x"
            assert "is denied (AccessDenied)" in caplog.text
        else:
            with pytest.raises(BackendError, match="AllAccessDisabled"):
                await store.put(KEY, b"x")


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="Linux has it")
async def test_the_first_part_of_an_answer_is_acknowledged_before_the_second_comes(
    server: ScriptedS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel by itself acknowledges it after 40 ms, and a server with Nagle's algorithm waits for that."""
    asked = asyncio.Event()
    set_option: Callable[..., None] = TransportSocket.setsockopt

    def setsockopt(self: TransportSocket, *arguments: int) -> None:
        set_option(self, *arguments)
        if arguments == (socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1):
            asked.set()

    monkeypatch.setattr(TransportSocket, "setsockopt", setsockopt)
    server.put("bucket/key", b"body")
    async with opened(options_for(server.endpoint_url)) as rig:
        connection = await rig.lazy.get()
        server.before_body = asked.wait
        for _ in range(3):
            asked.clear()
            assert (await connection.call("get_object", Bucket="bucket", Key="key"))["Body"] == b"body"
