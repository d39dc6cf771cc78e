"""What every backend must do behind `spec.blobs`."""

from __future__ import annotations

import array
import asyncio
import contextlib
import hashlib
import io
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
import sniffio
from starlette.datastructures import UploadFile

from specstar import SpecStar
from specstar.blobs import BlobSource
from specstar.errors import BlobNotFoundError, InvalidInputError, UsageError
from specstar.roles import BlobInfo
from tests.conformance.managers.blocking import BlockingStar


@pytest.fixture(params=["memory", "disk", "s3"])
def binding(request: pytest.FixtureRequest) -> str:
    """The backends that have the role."""
    name: str = request.param
    return name


def sample(size: int, seed: bytes = b"specstar") -> bytes:
    block = hashlib.sha256(seed).digest()
    return (block * (size // len(block) + 1))[:size]


@pytest.mark.parametrize("size", [0, 1, 1000, 1 << 20, (1 << 20) + 1, 9 << 20])
async def test_bytes_come_back_as_they_went(star: SpecStar, size: int) -> None:
    data = sample(size)
    info = await star.blobs.put(data, content_type="image/png")
    assert (info.size, info.content_type) == (size, "image/png")
    assert info.file_id == info.sha256 == hashlib.sha256(data).hexdigest()
    assert await star.blobs.get(info.file_id) == data
    assert await star.blobs.stat(info.file_id) == info
    async with star.blobs.open(info.file_id) as chunks:
        assert chunks.info == info
        received = [chunk async for chunk in chunks]
    assert b"".join(received) == data
    assert all(0 < len(chunk) <= 1 << 20 for chunk in received)


async def test_every_kind_of_source_gives_the_same_blob(star: SpecStar, tmp_path: Path) -> None:
    data = sample(3 << 20)
    path = tmp_path / "picture.png"
    path.write_bytes(data)

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(data), 700_000):
            yield data[start : start + 700_000]

    async def later() -> AsyncIterator[bytes]:
        for piece in pieces():
            await anyio.sleep(0)
            yield piece

    sources: list[Any] = [data, bytearray(data), memoryview(data), path, io.BytesIO(data), pieces()]
    if isinstance(star, SpecStar):
        upload: BlobSource = UploadFile(io.BytesIO(data), filename="picture.png")
        sources += [later(), upload]
    infos = [await star.blobs.put(source) for source in sources]
    assert {info.file_id for info in infos} == {hashlib.sha256(data).hexdigest()}
    assert {info.size for info in infos} == {len(data)}
    assert (await star.blobs.put(path)).content_type == infos[0].content_type


async def test_a_blob_goes_into_a_file(star: SpecStar, tmp_path: Path) -> None:
    data = sample(3 << 20)
    info = await star.blobs.put(data)
    path = tmp_path / "saved"
    for target in (path, str(path)):
        assert await star.blobs.save(info.file_id, target) == info
        assert path.read_bytes() == data
        path.unlink()


@pytest.mark.parametrize("name", ["missing", "", "\0", "x" * 300])
async def test_a_file_that_cannot_be_read_is_named(star: SpecStar, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInputError, match="cannot read"):
        await star.blobs.put(tmp_path / name)


async def test_the_type_of_a_path_is_guessed_from_its_name(star: SpecStar, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(b"<p>")
    assert (await star.blobs.put(path)).content_type == "text/html"


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, None, slice(0, None)), (5, 9, slice(5, 9)), (1_500_000, 2_500_000, slice(1_500_000, 2_500_000)),
     (2_999_990, 99_000_000, slice(2_999_990, None)), (9_000_000, None, slice(0, 0)), (7, 7, slice(0, 0)), (9, 3, slice(0, 0))],
)  # fmt: skip
async def test_ranges_are_clamped_to_the_blob(star: SpecStar, start: int, end: int | None, expected: slice) -> None:
    data = sample(3_000_000)
    info = await star.blobs.put(data)
    assert await star.blobs.get(info.file_id, start=start, end=end) == data[expected]


@pytest.mark.parametrize(
    "file_id", ["0" * 64, "nothing", "", "../../etc/passwd", "A" * 64, "\0", "x" * 10_000, "_uploads/x"]
)
async def test_no_such_blob(star: SpecStar, file_id: str) -> None:
    await star.blobs.put(b"neighbour")
    with pytest.raises(BlobNotFoundError):
        await star.blobs.get(file_id)
    with pytest.raises(BlobNotFoundError):
        await star.blobs.stat(file_id)
    with pytest.raises(BlobNotFoundError):
        await star.blobs.delete(file_id)
    assert not await star.blobs.exists(file_id)


async def test_a_deleted_blob_is_gone_and_can_be_put_again(star: SpecStar) -> None:
    info = await star.blobs.put(b"data")
    await star.blobs.delete(info.file_id)
    assert not await star.blobs.exists(info.file_id)
    again = await star.blobs.put(b"data")
    assert again.file_id == info.file_id
    assert await star.blobs.get(info.file_id) == b"data"


async def test_a_source_that_fails_leaves_nothing(star: SpecStar) -> None:
    data = sample(2 << 20)

    def broken() -> Iterator[bytes]:
        yield data
        raise LookupError("the source broke")

    with pytest.raises(LookupError, match="the source broke"):
        await star.blobs.put(broken())
    assert not await star.blobs.exists(hashlib.sha256(data).hexdigest())
    assert await star.blobs.collect_garbage(older_than_seconds=0) == 0


async def test_the_same_content_at_the_same_time_is_one_blob(star: SpecStar) -> None:
    infos = []

    async def put(data: bytes) -> None:
        infos.append(await star.blobs.put(data))

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(put, sample(400_000))
    assert len({info.file_id for info in infos}) == 1
    assert await star.blobs.get(infos[0].file_id) == sample(400_000)


async def test_an_upload_session_takes_bytes_in_pieces(star: SpecStar) -> None:
    session = await star.blobs.create_upload(content_type="text/plain", size=11)
    assert session.method == "proxy"
    await star.blobs.upload(session.upload_id, b"hello ")
    await star.blobs.upload(session.upload_id, b"world")
    info = await star.blobs.finalize(session.upload_id)
    assert (info.size, info.content_type) == (11, "text/plain")
    assert await star.blobs.get(info.file_id) == b"hello world"
    other = await star.blobs.create_upload()
    await star.blobs.upload(other.upload_id, b"gone")
    await star.blobs.abort(other.upload_id)
    await star.blobs.abort(other.upload_id)
    with pytest.raises(BlobNotFoundError):
        await star.blobs.upload(other.upload_id, b"more")
    with pytest.raises(BlobNotFoundError):
        await star.blobs.finalize("../../nothing")


async def test_a_finalize_that_is_given_up_does_not_open_the_session_again(star: SpecStar) -> None:
    """A client that ran out of patience and asked again: nothing is taken that the second one does not see."""
    session = await star.blobs.create_upload()
    for number in range(3):
        await star.blobs.upload(session.upload_id, sample(2 << 20) + b"%d" % number)
    refused: list[str] = []
    infos: list[BlobInfo] = []

    async def second() -> None:
        infos.append(await star.blobs.finalize(session.upload_id))

    async with anyio.create_task_group() as group:
        with anyio.move_on_after(0.002):
            async with anyio.create_task_group() as inner:
                inner.start_soon(star.blobs.finalize, session.upload_id)
                group.start_soon(second)
        try:
            await star.blobs.upload(session.upload_id, b"more")
        except UsageError:
            refused.append("it is being finalized, or was")
    assert infos[0].size == 3 * ((2 << 20) + 1) + (0 if refused else 4)


async def test_what_is_stored_and_deleted_again_and_again_is_stored_each_time(star: SpecStar) -> None:
    stored: list[str] = []

    async def put() -> None:
        for _ in range(10):
            stored.append((await star.blobs.put(b"the same")).file_id)

    async def delete() -> None:
        for _ in range(10):
            with contextlib.suppress(BlobNotFoundError):
                await star.blobs.delete(hashlib.sha256(b"the same").hexdigest())

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(put)
            group.start_soon(delete)
    assert len(stored) == 40


async def test_the_url_of_a_session_is_shown_to_nobody(star: SpecStar) -> None:
    session = msgspec.structs.replace(await star.blobs.create_upload(), url="https://h/key?X-Amz-Signature=secret")
    assert "secret" not in repr(session)
    assert session.upload_id in repr(session)


async def test_wrong_sources_and_types_are_refused(star: SpecStar) -> None:
    with pytest.raises(InvalidInputError, match="encode"):
        await star.blobs.put("text")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError):
        await star.blobs.put(7)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError):
        await star.blobs.put(["text"])  # type: ignore[list-item]
    with pytest.raises(InvalidInputError):
        await star.blobs.put(b"x", content_type="text/plain\r\nX-Evil: 1")


async def test_a_stream_is_used_inside_its_context_and_may_be_left_early(star: SpecStar) -> None:
    info = await star.blobs.put(sample(4 << 20))
    async with star.blobs.open(info.file_id) as chunks:
        async for _ in chunks:
            break
    with pytest.raises(UsageError, match="async with"):
        _ = star.blobs.open(info.file_id).info
    assert len(await star.blobs.get(info.file_id)) == 4 << 20


async def test_url_is_a_link_or_none(star: SpecStar, binding: str) -> None:
    info = await star.blobs.put(b"data")
    url = await star.blobs.url(info.file_id, expires_in=60)
    assert (url is not None and info.file_id in url) if binding == "s3" else url is None


async def test_views_with_large_items_or_gaps_are_the_bytes_that_they_show(star: SpecStar) -> None:
    numbers = array.array("I", range(70_000))
    gaps = memoryview(bytes(range(256)) * 4)[::2]
    source: list[Any] = [memoryview(numbers), b"x", gaps]
    info = await star.blobs.put(source)
    expected = numbers.tobytes() + b"x" + gaps.tobytes()
    assert info.size == len(expected)
    assert await star.blobs.get(info.file_id) == expected


@pytest.mark.parametrize("content_type", ["", " ", " text/plain "])
async def test_a_type_has_no_spaces_around_it(star: SpecStar, content_type: str) -> None:
    info = await star.blobs.put(b"typed", content_type=content_type)
    assert info.content_type == (await star.blobs.stat(info.file_id)).content_type
    assert info.content_type == (content_type.strip() or "application/octet-stream")


async def test_numbers_that_are_none_are_refused(star: SpecStar) -> None:
    info = await star.blobs.put(b"some bytes")
    for seconds in (float("nan"), float("inf"), 0, -1, 0.5, 604_801):
        with pytest.raises(InvalidInputError, match="expires_in"):
            await star.blobs.url(info.file_id, expires_in=seconds)
    wrong: Any
    for wrong in (-1, 1.5, "3"):
        with pytest.raises(InvalidInputError, match="size"):
            await star.blobs.create_upload(size=wrong)
    for seconds in (float("nan"), float("inf"), 1e12):
        with pytest.raises(InvalidInputError, match="older_than_seconds"):
            await star.blobs.collect_garbage(older_than_seconds=seconds)


class _SlowFile(io.BytesIO):
    """Notes whether it is being read."""

    reading = 0

    def read(self, size: int | None = -1) -> bytes:
        self.reading += 1
        time.sleep(0.2)
        try:
            return super().read(size)
        finally:
            self.reading -= 1


async def test_a_cancelled_put_leaves_its_file_to_the_caller(star: SpecStar) -> None:
    """A thread that went on reading would take bytes away from the next put."""
    if isinstance(star, BlockingStar):
        return  # a call that blocks its thread cannot be cancelled
    source = _SlowFile(sample(3 << 20))

    async def put() -> None:
        await star.blobs.put(source)

    if sniffio.current_async_library() == "asyncio":
        task = asyncio.ensure_future(put())
        await anyio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        with anyio.move_on_after(0.3):
            await put()
    assert source.reading == 0
    source.seek(0)
    assert (await star.blobs.put(source)).sha256 == hashlib.sha256(source.getvalue()).hexdigest()


async def test_a_file_that_has_nothing_to_read_yet_is_refused(star: SpecStar) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.write(writing, b"first")
    with (
        os.fdopen(reading, "rb", buffering=0) as source,
        os.fdopen(writing, "wb"),
        pytest.raises(InvalidInputError, match="nothing to read yet"),
    ):
        await star.blobs.put(source)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("page.html", "text/html"),
        ("page.html.gz", "application/gzip"),
        ("all.tar.bz2", "application/x-bzip2"),
        ("all.tar.xz", "application/x-xz"),
        ("noname", "application/octet-stream"),
    ],
)
async def test_the_type_of_a_compressed_file_is_that_of_its_compression(
    star: SpecStar, tmp_path: Path, name: str, expected: str
) -> None:
    (tmp_path / name).write_bytes(name.encode())
    assert (await star.blobs.put(tmp_path / name)).content_type == expected


async def test_what_is_no_id_and_no_number_is_refused_like_others(star: SpecStar) -> None:
    nothing: Any = None
    blobs: Any = star.blobs
    for wrong in (nothing, 5, b"0" * 64):
        for call in (blobs.get, blobs.stat, blobs.delete, blobs.finalize):
            with pytest.raises(BlobNotFoundError):
                await call(wrong)
        assert await blobs.exists(wrong) is False
        with pytest.raises(BlobNotFoundError):
            await blobs.upload(wrong, b"data")
        await blobs.abort(wrong)
    info = await star.blobs.put(b"data")
    for bounds in ({"start": nothing}, {"end": float("nan")}, {"start": 0.5}, {"end": "3"}):
        with pytest.raises(InvalidInputError, match="number of bytes"):
            await blobs.get(info.file_id, **bounds)
        with pytest.raises(InvalidInputError, match="number of bytes"):
            blobs.open(info.file_id, **bounds)
    with pytest.raises(InvalidInputError, match="content_type"):
        await blobs.put(b"data", content_type=5)
    with pytest.raises(InvalidInputError, match="pass its file_id"):
        await blobs.get(info)
    with pytest.raises(InvalidInputError, match="expires_in"):
        await blobs.url(info.file_id, expires_in="5")
    with pytest.raises(InvalidInputError, match="path is a Path or a str"):
        await blobs.save(info.file_id, 5)


async def test_a_stream_is_entered_once_at_a_time(star: SpecStar) -> None:
    info = await star.blobs.put(b"data")
    stream = star.blobs.open(info.file_id)
    async with stream:
        with pytest.raises(UsageError, match="open already"):
            await stream.__aenter__()
        assert b"".join([chunk async for chunk in stream]) == b"data"


async def test_saving_keeps_the_permissions_and_the_link_of_what_was_there(star: SpecStar, tmp_path: Path) -> None:
    info = await star.blobs.put(b"new")
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    target.chmod(0o600)
    link.symlink_to(target)
    await star.blobs.save(info.file_id, link)
    assert link.is_symlink()
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"new", 0o600)
    assert sorted(os.listdir(tmp_path))[-2:] == ["link", "target"]  # noqa: PTH208
    assert not any(name.startswith(".specstar") for name in os.listdir(tmp_path))  # noqa: PTH208
