"""The contract of `BlobStore`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from specstar.errors import BlobIntegrityError, BlobNotFoundError, InvalidInputError, UsageError
from specstar.roles import BlobInfo, BlobStore
from tests.conformance.harness import Bench

SUITE = "blob"
MIB = 1 << 20
BAD_IDS = [
    "",
    "x",
    "..",
    "../../etc/passwd",
    "a" * 64,
    "A" * 64,
    "0" * 63,
    "0" * 65,
    "\0" * 64,
    "é" * 64,
    "0" * 62 + "/.",
    "%",
]


@pytest.fixture
async def blobs(bench: Bench) -> BlobStore:
    return await bench.blob()


async def read_all(blobs: BlobStore, file_id: str, start: int = 0, end: int | None = None) -> bytes:
    reader = await blobs.open(file_id, start=start, end=end)
    chunks = []
    try:
        while chunk := await reader.read():
            assert len(chunk) <= MIB
            chunks.append(chunk)
        assert await reader.read() == b""
    finally:
        await reader.aclose()
    return b"".join(chunks)


async def put_chunks(blobs: BlobStore, chunks: Sequence[bytes], content_type: str = "text/plain") -> BlobInfo:
    writer = await blobs.create(content_type=content_type)
    for chunk in chunks:
        await writer.write(chunk)
    return await writer.commit()


def files_in(folder: Path) -> list[str]:
    return [found.name for found in folder.iterdir() if found.is_file()]


async def ids(blobs: BlobStore) -> list[str]:
    return sorted([info.file_id async for page in blobs.list() for info in page])


@pytest.mark.parametrize("size", [0, 1, 1000, MIB - 1, MIB, MIB + 1, 5 * MIB + 3])
async def test_bytes_come_back_under_their_hash(blobs: BlobStore, size: int) -> None:
    data = os.urandom(size)
    info = await blobs.put_bytes(data, content_type="image/png")
    assert info.file_id == info.sha256 == hashlib.sha256(data).hexdigest()
    assert (info.size, info.content_type) == (size, "image/png")
    assert abs(info.created_time - datetime.now(UTC)) < timedelta(minutes=1)
    assert await blobs.stat(info.file_id) == info
    assert await read_all(blobs, info.file_id) == data


@pytest.mark.parametrize("size", [0, 1, MIB + 1, 3 * MIB])
async def test_a_file_is_stored(blobs: BlobStore, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    path = tmp_path / "in put é.bin"
    path.write_bytes(data)
    info = await blobs.put_file(path, content_type="text/plain")
    assert info.file_id == hashlib.sha256(data).hexdigest()
    assert info.size == size
    assert await read_all(blobs, info.file_id) == data
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    "parts", [[], [b""], [b"", b"a", b""], [b"x" * 10] * 1000, [b"y" * MIB, b"z" * (2 * MIB), b"."]]
)
async def test_chunks_of_any_size_make_a_blob(blobs: BlobStore, parts: list[bytes]) -> None:
    info = await put_chunks(blobs, parts)
    data = b"".join(parts)
    assert info.file_id == hashlib.sha256(data).hexdigest()
    assert info.size == len(data)
    assert await read_all(blobs, info.file_id) == data


async def test_a_writer_copies_what_it_is_given(blobs: BlobStore) -> None:
    writer = await blobs.create(content_type="text/plain", size_hint=12)
    buffer = bytearray(b"first ")
    await writer.write(buffer)
    buffer[:] = b"second"
    await writer.write(memoryview(buffer))
    buffer[:] = b"......"
    info = await writer.commit()
    assert await read_all(blobs, info.file_id) == b"first second"


async def test_nothing_is_visible_before_commit(blobs: BlobStore) -> None:
    writer = await blobs.create(content_type="text/plain")
    await writer.write(b"data")
    assert await ids(blobs) == []
    with pytest.raises(BlobNotFoundError):
        await blobs.stat(hashlib.sha256(b"data").hexdigest())
    info = await writer.commit()
    assert await ids(blobs) == [info.file_id]


async def test_an_aborted_upload_leaves_nothing(blobs: BlobStore) -> None:
    writer = await blobs.create(content_type="text/plain")
    await writer.write(b"d" * (2 * MIB))
    await writer.abort()
    await writer.abort()
    for call in (writer.commit, lambda: writer.write(b"more")):
        with pytest.raises(UsageError):
            await call()
    assert await ids(blobs) == []
    assert await blobs.collect_garbage(older_than_seconds=0) == 0


async def test_abort_after_commit_does_nothing(blobs: BlobStore) -> None:
    writer = await blobs.create(content_type="text/plain")
    await writer.write(b"kept")
    info = await writer.commit()
    await writer.abort()
    with pytest.raises(UsageError):
        await writer.commit()
    with pytest.raises(UsageError):
        await writer.write(b"more")
    assert await read_all(blobs, info.file_id) == b"kept"


async def test_the_same_bytes_are_stored_once(blobs: BlobStore, tmp_path: Path) -> None:
    path = tmp_path / "same"
    path.write_bytes(b"same")
    infos = [
        await blobs.put_bytes(b"same", content_type="text/plain"),
        await blobs.put_bytes(b"same", content_type="text/plain"),
        await put_chunks(blobs, [b"sa", b"me"]),
        await blobs.put_file(path, content_type="text/plain"),
    ]
    assert len({info.file_id for info in infos}) == 1
    assert len({info.created_time for info in infos}) == 1
    assert await ids(blobs) == [infos[0].file_id]


async def test_concurrent_uploads_of_the_same_bytes_all_succeed(blobs: BlobStore) -> None:
    data = os.urandom(MIB // 2)
    found: list[str] = []

    async def put(number: int) -> None:
        info = await (blobs.put_bytes(data, content_type="a/b") if number % 2 else put_chunks(blobs, [data], "a/b"))
        found.append(info.file_id)

    async with anyio.create_task_group() as group:
        for number in range(16):
            group.start_soon(put, number)
    assert set(found) == {hashlib.sha256(data).hexdigest()}
    assert await ids(blobs) == sorted(set(found))
    assert await read_all(blobs, found[0]) == data


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (0, None), (0, 0), (0, 1), (1, 2), (5, None), (0, MIB), (MIB - 1, MIB + 1), (MIB, None), (2 * MIB + 9, 2 * MIB + 10),
        (2 * MIB + 10, None), (2 * MIB + 11, None), (10**12, None), (0, 10**12), (-5, 3), (7, 3), (10**12, 10**13), (0, -1),
    ],
)  # fmt: skip
async def test_ranges_are_cut_to_the_blob(blobs: BlobStore, start: int, end: int | None) -> None:
    data = os.urandom(2 * MIB + 10)
    info = await blobs.put_bytes(data, content_type="text/plain")
    first = min(max(start, 0), len(data))
    last = len(data) if end is None else min(max(end, 0), len(data))
    assert await read_all(blobs, info.file_id, start, end) == data[first : max(first, last)]
    reader = await blobs.open(info.file_id, start=start, end=end)
    assert reader.info == info
    await reader.aclose()


async def test_a_reader_can_be_left_early_and_closed_twice(blobs: BlobStore) -> None:
    info = await blobs.put_bytes(os.urandom(4 * MIB), content_type="text/plain")
    reader = await blobs.open(info.file_id)
    assert await reader.read()
    await reader.aclose()
    await reader.aclose()
    unread = await blobs.open(info.file_id)
    await unread.aclose()


@pytest.mark.parametrize("size", [0, 1, MIB, 2 * MIB + 7])
async def test_a_blob_is_saved_to_a_file(blobs: BlobStore, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    info = await blobs.put_bytes(data, content_type="a/b")
    path = tmp_path / "saved é.bin"
    for _ in range(2):  # the second time over the first
        assert await blobs.save(info.file_id, path) == info
        assert path.read_bytes() == data
        path.write_bytes(b"something else")
    assert files_in(tmp_path) == [path.name]


async def test_what_is_no_ordinary_file_is_not_replaced(blobs: BlobStore, tmp_path: Path) -> None:
    info = await blobs.put_bytes(b"data", content_type="a/b")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe, tmp_path / "missing" / "file", Path("a\0b")):
        with pytest.raises(InvalidInputError, match="cannot write"):
            await blobs.save(info.file_id, path)
    assert pipe.is_fifo()
    with pytest.raises(BlobNotFoundError):
        await blobs.save("0" * 64, tmp_path / "file")
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("file_id", BAD_IDS)
async def test_an_unknown_id_is_not_found(blobs: BlobStore, file_id: str) -> None:
    await blobs.put_bytes(b"there", content_type="text/plain")
    for call in (blobs.stat, blobs.open, blobs.delete, blobs.url):
        with pytest.raises(BlobNotFoundError) as caught:
            await call(file_id)
        assert caught.value.file_id == file_id


async def test_a_deleted_blob_is_gone_and_can_come_back(blobs: BlobStore) -> None:
    info = await blobs.put_bytes(b"data", content_type="text/plain")
    other = await blobs.put_bytes(b"other", content_type="text/plain")
    await blobs.delete(info.file_id)
    with pytest.raises(BlobNotFoundError):
        await blobs.delete(info.file_id)
    with pytest.raises(BlobNotFoundError):
        await blobs.open(info.file_id)
    assert await ids(blobs) == [other.file_id]
    again = await blobs.put_bytes(b"data", content_type="text/plain")
    assert again.file_id == info.file_id
    assert await read_all(blobs, info.file_id) == b"data"


async def test_a_url_is_none_or_can_be_fetched(blobs: BlobStore) -> None:
    info = await blobs.put_bytes(b"data", content_type="text/plain")
    url = await blobs.url(info.file_id, expires_in=60)
    assert url is None or url.startswith(("http://", "https://"))


async def test_a_session_makes_a_blob(blobs: BlobStore) -> None:
    session = await blobs.create_upload(content_type="text/csv", size=2 * MIB + 1)
    assert (session.method, session.content_type, session.url) == ("proxy", "text/csv", None)
    data = os.urandom(2 * MIB + 1)
    for start in range(0, len(data), 700_000):
        await blobs.upload(session.upload_id, data[start : start + 700_000])
    assert await ids(blobs) == []
    info = await blobs.finalize(session.upload_id)
    assert (info.file_id, info.content_type) == (hashlib.sha256(data).hexdigest(), "text/csv")
    assert await blobs.finalize(session.upload_id) == info
    assert await read_all(blobs, info.file_id) == data
    await blobs.delete(info.file_id)
    with pytest.raises(BlobNotFoundError):
        await blobs.finalize(session.upload_id)


async def test_an_empty_part_makes_an_empty_blob(blobs: BlobStore) -> None:
    session = await blobs.create_upload(content_type="text/csv", size=0)
    await blobs.upload(session.upload_id, b"")
    assert (await blobs.finalize(session.upload_id)).size == 0


async def test_a_session_of_no_announced_bytes_needs_no_part(blobs: BlobStore) -> None:
    session = await blobs.create_upload(content_type="text/csv", size=0)
    info = await blobs.finalize(session.upload_id)
    assert (info.file_id, info.size, info.content_type) == (hashlib.sha256().hexdigest(), 0, "text/csv")
    assert await blobs.finalize(session.upload_id) == info
    assert await read_all(blobs, info.file_id) == b""
    missing = await blobs.create_upload(content_type="text/csv", size=1)
    with pytest.raises(BlobNotFoundError):
        await blobs.finalize(missing.upload_id)


async def test_a_session_checks_the_announced_size(blobs: BlobStore) -> None:
    for announced in (1, 3):
        session = await blobs.create_upload(content_type="text/csv", size=announced)
        await blobs.upload(session.upload_id, b"12")
        with pytest.raises(BlobIntegrityError):
            await blobs.finalize(session.upload_id)
        await blobs.abort(session.upload_id)
    assert await ids(blobs) == []


async def test_a_session_without_bytes_is_no_blob(blobs: BlobStore) -> None:
    session = await blobs.create_upload(content_type="text/csv")
    with pytest.raises(BlobNotFoundError):
        await blobs.finalize(session.upload_id)


async def test_a_part_that_was_acknowledged_is_in_the_blob(blobs: BlobStore) -> None:
    """Also if it came while the session was being finalized: then it is in, or it was refused."""
    for number in range(10):
        session = await blobs.create_upload(content_type="text/plain")
        await blobs.upload(session.upload_id, b"%d" % number)
        taken: list[bytes] = []

        async def add(upload_id: str = session.upload_id, taken: list[bytes] = taken) -> None:
            for count in range(20):
                try:
                    await blobs.upload(upload_id, part := b"<%d>" % count)
                except UsageError:
                    return
                taken.append(part)

        async def end(upload_id: str = session.upload_id, turns: int = number) -> BlobInfo:
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            return await blobs.finalize(upload_id)

        async with anyio.create_task_group() as group:
            group.start_soon(add)
            info = await end()
        assert await read_all(blobs, info.file_id) == b"%d" % number + b"".join(taken)


async def test_a_session_of_many_parts(blobs: BlobStore) -> None:
    session = await blobs.create_upload(content_type="text/plain")
    parts = [b"%d," % number for number in range(60)]
    for part in parts:
        await blobs.upload(session.upload_id, part)
    info = await blobs.finalize(session.upload_id)
    assert await read_all(blobs, info.file_id) == b"".join(parts)
    with pytest.raises(UsageError, match="finalized"):
        await blobs.upload(session.upload_id, b"late")
    assert await blobs.finalize(session.upload_id) == info


async def test_what_is_read_at_once_is_what_is_streamed(blobs: BlobStore) -> None:
    data = os.urandom(9 * MIB + 5)
    info = await blobs.put_bytes(data, content_type="text/plain")
    for start, end in (
        (0, None),
        (0, 10),
        (9 * MIB, None),
        (5, 9 * MIB + 1),
        (-5, 3),
        (7, 3),
        (0, -1),
        (10 * MIB, None),
    ):
        got = await blobs.get(info.file_id, start=start, end=end)
        assert got == await read_all(blobs, info.file_id, start, end)
        assert got == data[max(start, 0) : None if end is None else max(end, 0)]
    with pytest.raises(BlobNotFoundError):
        await blobs.get("0" * 64)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
async def test_only_ordinary_files_are_stored(blobs: BlobStore, tmp_path: Path, kind: str) -> None:
    """A pipe would be waited for, by a thread that nobody can stop."""
    path = {"pipe": tmp_path / "pipe", "folder": tmp_path, "device": Path("/dev/null")}[kind]
    if kind == "pipe":
        os.mkfifo(path)
    with anyio.fail_after(10), pytest.raises(InvalidInputError, match=f"cannot read '{path}'"):
        await blobs.put_file(path, content_type="text/plain")


async def test_a_file_whose_bytes_cannot_be_read_is_told_as_that(blobs: BlobStore) -> None:
    """Its first page is nobody's."""
    path = Path("/proc/self/mem")
    with pytest.raises(InvalidInputError, match=f"cannot read '{path}': Input/output error"):
        await blobs.put_file(path, content_type="text/plain")
    assert [info async for page in blobs.list() for info in page] == []


async def test_an_aborted_session_is_unknown(blobs: BlobStore) -> None:
    session = await blobs.create_upload(content_type="text/csv")
    await blobs.upload(session.upload_id, b"12")
    await blobs.abort(session.upload_id)
    await blobs.abort(session.upload_id)
    with pytest.raises(BlobNotFoundError):
        await blobs.upload(session.upload_id, b"3")
    with pytest.raises(BlobNotFoundError):
        await blobs.finalize(session.upload_id)
    assert await ids(blobs) == []


@pytest.mark.parametrize("upload_id", ["", "no", "..", "../x", "/etc/passwd", "\0", "é" * 400, "f" * 32, "x" * 5000])
async def test_unknown_sessions(blobs: BlobStore, upload_id: str) -> None:
    with pytest.raises(BlobNotFoundError):
        await blobs.upload(upload_id, b"data")
    with pytest.raises(BlobNotFoundError):
        await blobs.finalize(upload_id)
    await blobs.abort(upload_id)


async def test_sessions_do_not_mix(blobs: BlobStore) -> None:
    sessions = [await blobs.create_upload(content_type="a/b") for _ in range(10)]
    assert len({session.upload_id for session in sessions}) == 10

    async def fill(number: int) -> None:
        for _ in range(5):
            await blobs.upload(sessions[number].upload_id, f"{number},".encode())

    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(fill, number)
    for number, session in enumerate(sessions):
        info = await blobs.finalize(session.upload_id)
        assert await read_all(blobs, info.file_id) == f"{number},".encode() * 5


async def test_garbage_is_what_unfinished_uploads_left(blobs: BlobStore) -> None:
    kept = await blobs.put_bytes(b"kept", content_type="text/plain")
    session = await blobs.create_upload(content_type="text/csv")
    await blobs.upload(session.upload_id, b"12")
    assert await blobs.collect_garbage(older_than_seconds=3600) == 0
    await blobs.upload(session.upload_id, b"34")
    assert await blobs.collect_garbage(older_than_seconds=0) >= 1
    with pytest.raises(BlobNotFoundError):
        await blobs.finalize(session.upload_id)
    assert await ids(blobs) == [kept.file_id]
    assert await read_all(blobs, kept.file_id) == b"kept"


async def test_listing_pages_without_repeats(blobs: BlobStore) -> None:
    expected = {
        (await blobs.put_bytes(str(number).encode(), content_type="a/b")).file_id: number for number in range(60)
    }
    seen = [info async for page in blobs.list() for info in page]
    assert len(seen) == 60
    assert {info.file_id for info in seen} == set(expected)
    assert {info.content_type for info in seen} == {"a/b"}


async def test_a_cancelled_upload_leaves_nothing_visible(blobs: BlobStore) -> None:
    data = os.urandom(4 * MIB)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await blobs.put_bytes(data, content_type="a/b")
    writer = await blobs.create(content_type="a/b")
    with anyio.CancelScope() as scope:
        await writer.write(b"x" * 1000)
        scope.cancel()
        await writer.write(data)
    await writer.abort()
    # Whole or not at all.
    for file_id in await ids(blobs):
        assert hashlib.sha256(await read_all(blobs, file_id)).hexdigest() == file_id
    await blobs.collect_garbage(older_than_seconds=0)


async def test_blobs_and_sessions_outlive_the_connection(bench: Bench, blobs: BlobStore) -> None:
    data = os.urandom(2 * MIB)
    info = await blobs.put_bytes(data, content_type="x/y")
    session = await blobs.create_upload(content_type="text/csv")
    await blobs.upload(session.upload_id, b"first,")
    await bench.reopen()
    again = await bench.blob()
    if not bench.case.durable:
        assert await ids(again) == []
        return
    assert await again.stat(info.file_id) == info
    assert await read_all(again, info.file_id) == data
    await again.upload(session.upload_id, b"second")
    assert await read_all(again, (await again.finalize(session.upload_id)).file_id) == b"first,second"
