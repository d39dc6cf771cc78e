"""What only a real server shows: refusals, presigned URLs, upload sessions, garbage."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any, Self

import pytest
from msgspec import Struct

from services import s3_client
from services.endpoints import S3Endpoint
from specstar import SpecStar
from specstar.backends.s3 import blob_uploads
from specstar.backends.s3.blob_writer import S3BlobWriter
from specstar.errors import (
    BackendError,
    BackendUnavailable,
    BlobIntegrityError,
    BlobNotFoundError,
    RevisionConflictError,
)
from specstar.resource_manager import ResourceManager
from specstar.resource_manager.composed import ComposedStorage
from specstar.resource_manager.garbage import collect
from specstar.roles import PayloadKey
from specstar.roles import resource as resource_role
from tests.conformance.samples import created
from tests.integration.s3.conftest import Options
from tests.unit.s3.rig import Rig, opened

pytestmark = pytest.mark.anyio

MIB = 1 << 20
SMALL_PARTS = {"multipart_threshold_bytes": 5 * MIB, "part_size_bytes": 5 * MIB}


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ({"access_key_id": "nobody"}, "check access_key_id"),
        ({"secret_access_key": "wrong-secret"}, "secret_access_key does not belong"),
        ({"bucket": "no-such-bucket"}, "bucket 'no-such-bucket' does not exist"),
        ({"blob_bucket": "no-such-blobs"}, "bucket 'no-such-blobs' does not exist"),
    ],
)
async def test_a_wrong_setting_is_said_at_once(options: Options, wrong: dict[str, Any], advice: str) -> None:
    async with opened(options(**wrong)) as rig:
        with pytest.raises(BackendError, match=advice) as caught:
            await rig.resource().get(PayloadKey("r", "p"))
        assert "wrong-secret" not in str(caught.value)
        assert not isinstance(caught.value, BackendUnavailable)


async def test_the_server_takes_writes_on_conditions(options: Options) -> None:
    async with opened(options(prefix="deep/er")) as rig:
        await rig.meta().write(created("r1"))
        connection = await rig.lazy.get()
        assert (rig.options.bucket, "deep/er") in connection.probed
        assert s3_client.list_keys(_endpoint(rig), rig.options.bucket) == ["deep/er/meta/Sample.sqlite"]


class TwoHoursAhead(datetime):
    """The clock of a host that is wrong."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls.fromtimestamp(super().now(UTC).timestamp() + 7_200, tz)


def _endpoint(rig: Rig) -> S3Endpoint:
    options = rig.options
    assert options.endpoint_url is not None
    assert options.access_key_id is not None
    assert options.secret_access_key is not None
    return S3Endpoint(
        endpoint_url=options.endpoint_url,
        access_key_id=options.access_key_id,
        secret_access_key=options.secret_access_key,
        region=options.region_name,
    )


def fetch(url: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
    method = "GET" if data is None else "PUT"
    request = urllib.request.Request(url, data=data, headers=headers or {}, method=method)
    with urllib.request.urlopen(request, timeout=20) as answer:
        body: bytes = answer.read()
        return body


async def test_a_presigned_url_gives_the_blob_until_it_expires(options: Options) -> None:
    async with opened(options(presigned_url_expiry=60)) as rig:
        info = await rig.blob().put_bytes(b"hello", content_type="text/plain")
        url = await rig.blob().url(info.file_id)
        assert url is not None
        assert "X-Amz-Expires=60" in url
        assert await asyncio.to_thread(fetch, url) == b"hello"
        short = await rig.blob().url(info.file_id, expires_in=1)
        assert short is not None
        await asyncio.sleep(2.1)
        with pytest.raises(urllib.error.HTTPError) as refused:
            await asyncio.to_thread(fetch, short)
        refused.value.close()
        with pytest.raises(BlobNotFoundError):
            await rig.blob().url("0" * 64)


@pytest.mark.parametrize("size", [11, 6 * MIB + 1])
async def test_a_client_puts_its_bytes_straight_into_the_bucket(options: Options, size: int) -> None:
    data = os.urandom(size)
    async with opened(options(upload_method="single_put", **SMALL_PARTS)) as rig, opened(rig.options) as other:
        session = await rig.blob().create_upload(content_type="text/csv", size=size)
        assert session.method == "single_put"
        assert session.url is not None
        assert session.expires_time is not None
        with pytest.raises(BlobNotFoundError):
            await rig.blob().finalize(session.upload_id)
        await asyncio.to_thread(fetch, session.url, data, session.headers)
        # Any process can finish it, and again, and at once.
        info, again = await asyncio.gather(
            rig.blob().finalize(session.upload_id), other.blob().finalize(session.upload_id)
        )
        assert info.file_id == again.file_id == hashlib.sha256(data).hexdigest()
        assert (info.size, info.content_type) == (size, "text/csv")
        assert (await rig.blob().finalize(session.upload_id)).file_id == info.file_id
        assert set(s3_client.list_keys(_endpoint(rig), rig.options.bucket)) == {
            f"blobs/_uploads/{session.upload_id}/session",
            f"blobs/{info.file_id}",
        }


@pytest.mark.parametrize("size", [6 * MIB, 11 * MIB, 16 * MIB + 1])
@pytest.mark.parametrize("chunk", [1000 * 1000, 20 * MIB])
async def test_a_threshold_of_parts_that_are_not_whole(options: Options, size: int, chunk: int) -> None:
    """S3 takes no part of less than 5 MiB but for the last one."""
    data = os.urandom(size)
    async with opened(options(multipart_threshold_bytes=6 * MIB, part_size_bytes=5 * MIB)) as rig:
        writer = await rig.blob().create(content_type="text/plain")
        for start in range(0, size, chunk):
            await writer.write(data[start : start + chunk])
        info = await writer.commit()
        assert (info.file_id, info.size) == (hashlib.sha256(data).hexdigest(), size)
        assert await rig.blob().get(info.file_id) == data


async def test_a_put_of_no_bytes_may_be_left_out(options: Options) -> None:
    async with opened(options(upload_method="single_put")) as rig:
        session = await rig.blob().create_upload(content_type="a/b", size=0)
        info = await rig.blob().finalize(session.upload_id)
        assert (info.size, info.content_type) == (0, "a/b")
        assert await rig.blob().finalize(session.upload_id) == info


async def test_a_put_of_another_size_is_refused(options: Options) -> None:
    async with opened(options(upload_method="single_put")) as rig:
        session = await rig.blob().create_upload(content_type="a/b", size=5)
        assert session.url is not None
        headers = {**session.headers, "Content-Length": "6"}
        with pytest.raises(urllib.error.HTTPError) as refused:
            await asyncio.to_thread(fetch, session.url, b"sixsix", headers)
        refused.value.close()
        proxied = await _proxy_session(options, size=5)
        with pytest.raises(BlobIntegrityError, match="announced"):
            await rig.blob().finalize(proxied)


async def _proxy_session(options: Options, *, size: int) -> str:
    async with opened(options(upload_method="proxy")) as rig:
        session = await rig.blob().create_upload(content_type="a/b", size=size)
        await rig.blob().upload(session.upload_id, b"abc")
        return session.upload_id


async def test_garbage_goes_by_age_and_live_uploads_stay(options: Options) -> None:
    async with opened(options(**SMALL_PARTS)) as rig, opened(rig.options) as dead:
        kept = await rig.blob().put_bytes(b"kept", content_type="a/b")
        live = await rig.blob().create(content_type="a/b")
        await live.write(os.urandom(6 * MIB))
        lost = await dead.blob().create(content_type="a/b")
        await lost.write(os.urandom(6 * MIB))
        # Its part travels in the background: one that arrives later is a sign of life.
        assert isinstance(lost, S3BlobWriter)
        assert lost._upload is not None
        await lost._upload.sent()
        session = await dead.blob().create_upload(content_type="a/b")
        # As if the other process had died.
        (await dead.lazy.get()).uploads.clear()
        endpoint = _endpoint(rig)
        assert len(list(s3_client.unfinished_uploads(endpoint, rig.options.bucket))) == 2
        assert await rig.blob().collect_garbage(older_than_seconds=3600) == 0
        assert await rig.blob().collect_garbage(older_than_seconds=0) == 2
        assert len(list(s3_client.unfinished_uploads(endpoint, rig.options.bucket))) == 1
        with pytest.raises(BlobNotFoundError):
            await rig.blob().finalize(session.upload_id)
        info = await live.commit()
        assert {kept.file_id, info.file_id} == {blob.file_id async for page in rig.blob().list() for blob in page}
        assert list(s3_client.unfinished_uploads(endpoint, rig.options.bucket)) == []
        with pytest.raises(BackendError):
            await lost.commit()


@pytest.mark.parametrize("way", ["file", "stream"])
async def test_a_cancelled_upload_leaves_no_part_on_the_server(options: Options, way: str, tmp_path: Path) -> None:
    data = os.urandom(24 * MIB)
    (tmp_path / "source").write_bytes(data)
    async with opened(options(**SMALL_PARTS)) as rig:
        await rig.lazy.get()

        async def put() -> None:
            if way == "file":
                await rig.blob().put_file(tmp_path / "source", content_type="a/b")
                return
            writer = await rig.blob().create(content_type="a/b")
            try:
                for start in range(0, len(data), MIB):
                    await writer.write(data[start : start + MIB])
                await writer.commit()
            finally:
                await writer.abort()

        for delay in (0.02, 0.05, 0.1, 0.2):
            task = asyncio.create_task(put())
            await asyncio.sleep(delay)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert list(s3_client.unfinished_uploads(_endpoint(rig), rig.options.bucket)) == []
        whole = f"blobs/{hashlib.sha256(data).hexdigest()}"
        assert set(s3_client.list_keys(_endpoint(rig), rig.options.bucket)) <= {whole}


async def test_large_copies_go_in_parts(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specstar.backends.s3.multipart._COPY_AT_ONCE", 6 * MIB)
    monkeypatch.setattr("specstar.backends.s3.multipart._COPY_PART", 5 * MIB)
    data = os.urandom(13 * MIB)
    async with opened(options(**SMALL_PARTS)) as rig:
        info = await rig.blob().put_bytes(data, content_type="x/y")
        assert info.content_type == "x/y"
        reader = await rig.blob().open(info.file_id)
        found = b""
        while chunk := await reader.read():
            found += chunk
        await reader.aclose()
        assert found == data
        assert await rig.blob().stat(info.file_id) == info


async def test_blobs_lie_in_their_own_bucket(options: Options, s3: S3Endpoint) -> None:
    other = f"other-{os.urandom(4).hex()}"
    s3_client.create_bucket(s3, other)
    try:
        async with opened(options(blob_bucket=other, blob_prefix="b")) as rig:
            info = await rig.blob().put_bytes(b"x", content_type="a/b")
            await rig.resource().put(PayloadKey("r", "p"), b"y")
            assert s3_client.list_keys(s3, other) == [f"b/{info.file_id}"]
            assert [key.split("/")[0] for key in s3_client.list_keys(s3, rig.options.bucket)] == ["resource"]
    finally:
        s3_client.delete_bucket(s3, other)


class Note(Struct):
    text: str


async def test_writes_that_a_foreign_one_is_in_the_way_of_can_be_given_up(options: Options) -> None:
    def spec_of(**more: Any) -> tuple[SpecStar, ResourceManager[Note]]:
        given = options(**more)
        named = {
            name: getattr(given, name)
            for name in ("bucket", "access_key_id", "secret_access_key", "endpoint_url", "region_name", "auto_sync")
        }
        s3 = {"type": "s3", "options": named}
        spec = SpecStar()
        spec.configure(backend={"meta": s3, "resource": s3, "blob": s3})
        return spec, spec.add_model(Note)

    (local, drafts), (foreign, notes) = spec_of(auto_sync=False), spec_of()
    async with local, foreign:
        first = await notes.create(Note("first"))
        mine = await drafts.create(Note("mine"))
        second = await notes.create(Note("second"))
        with pytest.raises(RevisionConflictError):
            await drafts.sync()
        await drafts.discard()
        assert not await drafts.exists(mine.resource_id)
        assert [(await drafts.get(one.resource_id)).data.text for one in (first, second)] == ["first", "second"]
        again = await drafts.create(Note("again"))
        await drafts.sync()
        assert await notes.exists(again.resource_id)


async def test_what_is_left_of_an_aborted_session_is_no_blob_and_takes_nothing(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(options()) as one, opened(options()) as two:
        session = await one.blob().create_upload(content_type="text/plain")
        for number in range(3):
            await one.blob().upload(session.upload_id, b"chunk %d " % number)

        async def interrupted(*_: Any, **__: Any) -> None:
            raise BackendUnavailable("the answer was lost")

        with monkeypatch.context() as patch:
            patch.setattr(blob_uploads, "delete_page", interrupted)
            with pytest.raises(BackendUnavailable):
                await two.blob().abort(session.upload_id)
        for rig in (one, two):
            with pytest.raises(BlobNotFoundError):
                await rig.blob().upload(session.upload_id, b"more")
            with pytest.raises(BlobNotFoundError):
                await rig.blob().finalize(session.upload_id)
        await two.blob().abort(session.upload_id)


async def test_what_is_garbage_goes_by_the_clock_of_the_server(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(options()) as rig:
        # Its row is on the way.
        await rig.resource().put(PayloadKey("r", "p"), b"payload")
        storage = ComposedStorage(rig.meta(), rig.resource(), model="Sample")
        monkeypatch.setattr(resource_role, "datetime", TwoHoursAhead)
        monkeypatch.setattr(time, "time", lambda: datetime.now(UTC).timestamp() + 7_200)
        assert await collect(storage, older_than_seconds=3_600) == 0
        assert await rig.resource().get(PayloadKey("r", "p")) == b"payload"
        assert await collect(storage, older_than_seconds=0) == 1


async def test_a_session_stays_as_long_as_its_url(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(options(upload_method="single_put", presigned_url_expiry=3600)) as rig:
        late = await rig.blob().create_upload(content_type="text/plain", size=5)
        with monkeypatch.context() as here:
            here.setattr(blob_uploads, "datetime", TwoHoursAhead)
            assert await rig.blob().collect_garbage(older_than_seconds=-5) == 0
        assert late.url is not None
        put = urllib.request.Request(late.url, data=b"hello", method="PUT", headers=late.headers)
        await asyncio.to_thread(lambda: urllib.request.urlopen(put, timeout=20).close())
        assert (await rig.blob().finalize(late.upload_id)).size == 5
    async with opened(options(upload_method="single_put", presigned_url_expiry=1)) as rig:
        await rig.blob().create_upload(content_type="text/plain", size=5)
        await asyncio.sleep(2)
        assert await rig.blob().collect_garbage(older_than_seconds=-5) == 2
