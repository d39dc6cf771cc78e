"""The blob role on disk."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import anyio

from specstar.backends.disk.blob_files import BlobFiles
from specstar.backends.disk.blob_reader import DiskBlobReader
from specstar.backends.disk.blob_trailer import BlobFile
from specstar.backends.disk.connection import SWEEP_SECONDS, DiskConnection
from specstar.backends.disk.durable import disk_errors
from specstar.backends.disk.new_blob import NewBlob
from specstar.backends.disk.options import DiskOptions
from specstar.backends.disk.uploads import SessionLocked, Uploads
from specstar.backends.provider import BackendContext
from specstar.errors import BackendUnavailable
from specstar.roles import BlobInfo, BlobReader, BlobStore, BlobWriter, UploadSession
from specstar.roles.uploads import writer_has_ended
from specstar.runtime import clean_up, run_in_thread

__all__ = ["DiskBlobStore"]

T = TypeVar("T")
# Smaller writes are gathered up to this before they go to a thread.
_GATHER = 256 << 10
_CLEANUP_SECONDS = 30.0
# The most that is read in one thread job: more would keep others from the thread.
_AT_ONCE = 8 << 20
# With more of them, files are closed between two writes.
_OPEN_WRITERS = 64
_FIRST_PAUSE_SECONDS = 0.005
_LONGEST_PAUSE_SECONDS = 0.1
logger: logging.Logger = logging.getLogger("specstar")


class DiskBlobStore(BlobStore):
    """Blobs under `_blobs/` of a root folder."""

    def __init__(self, context: BackendContext[DiskOptions, DiskConnection]) -> None:
        self._context = context
        self._opened: tuple[DiskConnection, BlobFiles, Uploads] | None = None

    async def _way(self) -> tuple[DiskConnection, BlobFiles, Uploads]:
        if self._opened is None or self._context.connection.opened is None:
            connection = await self._context.connection.get()
            if self._opened is None or self._opened[0] is not connection:
                files = BlobFiles(connection.root / "_blobs")
                # At once: all share one, which counts the open files.
                self._opened = connection, files, Uploads(files)
                await self._in_thread(connection, lambda: _sweep(files))
        return self._opened

    @staticmethod
    async def _in_thread(connection: DiskConnection, job: Callable[[], T]) -> T:
        return await run_in_thread(job, limiter=connection.blob_limit)

    async def create(self, *, content_type: str, size_hint: int | None = None) -> BlobWriter:
        connection, files, _ = await self._way()
        return _Writer(connection.blob_limit, files, content_type)

    async def put_bytes(self, data: bytes, *, content_type: str) -> BlobInfo:
        connection, files, _ = await self._way()
        return await self._in_thread(connection, lambda: files.put_bytes(data, content_type))

    async def put_file(self, path: Path, *, content_type: str) -> BlobInfo:
        connection, files, _ = await self._way()
        return await self._in_thread(connection, lambda: files.put_file(path, content_type))

    async def open(self, file_id: str, *, start: int = 0, end: int | None = None) -> BlobReader:
        connection, files, _ = await self._way()
        opened: list[BlobFile] = []

        def job() -> None:
            opened.append(files.open(file_id))

        try:
            await self._in_thread(connection, job)
            return DiskBlobReader(connection.blob_limit, connection.read_ahead, opened[0], start, end)
        except BaseException:
            # Cancelled while the thread opened it.
            for file in opened:
                os.close(file.descriptor)
            raise

    async def get(self, file_id: str, *, start: int = 0, end: int | None = None) -> bytes:
        connection, files, _ = await self._way()
        data = await self._in_thread(connection, lambda: files.get(file_id, start, end, at_most=_AT_ONCE))
        if data is not None:
            return data
        async with connection.blob_streams:  # each has a file open for a while
            return await super().get(file_id, start=start, end=end)

    async def save(self, file_id: str, path: Path) -> BlobInfo:
        connection, files, _ = await self._way()
        return await self._in_thread(connection, lambda: files.save(file_id, path))

    async def stat(self, file_id: str) -> BlobInfo:
        connection, files, _ = await self._way()
        return await self._in_thread(connection, lambda: files.stat(file_id))

    async def delete(self, file_id: str) -> None:
        connection, files, _ = await self._way()
        await self._in_thread(connection, lambda: files.delete(file_id))

    async def url(self, file_id: str, *, expires_in: float | None = None) -> str | None:
        await self.stat(file_id)
        return None

    async def create_upload(self, *, content_type: str, size: int | None = None) -> UploadSession:
        connection, _, uploads = await self._way()
        upload_id = await self._in_thread(connection, lambda: uploads.create(content_type, size))
        return UploadSession(upload_id=upload_id, method="proxy", content_type=content_type)

    async def upload(self, upload_id: str, data: bytes) -> None:
        connection, _, uploads = await self._way()
        await self._in_thread(connection, lambda: uploads.append(upload_id, data))

    async def finalize(self, upload_id: str) -> BlobInfo:
        connection, _, uploads = await self._way()
        deadline = anyio.current_time() + connection.busy_timeout
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._in_thread(connection, lambda: uploads.finalize(upload_id))
            except SessionLocked:
                if anyio.current_time() >= deadline:
                    message = (
                        f"upload {upload_id} is in the hands of another program for more than "
                        f"{connection.busy_timeout:g} s: it stores a part, or finalizes it; try again later"
                    )
                    raise BackendUnavailable(message, role="blob", backend="disk") from None
            # Not in the thread: others need it.
            await anyio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def abort(self, upload_id: str) -> None:
        connection, _, uploads = await self._way()
        await self._in_thread(connection, lambda: uploads.abort(upload_id))

    async def list(self) -> AsyncIterator[list[BlobInfo]]:
        connection, files, _ = await self._way()
        for folder in await self._in_thread(connection, files.outer_folders):
            page = await run_in_thread(files.scan, folder, limiter=connection.blob_limit)
            if page:
                yield page

    async def collect_garbage(self, *, older_than_seconds: float) -> int:
        connection, files, uploads = await self._way()

        def job() -> int:
            with disk_errors(files.folder):
                return files.sweep(older_than_seconds) + uploads.sweep(older_than_seconds)

        return await self._in_thread(connection, job)


def _sweep(files: BlobFiles) -> None:
    """Remove what killed writers left, long ago. Who may only read leaves it to others."""
    try:
        files.sweep(SWEEP_SECONDS)
    except OSError as error:
        logger.info("%s: old temporary files are left: %s", files.temps.path, error.strerror)


class _Writer(BlobWriter):
    def __init__(self, limit: anyio.CapacityLimiter, files: BlobFiles, content_type: str) -> None:
        self._limit = limit
        self._files = files
        self._content_type = content_type
        self._new: NewBlob | None = None
        self._gathered = bytearray()
        self._ended = False

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        self._check()
        if len(self._gathered) + len(chunk) < _GATHER:
            self._gathered += chunk
            return
        await run_in_thread(self._write, chunk, limiter=self._limit)

    def _write(self, chunk: bytes | bytearray | memoryview) -> None:
        if self._new is None:
            self._new = NewBlob(self._files.temps, self._content_type)
            self._files.writing.add(self._new)
        if self._gathered:
            self._new.write(self._gathered)
            self._gathered = bytearray()
        self._new.write(chunk)
        if len(self._files.writing) > _OPEN_WRITERS:
            self._new.rest()

    async def commit(self) -> BlobInfo:
        self._check()
        self._ended = True
        try:
            return await run_in_thread(self._commit, limiter=self._limit)
        finally:
            await self._drop()

    def _commit(self) -> BlobInfo:
        if self._new is None:
            return self._files.put_bytes(bytes(self._gathered), self._content_type)
        self._write(b"")
        info = self._files.keep(self._new)
        self._new.drop()
        return info

    async def abort(self) -> None:
        self._ended = True
        await self._drop()

    async def _drop(self) -> None:
        new, self._new = self._new, None
        self._gathered = bytearray()
        if new is not None:
            self._files.writing.discard(new)
            await clean_up(functools.partial(run_in_thread, new.drop, limiter=self._limit), seconds=_CLEANUP_SECONDS)

    def _check(self) -> None:
        if self._ended:
            raise writer_has_ended()
