"""The blob role on disk."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import anyio

from specstar.backends.disk.blob_files import BlobFile, BlobFiles, NewBlob
from specstar.backends.disk.connection import SWEEP_SECONDS, DiskConnection
from specstar.backends.disk.durable import disk_errors, read_fully
from specstar.backends.disk.hasher import Hasher
from specstar.backends.disk.options import DiskOptions
from specstar.backends.disk.uploads import Uploads
from specstar.backends.provider import BackendContext
from specstar.errors import BlobIntegrityError, UsageError
from specstar.roles import BlobInfo, BlobReader, BlobStore, BlobWriter, UploadSession
from specstar.runtime import run_in_thread

__all__ = ["DiskBlobStore"]

T = TypeVar("T")
_CHUNK = 1 << 20
_AHEAD = 4 << 20
# Smaller writes are gathered up to this before they go to a thread.
_GATHER = 256 << 10


class DiskBlobStore(BlobStore):
    """Blobs under `_blobs/` of a root folder."""

    def __init__(self, context: BackendContext[DiskOptions, DiskConnection]) -> None:
        self._context = context
        self._opened: tuple[DiskConnection, BlobFiles, Uploads] | None = None

    async def _way(self) -> tuple[DiskConnection, BlobFiles, Uploads]:
        if self._opened is None or self._context.connection.opened is None:
            connection = await self._context.connection.get()
            files = BlobFiles(connection.root / "_blobs")
            opened = connection, files, Uploads(files)
            await self._in_thread(connection, lambda: files.temps.sweep(SWEEP_SECONDS))
            self._opened = opened
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
            return _Reader(connection.blob_limit, opened[0], start, end)
        except BaseException:
            # Cancelled while the thread opened it.
            for file in opened:
                os.close(file.descriptor)
            raise

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
        return await self._in_thread(connection, lambda: uploads.finalize(upload_id))

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
                return files.temps.sweep(older_than_seconds) + uploads.sweep(older_than_seconds)

        return await self._in_thread(connection, job)


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
            self._new = NewBlob(self._files.temps)
        if self._gathered:
            self._new.write(self._gathered)
            self._gathered = bytearray()
        self._new.write(chunk)

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
        info = self._files.keep(self._new, self._content_type)
        self._new.drop()
        return info

    async def abort(self) -> None:
        self._ended = True
        await self._drop()

    async def _drop(self) -> None:
        new, self._new = self._new, None
        self._gathered = bytearray()
        if new is not None:
            with anyio.CancelScope(shield=True):
                await run_in_thread(new.drop, limiter=self._limit)

    def _check(self) -> None:
        if self._ended:
            raise UsageError("this upload has ended: create another one")


class _Reader(BlobReader):
    """Reads a few chunks a thread job; a blob that is read from its first to its last byte is checked against its hash."""

    def __init__(self, limit: anyio.CapacityLimiter, file: BlobFile, start: int, end: int | None) -> None:
        self.info = file.info
        self._limit = limit
        self._descriptor: int | None = file.descriptor
        self._place = max(start, 0)
        self._end = self.info.size if end is None else min(end, self.info.size)
        self._ready: deque[bytes] = deque()
        whole = self._place == 0 and self._end == self.info.size
        self._check = Hasher(beside=self.info.size > _CHUNK) if whole else None
        self._fault: BlobIntegrityError | None = None

    async def read(self) -> bytes:
        if not self._ready and self._fault is None:
            if self._descriptor is None or (self._place >= self._end and self._check is None):
                return b""
            await run_in_thread(self._read, self._descriptor, limiter=self._limit)
        if self._ready:
            return self._ready.popleft()
        if self._fault is not None:
            raise self._fault
        return b""

    def _read(self, descriptor: int) -> None:
        last = min(self._place + _AHEAD, self._end)
        while self._place < last:
            size = min(_CHUNK, last - self._place)
            with disk_errors(self.info.file_id):
                chunk = read_fully(descriptor, size, self._place)
            if len(chunk) < size:
                self._damaged()
                return
            self._place += size
            self._ready.append(chunk)
            if self._check is not None:
                self._check.feed(chunk)
        if self._check is not None and self._place == self._end:
            check, self._check = self._check, None
            if check.hexdigest() != self.info.file_id:
                # The last bytes are kept back, so that nobody takes the blob for complete.
                self._ready.clear()
                self._damaged()

    def _damaged(self) -> None:
        file_id = self.info.file_id
        message = f"blob {file_id} is damaged; delete it, and put its content again"
        self._fault = BlobIntegrityError(message, file_id=file_id)

    async def aclose(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        self._ready.clear()
        if self._check is not None:
            self._check.stop()
        if descriptor is not None:
            # A file opened for reading closes without waiting for the disk.
            os.close(descriptor)
