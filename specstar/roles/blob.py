"""The blob role: content-addressed bytes of any size, streamed."""

from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

from msgspec import Struct

from specstar.config.redaction import HIDDEN, Redacted
from specstar.errors import InvalidInputError
from specstar.roles.records import BlobInfo
from specstar.runtime.cleanup import clean_up
from specstar.runtime.joining import joined
from specstar.runtime.new_file import NewFile
from specstar.runtime.threads import run_in_thread

__all__ = ["BlobReader", "BlobStore", "BlobWriter", "UploadSession", "open_source", "unreadable"]

T = TypeVar("T")
_CLEANUP_SECONDS = 30.0


def unreadable(path: Path, error: OSError | ValueError) -> InvalidInputError:
    """The error for a file that is to become a blob and cannot be read (`ValueError`: its name is none)."""
    reason = (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
    return InvalidInputError(f"cannot read {str(path)!r}: {reason}", field="source")


def open_source(path: Path) -> int:
    """A descriptor of an ordinary file that is to become a blob. Raises `InvalidInputError`. Blocks, but not for long."""
    try:
        # A pipe would have us wait for its writer: it is told apart once it is open.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(mode):
                raise ValueError("it is no ordinary file; open it, and pass the open file")
        except BaseException:
            os.close(descriptor)
            raise
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    return descriptor


class UploadSession(Redacted, Struct, frozen=True, kw_only=True):
    """An upload in progress. `method` "proxy": send bytes with `upload`; "single_put": PUT them to `url` with `headers`."""

    upload_id: str
    method: Literal["proxy", "single_put"]
    content_type: str
    url: str | None = None
    headers: dict[str, str] = {}
    expires_time: datetime | None = None

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # Whoever has the URL may upload.
        shown = {name: getattr(self, name) for name in self.__struct_fields__} | ({"url": HIDDEN} if self.url else {})
        return list(shown.items())


class BlobWriter(ABC):
    """An upload being written by one task. `commit` or `abort` ends it; after either, every call raises `UsageError`.

    Nothing is visible before `commit` returns, and nothing is left behind after `abort`. Memory use is bounded: `write`
    waits while too much is on its way.
    """

    @abstractmethod
    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append bytes; the buffer may be reused once this returns. On an error or cancellation, abort."""

    @abstractmethod
    async def commit(self) -> BlobInfo:
        """Make the blob visible and durable; the same bytes stored before are found, not stored again."""

    @abstractmethod
    async def abort(self) -> None:
        """Give the upload up and remove what it left. Safe to call twice, and after `commit`, where it does nothing."""


class BlobReader(ABC):
    """A blob being read by one task; close it. `info` is the whole blob's.

    One that is dropped instead holds nothing for longer than the reads that are under way.
    """

    info: BlobInfo

    @abstractmethod
    async def read(self) -> bytes:
        """The next chunk (at most 1 MiB), or b"" at the end of the range.

        Raises `BlobIntegrityError` if the stored bytes are shorter than the blob, or do not match its checksum.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Release the file or connection. Safe to call twice."""


class BlobStore(ABC):
    """All blobs of one specstar. `BlobNotFoundError` for an id that is not there, also if it is no SHA-256 at all."""

    @abstractmethod
    async def create(self, *, content_type: str, size_hint: int | None = None) -> BlobWriter:
        """Begin an upload. `size_hint` (bytes) helps to choose how; it is no promise."""

    @abstractmethod
    async def put_bytes(self, data: bytes, *, content_type: str) -> BlobInfo:
        """Store bytes that are in memory already, in the fewest steps."""

    async def put_file(self, path: Path, *, content_type: str) -> BlobInfo:
        """Store a local file. Raises `InvalidInputError` if it cannot be read.

        Backends that can do it in one thread job override this.
        """

        async def of_file(work: Callable[[], T]) -> T:
            try:
                return await run_in_thread(work)
            except (OSError, ValueError) as error:
                raise unreadable(path, error) from error

        opened: list[IO[bytes]] = []
        try:
            await run_in_thread(lambda: opened.append(os.fdopen(open_source(path), "rb")))
            (source,) = opened
            size = (await of_file(lambda: os.fstat(source.fileno()))).st_size
            writer = await self.create(content_type=content_type, size_hint=size)
            try:
                while chunk := await of_file(lambda: source.read(1 << 20)):
                    await writer.write(chunk)
                return await writer.commit()
            finally:
                await clean_up(writer.abort, seconds=_CLEANUP_SECONDS)
        finally:
            for file in opened:
                file.close()

    @abstractmethod
    async def open(self, file_id: str, *, start: int = 0, end: int | None = None) -> BlobReader:
        """Begin to read bytes `start` to `end` (exclusive; None: to the last). Out-of-range bounds are clamped."""

    async def get(self, file_id: str, *, start: int = 0, end: int | None = None) -> bytes:
        """The bytes of that range, checked like a reader's. Backends with a faster way override this."""
        reader = await self.open(file_id, start=start, end=end)
        chunks: list[bytes] = []
        try:
            while chunk := await reader.read():
                chunks.append(chunk)
        finally:
            await clean_up(reader.aclose, seconds=_CLEANUP_SECONDS)
        return await joined(chunks)

    async def save(self, file_id: str, path: Path) -> BlobInfo:
        """Copy a blob to a local file, checked; it is there once it is whole. Backends with a faster way override this.

        Raises `InvalidInputError` if the file cannot be written, `BlobIntegrityError` like a reader.
        """
        reader = await self.open(file_id)
        begun: list[NewFile] = []

        async def end() -> None:
            await reader.aclose()
            for new in begun:
                await run_in_thread(new.drop)

        try:
            await run_in_thread(lambda: begun.append(NewFile(path)))
            while chunk := await reader.read():
                await run_in_thread(begun[0].write, chunk)
            await run_in_thread(begun[0].keep)
        finally:
            await clean_up(end, seconds=_CLEANUP_SECONDS)
        return reader.info

    @abstractmethod
    async def stat(self, file_id: str) -> BlobInfo:
        """What is known of the blob, without its bytes."""

    @abstractmethod
    async def delete(self, file_id: str) -> None:
        """Erase the blob. Raises `BlobNotFoundError` if it is not there."""

    @abstractmethod
    async def url(self, file_id: str, *, expires_in: float | None = None) -> str | None:
        """A presigned GET URL, valid for `expires_in` seconds (None: the configured expiry); None where there is none."""

    @abstractmethod
    async def create_upload(self, *, content_type: str, size: int | None = None) -> UploadSession:
        """Reserve an upload session. `size` in bytes, where known, is checked at `finalize`."""

    @abstractmethod
    async def upload(self, upload_id: str, data: bytes) -> None:
        """Append bytes to a "proxy" session. Raises `BlobNotFoundError` for an unknown session."""

    @abstractmethod
    async def finalize(self, upload_id: str) -> BlobInfo:
        """Turn what was uploaded into a blob. Repeating it after success gives the same answer while the session is known.

        Raises `BlobIntegrityError` if the size is not the announced one, `BlobNotFoundError` if nothing was uploaded (unless
        0 bytes were announced), or if the blob was deleted since.
        """

    @abstractmethod
    async def abort(self, upload_id: str) -> None:
        """Drop a session and what it uploaded. Unknown sessions are ignored."""

    @abstractmethod
    def list(self) -> AsyncIterator[list[BlobInfo]]:
        """All blobs, page by page, in no stated order."""

    @abstractmethod
    async def collect_garbage(self, *, older_than_seconds: float) -> int:
        """Remove what unfinished uploads left behind, if older than this; returns the number of things removed."""
