"""The coroutines of `spec.blobs` and of its streams."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio

from specstar.errors import BlobNotFoundError
from tests.faults.cancellation.place import Case, Place

__all__ = ["BLOB_CASES", "LARGE_BLOB_CASE"]

_PART = 60_000


async def content(place: Place) -> bytes:
    """Bytes that are not there yet."""
    return place.bytes(place.number())


async def large_content(place: Place) -> bytes:
    """More than one part of a multipart upload."""
    return place.bytes(place.number(), 11 << 20)


async def stored(place: Place) -> bytes:
    data = await content(place)
    await place.spec.blobs.put(data)
    return data


def id_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def look(place: Place, data: bytes) -> Any:
    """Whether the blob is there; if so, it is whole."""
    try:
        found = await place.spec.blobs.get(id_of(data))
    except BlobNotFoundError:
        assert not await place.spec.blobs.exists(id_of(data))
        return False
    assert found == data
    return True


async def put_path(place: Place, data: bytes) -> Any:
    with tempfile.NamedTemporaryFile(delete=False) as file:
        file.write(data)
    path = Path(file.name)
    try:
        return await place.spec.blobs.put(path)
    finally:
        path.unlink()  # noqa: ASYNC240


async def save(place: Place, data: bytes) -> Any:
    """It is there whole or not at all, and nothing else is left."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "saved"
        try:
            await place.spec.blobs.save(id_of(data), path)
        finally:
            assert [found.read_bytes() for found in Path(folder).iterdir()] in ([], [data])  # noqa: ASYNC240


async def put_iterable(place: Place, data: bytes) -> Any:
    def parts() -> Iterator[bytes]:
        for start in range(0, len(data), _PART):
            yield data[start : start + _PART]

    return await place.spec.blobs.put(parts())


async def put_async_iterable(place: Place, data: bytes) -> Any:
    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(data), _PART):
            await anyio.lowlevel.checkpoint()
            yield data[start : start + _PART]

    return await place.spec.blobs.put(parts())


async def stream(place: Place, data: bytes) -> Any:
    async with place.spec.blobs.open(id_of(data)) as chunks:
        assert b"".join([chunk async for chunk in chunks]) == data


async def enter(place: Place, data: bytes) -> Any:
    async with place.spec.blobs.open(id_of(data)):
        pass


async def leave_early(place: Place, data: bytes) -> Any:
    async with place.spec.blobs.open(id_of(data), start=10) as chunks:
        await chunks.__anext__()


async def upload_of(place: Place, data: bytes) -> str:
    session = await place.spec.blobs.create_upload()
    await place.spec.blobs.upload(session.upload_id, data)
    return session.upload_id


async def session_with_half(place: Place) -> tuple[str, bytes]:
    data = await content(place)
    return await upload_of(place, data[: len(data) // 2]), data


async def session_with_all(place: Place) -> tuple[str, bytes]:
    data = await content(place)
    return await upload_of(place, data), data


async def upload_the_rest(place: Place, subject: tuple[str, bytes]) -> Any:
    upload_id, data = subject
    await place.spec.blobs.upload(upload_id, data[len(data) // 2 :])


async def look_at_upload(place: Place, subject: tuple[str, bytes]) -> Any:
    """How much of it finalizes into a whole blob."""
    upload_id, data = subject
    try:
        info = await place.spec.blobs.finalize(upload_id)
    except BlobNotFoundError:
        return 0
    assert await place.spec.blobs.get(info.file_id) == data[: info.size]
    return info.size


async def look_at_content(place: Place, subject: tuple[str, bytes]) -> Any:
    """After `finalize`: it can be repeated, and then gives the blob."""
    upload_id, data = subject
    assert (await place.spec.blobs.finalize(upload_id)).file_id == id_of(data)
    return await look(place, data)


async def abandoned(place: Place) -> list[tuple[str, bytes]]:
    return [await session_with_all(place) for _ in range(2)]


async def look_at_uploads(place: Place, subjects: list[tuple[str, bytes]]) -> Any:
    return [await look_at_upload(place, subject) for subject in subjects]


def _case(name: str, *arguments: Any, **options: Any) -> Case:
    return Case(f"BlobManager.{name}", *arguments, **options)


BLOB_CASES = [
    _case("put", content, lambda p, s: p.spec.blobs.put(s), look, note="bytes"),
    _case("put", content, put_path, look, note="path"),
    _case("put", content, lambda p, s: p.spec.blobs.put(io.BytesIO(s)), look, note="file"),
    _case("put", content, put_iterable, look, note="iterable"),
    _case("put", content, put_async_iterable, look, note="async iterable"),
    _case("get", stored, lambda p, s: p.spec.blobs.get(id_of(s)), look),
    _case("save", stored, save, look),
    _case("stat", stored, lambda p, s: p.spec.blobs.stat(id_of(s))),
    _case("exists", stored, lambda p, s: p.spec.blobs.exists(id_of(s))),
    _case("delete", stored, lambda p, s: p.spec.blobs.delete(id_of(s)), look),
    _case("url", stored, lambda p, s: p.spec.blobs.url(id_of(s))),
    _case("create_upload", content, lambda p, s: p.spec.blobs.create_upload()),
    _case("upload", session_with_half, upload_the_rest, look_at_upload),
    _case("finalize", session_with_all, lambda p, s: p.spec.blobs.finalize(s[0]), look_at_content),
    _case("abort", session_with_all, lambda p, s: p.spec.blobs.abort(s[0]), look_at_upload),
    _case(
        "collect_garbage",
        abandoned,
        lambda p, s: p.spec.blobs.collect_garbage(older_than_seconds=0),
        look_at_uploads,
        parts=True,
        alone=True,
    ),
    Case("BlobStream.__aenter__", stored, enter, look),
    Case("BlobStream.__anext__", stored, stream, look),
    Case("BlobStream.__aexit__", stored, leave_early, look),
]

LARGE_BLOB_CASE = _case("put", large_content, put_iterable, look, note="in parts")
