"""Files on their way in: hashed first, then sent in parts straight to their address, unless the blob is there already."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import mmap
import os
import threading
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path
from typing import Any

from specstar.backends.checksums import Checksums, Sums
from specstar.backends.s3.blob_layout import BlobLayout, metadata_of, new_info
from specstar.backends.s3.blob_writer import put_small, sums_of
from specstar.backends.s3.connection import S3Connection
from specstar.backends.s3.errors import BytesRefused
from specstar.backends.s3.multipart import MultipartUpload
from specstar.backends.s3.options import S3Options
from specstar.errors import BlobIntegrityError
from specstar.roles import BlobInfo
from specstar.roles.blob import open_source, unreadable
from specstar.runtime import clean_up, run_in_thread

__all__ = ["put_file"]

_BLOCK = 4 << 20
_CLOSE_SECONDS = 10.0
_HUGE_PAGES: int | None = getattr(mmap, "MADV_HUGEPAGE", None)


async def put_file(
    connection: S3Connection, options: S3Options, layout: BlobLayout, path: Path, *, content_type: str
) -> BlobInfo:
    """Store a file. Raises `InvalidInputError` if it cannot be read, `BlobIntegrityError` if it changes meanwhile."""
    opened: list[_SourceFile] = []
    try:
        size = await connection.in_thread(_size_of, path)
        if size < options.multipart_threshold_bytes:
            data = await connection.in_thread(_whole, path)
            sums = await sums_of(connection, data)
            return await put_small(connection, layout, data, sums=sums, content_type=content_type)
        await run_in_thread(lambda: opened.append(_SourceFile(path)))
        return await _send(connection, options, layout, opened[0], content_type)
    except OSError as error:
        raise unreadable(path, error) from error
    finally:
        for source in opened:
            # Not in the connection's own threads: it may be closed by now.
            await clean_up(functools.partial(run_in_thread, source.close), seconds=_CLOSE_SECONDS)


def _size_of(path: Path) -> int:
    descriptor = open_source(path)
    try:
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _whole(path: Path) -> bytes:
    with os.fdopen(open_source(path), "rb", buffering=0) as source:
        return source.readall()


async def _send(
    connection: S3Connection, options: S3Options, layout: BlobLayout, source: _SourceFile, content_type: str
) -> BlobInfo:
    # Leaves some of the 10,000 parts unused.
    step = max(options.part_size_bytes, -(-source.size // 9_000))
    signed = connection.signs_known_hashes
    sums, hashes = await _hashed(connection, source, step if signed else None)
    file_id = sums.file_id
    found = await layout.find(connection, file_id)
    if found is not None:
        return found
    info = new_info(file_id, source.size, content_type)
    upload = MultipartUpload(connection, layout.bucket, layout.key(file_id), at_once=options.part_concurrency)
    again = None if signed else hashlib.sha256()
    try:
        await upload.start(content_type=content_type, metadata=metadata_of(info, sums))
        for number, start in enumerate(range(0, source.size, step)):
            part = await connection.in_thread(source.part, start, min(step, source.size - start), again)
            await upload.add(part, hashes[number] if hashes else None)
        if again is not None and again.hexdigest() != file_id:
            raise _changed(file_id)
        await upload.sent()
        if await connection.in_thread(source.touched):
            now, _ = await _hashed(connection, source, None)
            if now != sums:
                raise _changed(file_id)
        await upload.complete()
    except BytesRefused as error:
        raise _changed(file_id) from error
    finally:
        await upload.abort()
    return info


async def _hashed(connection: S3Connection, source: _SourceFile, step: int | None) -> tuple[Sums, list[str]]:
    """The checksums of the file and, beside it on another processor, those of its parts: the server holds the parts to them.

    Both of the same bytes, since the file may change between two looks at it. Block by block: other work of the connection's
    threads has its turn in between, and what nobody waits for any more ends with a block.
    """
    made = Checksums()
    part = hashlib.sha256()
    hashes: list[str] = []
    buffers = [memoryview(_fresh(min(_BLOCK, max(source.size, 1)))) for _ in range(2)]
    block = await connection.in_thread(source.read, 0, step, buffers[0])
    done = 0
    while block:
        done += len(block)
        buffers.reverse()
        jobs: list[Awaitable[Any]] = [connection.in_thread(source.read, done, step, buffers[0])]
        jobs.append(connection.in_thread(made.update, block))
        if step is not None:
            jobs.append(connection.in_thread(part.update, block))
        following, *_ = await asyncio.gather(*jobs)
        if step is not None and (done % step == 0 or not following):
            hashes.append(part.hexdigest())
            part = hashlib.sha256()
        block = following
    return made.sums(), hashes


def _changed(file_id: str) -> BlobIntegrityError:
    return BlobIntegrityError("the file changed while it was being stored; nothing was stored", file_id=file_id)


class _SourceFile:
    """A file that is read twice: to be hashed, and to be sent. Used in threads."""

    def __init__(self, path: Path) -> None:
        self._file = os.fdopen(open_source(path), "rb", buffering=0)
        # A cancelled caller closes the file while its threads may still read.
        self._reading = threading.Lock()
        self._state = self._now()
        self.size = self._state[0]

    def _now(self) -> tuple[int, int, int]:
        found = os.fstat(self._file.fileno())
        return found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def read(self, start: int, step: int | None, held: memoryview) -> memoryview:
        """The next bytes from `start` on, none beyond a multiple of `step`; empty at the end."""
        length = min(len(held), self.size - start, len(held) if step is None else step - start % step)
        count = 0
        with self._reading:
            while count < length and (more := os.preadv(self._file.fileno(), [held[count:length]], start + count)):
                count += more
        return held[:count]

    def part(self, start: int, length: int, again: hashlib._Hash | None) -> memoryview:
        """The bytes of a part; `again` takes them as well."""
        held = memoryview(_fresh(length))
        count = 0
        with self._reading:
            while count < length and (more := os.preadv(self._file.fileno(), [held[count:]], start + count)):
                count += more
        data = held[:count].toreadonly()
        if again is not None:
            again.update(data)
        return data

    def touched(self) -> bool:
        """True if the file was written since it was opened, for servers that do not look at hashes."""
        with self._reading:
            return self._now() != self._state

    def close(self) -> None:
        with self._reading:
            self._file.close()


def _fresh(length: int) -> mmap.mmap:
    """Memory for a part. Not from the heap: what a thread frees there stays with it, and each thread would keep a part."""
    # Private, and in large pages: as shared memory, page by page, it costs as much as the hash of what is put there.
    held = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if _HUGE_PAGES is not None:
        with suppress(OSError):  # a kernel without them
            held.madvise(_HUGE_PAGES)
    return held
