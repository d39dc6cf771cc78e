"""Blobs as users see them: `spec.blobs`."""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from specstar.blob_source import BlobSource, chunks_of, type_of_name
from specstar.errors import BlobNotFoundError, InvalidInputError, UsageError
from specstar.resource_manager.ids import checked_age
from specstar.roles import BlobInfo, BlobReader, BlobStore, BlobWriter, UploadSession
from specstar.runtime import Gate, PerGeneration, clean_up, gated

__all__ = ["BlobManager", "BlobSource", "BlobStream"]

_DEFAULT_TYPE = "application/octet-stream"
_MAX_TYPE_LENGTH = 255
_CLEANUP_SECONDS = 30.0
# The longest that S3 signs a URL for.
_LONGEST_EXPIRY_SECONDS = 604_800


class BlobStream:
    """The bytes of one blob as an asynchronous context manager and iterator of chunks of at most 1 MiB.

    `info` is known inside the context. Leaving it early releases the file or connection.
    """

    def __init__(self, gate: Gate, start: Callable[[], Any]) -> None:
        self._gate = gate
        self._start = start
        self._reader: BlobReader | None = None

    @property
    def info(self) -> BlobInfo:
        """What is known of the whole blob. Raises `UsageError` outside the context."""
        return self._entered().info

    async def __aenter__(self) -> Self:
        if self._reader is not None:
            raise UsageError("the blob is open already: call spec.blobs.open() once for each context")

        async def start() -> None:
            self._reader = await self._start()

        try:
            await self._gate.run(start)
        except BaseException as error:
            # It may have been opened all the same, over there, when the cancellation came.
            await self.__aexit__(type(error), error, None)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await clean_up(functools.partial(self._gate.run, reader.aclose), seconds=_CLEANUP_SECONDS)

    def _let_go(self) -> None:
        """Leave without waiting: whatever the reader holds goes with it."""
        self._reader = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._gate.run(self._entered().read)
        if not chunk:
            raise StopAsyncIteration
        return chunk

    def _entered(self) -> BlobReader:
        if self._reader is None:
            raise UsageError("use the blob inside its context: async with spec.blobs.open(file_id) as chunks: ...")
        return self._reader


class BlobManager:
    """Stores and reads blobs: bytes of any size under the SHA-256 of their content. Made by `SpecStar`.

    All methods raise `BlobNotFoundError` for an id that is not there, `NotConfiguredError` before `configure`, and
    `BackendUnavailable` and `BackendError` like all calls.
    """

    def __init__(self, gate: Gate, store: Callable[[], BlobStore]) -> None:
        self._gate = gate
        self._now: PerGeneration[BlobStore] = PerGeneration(gate, lambda home: store())

    @property
    def _store(self) -> BlobStore:
        return self._now.get()

    async def put(self, source: BlobSource, *, content_type: str | None = None) -> BlobInfo:
        """Store bytes, a file by its `Path`, an open binary file, or an iterable (plain or asynchronous) of bytes.

        Nothing is visible before this returns, and nothing is left if it fails. The same content is stored once. Memory
        use does not grow with the size. Without `content_type` it is guessed from the name of a path. Type and time are of
        the first who stored the content: later ones get his.
        """
        if isinstance(source, bytes | bytearray | memoryview):
            return await self._put_bytes(bytes(source), _checked_type(content_type))
        if isinstance(source, Path):
            return await self._put_file(source, _checked_type(content_type or type_of_name(source.name)))
        if isinstance(source, str):
            raise InvalidInputError("a str is no blob: pass text.encode() to store text, Path(name) to store a file")
        return await self._put_chunks(chunks_of(source), _checked_type(content_type))

    @gated
    async def _put_bytes(self, data: bytes, content_type: str) -> BlobInfo:
        return await self._store.put_bytes(data, content_type=content_type)

    @gated
    async def _put_file(self, path: Path, content_type: str) -> BlobInfo:
        return await self._store.put_file(path, content_type=content_type)

    async def _put_chunks(self, chunks: AsyncGenerator[bytes], content_type: str) -> BlobInfo:
        # The source belongs to the caller's loop, the writer to the home loop: each call crosses by itself.
        run = self._gate.run
        begun: list[BlobWriter] = []

        async def create() -> None:
            begun.append(await self._store.create(content_type=content_type))

        try:
            await run(create)
            writer = begun[0]
            async with aclosing(chunks):
                async for chunk in chunks:
                    if not isinstance(chunk, bytes | bytearray | memoryview):
                        raise InvalidInputError(f"a blob's source must give bytes, not {type(chunk).__name__}")
                    await run(functools.partial(writer.write, _plain(chunk)))
            return await run(writer.commit)
        finally:
            for writer in begun:
                await clean_up(functools.partial(run, writer.abort), seconds=_CLEANUP_SECONDS)

    @gated
    async def get(self, file_id: str, *, start: int = 0, end: int | None = None) -> bytes:
        """The bytes of a blob, or those from `start` to `end` (exclusive), in memory. Large blobs: use `open`."""
        _check_range(start, end)
        return await self._store.get(_named(file_id), start=start, end=end)

    def open(self, file_id: str, *, start: int = 0, end: int | None = None) -> BlobStream:
        """Stream a blob, or the bytes from `start` to `end` (exclusive): `async with spec.blobs.open(id) as chunks:`."""

        _check_range(start, end)

        async def begin() -> BlobReader:
            return await self._store.open(_named(file_id), start=start, end=end)

        return BlobStream(self._gate, begin)

    @gated
    async def save(self, file_id: str, path: Path | str) -> BlobInfo:
        """Copy a blob to a local file, checked, and faster than `open` can hand it out. What was there is replaced.

        The file has its name once it is whole; nothing is left if it fails. It is not fsynced. Raises `InvalidInputError`
        if it cannot be written, `BlobIntegrityError` for a damaged blob.
        """
        if not isinstance(path, str | os.PathLike):
            raise InvalidInputError(f"path is a Path or a str, not {type(path).__name__}", field="path")
        return await self._store.save(_named(file_id), Path(path))

    @gated
    async def stat(self, file_id: str) -> BlobInfo:
        """Size, type and time of a blob."""
        return await self._store.stat(_named(file_id))

    @gated
    async def exists(self, file_id: str) -> bool:
        """True if there is such a blob."""
        try:
            await self._store.stat(_named(file_id))
        except BlobNotFoundError:
            return False
        return True

    @gated
    async def delete(self, file_id: str) -> None:
        """Erase a blob."""
        await self._store.delete(_named(file_id))

    @gated
    async def url(self, file_id: str, *, expires_in: float | None = None) -> str | None:
        """A presigned URL to GET the blob, valid for `expires_in` seconds; None where the backend cannot presign.

        `expires_in` is from 1 to 604,800, which is a week; without it, the configured `presigned_url_expiry`.
        """
        if expires_in is not None and not (
            isinstance(expires_in, int | float) and 1 <= expires_in <= _LONGEST_EXPIRY_SECONDS
        ):
            message = f"expires_in is seconds from 1 to {_LONGEST_EXPIRY_SECONDS:,}, not {expires_in!r:.80}"
            raise InvalidInputError(message, field="expires_in")
        return await self._store.url(_named(file_id), expires_in=expires_in)

    @gated
    async def create_upload(self, *, content_type: str | None = None, size: int | None = None) -> UploadSession:
        """Begin an upload session: bytes come in several calls, processes, or straight from a client to the store."""
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
            raise InvalidInputError(f"size is a number of bytes from 0, not {size!r:.80}", field="size")
        return await self._store.create_upload(content_type=_checked_type(content_type), size=size)

    @gated
    async def upload(self, upload_id: str, data: bytes) -> None:
        """Append bytes to a session whose `method` is "proxy"."""
        if not isinstance(data, bytes | bytearray | memoryview):
            raise InvalidInputError(f"an upload takes bytes, not {type(data).__name__}", field="data")
        await self._store.upload(upload_id, bytes(data))

    @gated
    async def finalize(self, upload_id: str) -> BlobInfo:
        """Turn what a session uploaded into a blob. Raises `BlobIntegrityError` if its size is not the announced one."""
        return await self._store.finalize(upload_id)

    @gated
    async def abort(self, upload_id: str) -> None:
        """Drop a session and what it uploaded; unknown sessions are ignored."""
        await self._store.abort(upload_id)

    @gated
    async def collect_garbage(self, *, older_than_seconds: float = 86400.0) -> int:
        """Remove what unfinished uploads left behind, if older than this; returns how many."""
        return await self._store.collect_garbage(older_than_seconds=checked_age(older_than_seconds))


def _plain(data: bytes | bytearray | memoryview) -> bytes | bytearray | memoryview:
    """Bytes of which `len` says how many: a view may have larger items, or gaps between them."""
    if isinstance(data, memoryview) and (data.itemsize != 1 or data.ndim != 1 or not data.contiguous):
        return data.tobytes()
    return data


def _named(file_id: str) -> str:
    """The id as it is: one of the wrong type names no blob. What `put` returns is taken for it too easily to say only that."""
    if isinstance(file_id, BlobInfo):
        raise InvalidInputError("file_id is a str, not a BlobInfo: pass its file_id", field="file_id")
    return file_id


def _check_range(start: object, end: object) -> None:
    for field, value in (("start", start), ("end", end)):
        if (not isinstance(value, int) or isinstance(value, bool)) and (value is not None or field == "start"):
            raise InvalidInputError(f"{field} is a number of bytes, not {value!r:.80}", field=field)


def _checked_type(content_type: str | None) -> str:
    """A content type that is safe in a header."""
    # A header has no spaces around its value.
    if content_type is not None and not isinstance(content_type, str):
        raise InvalidInputError(f"content_type is a str, not {type(content_type).__name__}", field="content_type")
    content_type = (content_type or "").strip(" ")
    if not content_type:
        return _DEFAULT_TYPE
    if len(content_type) > _MAX_TYPE_LENGTH or not content_type.isascii() or not content_type.isprintable():
        raise InvalidInputError(
            f"content_type must be at most {_MAX_TYPE_LENGTH} printable ASCII characters", field="content_type"
        )
    return content_type
