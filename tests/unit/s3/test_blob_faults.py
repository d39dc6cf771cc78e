"""Blobs against a server that fails on purpose: whole or not at all, and no part left behind."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import xxhash

from specstar.backends.s3.body import Body
from specstar.backends.s3.errors import BytesRefused
from specstar.errors import (
    BackendError,
    BackendUnavailable,
    BlobIntegrityError,
    BlobNotFoundError,
    InvalidInputError,
    LimitExceededError,
    UsageError,
)
from specstar.roles import BlobReader
from tests.faults.tools.scripted_s3 import Fault, ScriptedS3
from tests.unit.s3.rig import Rig, opened, options_for, until

pytestmark = pytest.mark.anyio

MIB = 1 << 20
SMALL_PARTS = {"multipart_threshold_bytes": 5 * MIB, "part_size_bytes": 5 * MIB, "part_concurrency": 3}


def key_of(data: bytes) -> str:
    return f"bucket/blobs/{hashlib.sha256(data).hexdigest()}"


async def put(rig: Rig, way: str, data: bytes, folder: Path) -> str:
    if way == "bytes":
        return (await rig.blob().put_bytes(data, content_type="a/b")).file_id
    if way == "file":
        path = folder / "source"
        path.write_bytes(data)
        return (await rig.blob().put_file(path, content_type="a/b")).file_id
    writer = await rig.blob().create(content_type="a/b")
    try:
        for start in range(0, len(data), 700_001):
            await writer.write(memoryview(data)[start : start + 700_001])
        return (await writer.commit()).file_id
    finally:
        await writer.abort()


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def read(rig: Rig, file_id: str) -> bytes:
    reader = await rig.blob().open(file_id)
    try:
        return await rest(reader)
    finally:
        await reader.aclose()


async def rest(reader: BlobReader) -> bytes:
    chunks = []
    while chunk := await reader.read():
        assert len(chunk) <= MIB
        chunks.append(chunk)
    return b"".join(chunks)


def once(fault: Fault) -> Callable[[str, str, int], Fault | None]:
    """The fault for the first PUT."""
    faults = [fault]
    return lambda method, key, number: faults.pop() if faults and method == "PUT" else None


@pytest.mark.parametrize("way", ["bytes", "file", "stream"])
@pytest.mark.parametrize("size", [0, 1, MIB, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 17 * MIB + 3])
async def test_blobs_of_any_size_go_in_and_out(server: ScriptedS3, way: str, size: int, tmp_path: Path) -> None:
    data = os.urandom(size)
    async with opened(options_for(server.endpoint_url, **SMALL_PARTS)) as rig:
        file_id = await put(rig, way, data, tmp_path)
        assert set(server.objects) == {key_of(data)}
        assert server.uploads == {}
        assert await read(rig, file_id) == data
        server.requests.clear()
        await put(rig, way, data, tmp_path)
        assert set(server.objects) == {key_of(data)}
        if size > 6 * MIB and way == "file":
            assert "PUT" not in {method for method, _ in server.requests}, "a file is hashed first, and not sent again"


@pytest.mark.parametrize("way", ["bytes", "file", "stream"])
async def test_transient_faults_of_parts_are_retried(server: ScriptedS3, way: str, tmp_path: Path) -> None:
    data = os.urandom(16 * MIB)
    faults = [Fault(), Fault(503, "SlowDown"), Fault(when="after"), Fault(500, "InternalError")]
    server.script = lambda method, key, number: faults.pop() if faults and method == "PUT" else None
    async with opened(options_for(server.endpoint_url, **SMALL_PARTS, operation_timeout_seconds=20)) as rig:
        file_id = await put(rig, way, data, tmp_path)
        assert await read(rig, file_id) == data
        assert server.uploads == {}


@pytest.mark.parametrize("way", ["bytes", "file", "stream"])
async def test_a_completion_whose_answer_was_lost_is_found_out(server: ScriptedS3, way: str, tmp_path: Path) -> None:
    data = os.urandom(12 * MIB)
    faults = [Fault(when="after")]
    server.script = lambda method, key, number: faults.pop() if faults and method == "POST" and server.uploads else None
    async with opened(options_for(server.endpoint_url, **SMALL_PARTS)) as rig:
        file_id = await put(rig, way, data, tmp_path)
        assert await read(rig, file_id) == data
        assert set(server.objects) == {key_of(data)}


@pytest.mark.parametrize("way", ["bytes", "file", "stream"])
async def test_a_failed_upload_leaves_nothing(server: ScriptedS3, way: str, tmp_path: Path) -> None:
    data = os.urandom(16 * MIB)
    seen = iter(range(100))
    server.script = lambda method, key, number: (
        Fault(403, "AccessDenied") if method == "PUT" and server.uploads and next(seen) == 1 else None
    )
    async with opened(options_for(server.endpoint_url, **SMALL_PARTS)) as rig:
        with pytest.raises(BackendError):
            await put(rig, way, data, tmp_path)
        assert server.uploads == {}
        assert server.objects == {}
        assert not (await rig.lazy.get()).uploads


@pytest.mark.parametrize("way", ["bytes", "file", "stream"])
@pytest.mark.parametrize("requests", range(1, 9))
@pytest.mark.parametrize("scoped", [False, True])
async def test_a_cancelled_upload_leaves_no_part(
    server: ScriptedS3, way: str, requests: int, scoped: bool, tmp_path: Path
) -> None:
    """Cancelled as its n-th request arrives: once, as asyncio does, or again and again by a scope."""
    data = os.urandom(14 * MIB)
    async with opened(options_for(server.endpoint_url, **SMALL_PARTS)) as rig:
        await rig.lazy.get()
        server.requests.clear()
        scope = anyio.CancelScope()

        async def upload() -> None:
            with scope:
                await put(rig, way, data, tmp_path)

        task = asyncio.create_task(upload())

        def script(method: str, key: str, number: int) -> Fault | None:
            if len(server.requests) == requests:
                (scope if scoped else task).cancel()
                return Fault(delay=0.02)
            return None

        server.script = script
        await asyncio.gather(task, return_exceptions=True)
        assert not server.uploads
        assert set(server.objects) <= {key_of(data)}, "whole or not at all, and nothing temporary"
        assert not (await rig.lazy.get()).uploads


UNSIGNED = {"client_kwargs": {"config": {"s3": {"payload_signing_enabled": False}}}}


@pytest.mark.parametrize("compares", [True, False])
@pytest.mark.parametrize("more", [{}, UNSIGNED])
async def test_a_file_that_changes_while_it_is_sent_is_not_stored(
    server: ScriptedS3, tmp_path: Path, compares: bool, more: dict[str, Any]
) -> None:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(12 * MIB))
    server.compares_hashes = compares

    def script(method: str, key: str, number: int) -> Fault | None:
        if method == "POST":
            with path.open("r+b") as file:
                file.write(b"changed")
        return None

    server.script = script
    async with opened(options_for(server.endpoint_url, **SMALL_PARTS, **more)) as rig:
        with pytest.raises(BlobIntegrityError, match="changed"):
            await rig.blob().put_file(path, content_type="a/b")
        assert server.objects == {}
        assert server.uploads == {}
        with pytest.raises(InvalidInputError, match="cannot read"):
            await rig.blob().put_file(tmp_path / "missing", content_type="a/b")


@pytest.mark.parametrize("more", [{}, UNSIGNED])
async def test_a_file_that_grows_while_it_is_sent_is_stored_as_it_was(
    server: ScriptedS3, tmp_path: Path, more: dict[str, Any]
) -> None:
    path, data = tmp_path / "source", os.urandom(12 * MIB)
    path.write_bytes(data)

    def script(method: str, key: str, number: int) -> Fault | None:
        with path.open("ab") as file:
            file.write(b"another line")
        return None

    async with opened(options_for(server.endpoint_url, **SMALL_PARTS, **more)) as rig:
        await rig.lazy.get()
        server.script = script
        info = await rig.blob().put_file(path, content_type="a/b")
        assert (info.file_id, info.size) == (hashlib.sha256(data).hexdigest(), len(data))
        assert await read(rig, info.file_id) == data


@pytest.mark.parametrize("more", [{}, UNSIGNED])
async def test_bodies_are_hashed_in_threads(
    server: ScriptedS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    """The driver would do it once more, on the event loop."""
    read_to_sign: list[int] = []

    def noted(self: Body, size: int = -1) -> bytes:
        read_to_sign.append(size)
        return b""

    monkeypatch.setattr(Body, "read", noted)
    async with opened(options_for(server.endpoint_url, **SMALL_PARTS, **more)) as rig:
        for way, size in (("bytes", 2), ("bytes", 12), ("stream", 12), ("file", 12)):
            data = os.urandom(size * MIB)
            assert await read(rig, await put(rig, way, data, tmp_path)) == data
    assert read_to_sign == []


async def test_bytes_that_arrive_with_another_hash_are_refused(server: ScriptedS3) -> None:
    data = os.urandom(2 * MIB)
    async with opened(options_for(server.endpoint_url)) as rig:
        connection = await rig.lazy.get()
        with pytest.raises(BytesRefused):
            await connection.call("put_object", sha256="0" * 64, Bucket="bucket", Key="key", Body=data)
        assert server.objects == {}


@pytest.mark.parametrize("way", ["bytes", "stream", "file"])
async def test_a_blob_carries_a_checksum_that_reads_go_by(server: ScriptedS3, way: str, tmp_path: Path) -> None:
    async with opened(options_for(server.endpoint_url, **SMALL_PARTS)) as rig:
        for size in (3, 12 * MIB):
            data = os.urandom(size)
            file_id = await put(rig, way, data, tmp_path)
            stored = server.objects[key_of(data)]
            assert stored.headers["x-amz-meta-xxh3"] == xxhash.xxh3_128(data).hexdigest()
            # What is no checksum counts as none.
            server.put(key_of(data), data, {**stored.headers, "x-amz-meta-xxh3": "damaged"})
            assert await read(rig, file_id) == data


@pytest.mark.parametrize("size", [1000, 3 * MIB, 20 * MIB])
@pytest.mark.parametrize("by", ["xxh3", "sha256"])
async def test_stored_bytes_that_are_damaged_are_not_handed_out_whole(server: ScriptedS3, size: int, by: str) -> None:
    data = os.urandom(size)
    async with opened(options_for(server.endpoint_url)) as rig:
        info = await rig.blob().put_bytes(data, content_type="a/b")
        broken = bytearray(data)
        broken[size // 2] ^= 1
        # Blobs of an earlier specstar have their id alone.
        server.put(key_of(data), bytes(broken), server.objects[key_of(data)].headers if by == "xxh3" else None)
        with pytest.raises(BlobIntegrityError, match="checksum"):
            await read(rig, info.file_id)


async def test_a_blob_replaced_while_it_is_read_is_noticed(server: ScriptedS3) -> None:
    data = os.urandom(20 * MIB)
    async with opened(options_for(server.endpoint_url, part_concurrency=1)) as rig:
        info = await rig.blob().put_bytes(data, content_type="a/b")
        reader = await rig.blob().open(info.file_id)
        await reader.read()
        server.put(key_of(data), os.urandom(20 * MIB))
        with pytest.raises(BlobIntegrityError, match="replaced"):
            await rest(reader)
        await reader.aclose()
        await reader.aclose()


async def test_cut_ranges_are_read_again(server: ScriptedS3) -> None:
    data = os.urandom(20 * MIB)
    async with opened(options_for(server.endpoint_url)) as rig:
        info = await rig.blob().put_bytes(data, content_type="a/b")
        cuts = [Fault(cut=True), Fault(), Fault(503, "SlowDown")]
        server.script = lambda method, key, number: cuts.pop() if cuts and method == "GET" else None
        assert await read(rig, info.file_id) == data


async def test_a_cancelled_read_loses_nothing(server: ScriptedS3) -> None:
    data = os.urandom(18 * MIB)
    async with opened(options_for(server.endpoint_url)) as rig:
        info = await rig.blob().put_bytes(data, content_type="a/b")
        server.script = lambda method, key, number: Fault(delay=0.05)
        reader = await rig.blob().open(info.file_id)
        found = b""
        while len(found) < len(data):
            try:
                async with asyncio.timeout(0.01):
                    found += await reader.read()
            except TimeoutError:
                continue
        assert await reader.read() == b""
        assert found == data
        await reader.aclose()


@pytest.mark.parametrize("size", [0, 1, MIB, 20 * MIB])
async def test_a_saved_blob_is_whole(server: ScriptedS3, size: int, tmp_path: Path) -> None:
    data = os.urandom(size)
    async with opened(options_for(server.endpoint_url)) as rig:
        info = await rig.blob().put_bytes(data, content_type="a/b")
        cuts = [Fault(cut=True), Fault(), Fault(503, "SlowDown")]
        server.script = lambda method, key, number: cuts.pop() if cuts and method == "GET" else None
        assert await rig.blob().save(info.file_id, tmp_path / "saved") == info
        assert (tmp_path / "saved").read_bytes() == data


@pytest.mark.parametrize("size", [1000, 20 * MIB])
@pytest.mark.parametrize("by", ["xxh3", "sha256"])
async def test_a_damaged_blob_is_not_saved(server: ScriptedS3, size: int, by: str, tmp_path: Path) -> None:
    data = os.urandom(size)
    async with opened(options_for(server.endpoint_url)) as rig:
        info = await rig.blob().put_bytes(data, content_type="a/b")
        server.put(
            key_of(data),
            data[:-1] + bytes([data[-1] ^ 1]),
            server.objects[key_of(data)].headers if by == "xxh3" else None,
        )
        with pytest.raises(BlobIntegrityError, match="checksum"):
            await rig.blob().save(info.file_id, tmp_path / "saved")
        assert names_in(tmp_path) == []


async def test_a_cancelled_save_leaves_nothing(server: ScriptedS3, tmp_path: Path) -> None:
    data = os.urandom(20 * MIB)
    async with opened(options_for(server.endpoint_url)) as rig:
        info = await rig.blob().put_bytes(data, content_type="a/b")
        for requests in range(1, 5):
            server.requests.clear()
            server.script = lambda method, key, number: Fault(delay=0.02 * number % 0.05)
            saving = asyncio.create_task(rig.blob().save(info.file_id, tmp_path / "saved"))
            await until(lambda count=requests: len(server.requests) >= count)  # type: ignore[misc]
            await asyncio.sleep(0.01 * requests)
            saving.cancel()
            await asyncio.wait([saving])
            # A save that was quicker than its cancellation is whole; the first ones cannot be.
            assert saving.cancelled() or requests > 2
            assert names_in(tmp_path) == ([] if saving.cancelled() else ["saved"])
            (tmp_path / "saved").unlink(missing_ok=True)
        server.script = lambda method, key, number: None
        await rig.blob().save(info.file_id, tmp_path / "saved")
        assert (tmp_path / "saved").read_bytes() == data


async def test_a_server_without_conditional_puts_still_takes_blobs(server: ScriptedS3) -> None:
    seen: list[str] = []

    def script(method: str, key: str, number: int) -> Fault | None:
        if method == "PUT" and not seen:
            seen.append(key)
            return Fault(501, "NotImplemented")
        return None

    server.script = script
    async with opened(options_for(server.endpoint_url)) as rig:
        info = await rig.blob().put_bytes(b"x", content_type="a/b")
        assert await read(rig, info.file_id) == b"x"
        assert (await rig.blob().put_bytes(b"x", content_type="c/d")).content_type == "a/b"


async def test_an_ended_writer_takes_no_more(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url)) as rig:
        writer = await rig.blob().create(content_type="a/b")
        await writer.write(b"x")
        await writer.commit()
        await writer.abort()
        with pytest.raises(UsageError):
            await writer.write(b"y")
        with pytest.raises(UsageError):
            await writer.commit()


async def test_parts_have_a_limit(server: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specstar.backends.s3.multipart._MAX_PARTS", 2)
    async with opened(options_for(server.endpoint_url, **SMALL_PARTS)) as rig:
        with pytest.raises(LimitExceededError, match="part_size_bytes"):
            await rig.blob().put_bytes(os.urandom(16 * MIB), content_type="a/b")
        assert server.uploads == {}


async def test_a_server_that_is_gone_in_the_middle_is_unavailable(server: ScriptedS3, tmp_path: Path) -> None:
    async with opened(options_for(server.endpoint_url, **SMALL_PARTS, max_attempts=2)) as rig:
        server.script = lambda method, key, number: Fault() if server.uploads else None
        with pytest.raises(BackendUnavailable):
            await put(rig, "stream", os.urandom(12 * MIB), tmp_path)
        server.script = lambda method, key, number: None
        with pytest.raises(BlobNotFoundError):
            await rig.blob().stat("0" * 64)
