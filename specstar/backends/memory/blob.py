"""The blob role in memory."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

from anyio.lowlevel import checkpoint

from specstar.backends.memory.blobs import BlobTable, PendingUpload
from specstar.backends.memory.connection import MemoryConnection
from specstar.backends.memory.options import MemoryOptions
from specstar.backends.provider import BackendContext
from specstar.errors import BlobNotFoundError
from specstar.roles import BlobInfo, BlobReader, BlobStore, BlobWriter, UploadSession
from specstar.roles.uploads import finalized_already, no_session, not_announced, nothing_uploaded, writer_has_ended
from specstar.runtime import joined, run_in_thread

__all__ = ["MemoryBlobStore"]

_CHUNK = 1 << 20
_PAGE = 1000
# Up to this size a hash on the event loop takes less time than a thread.
_HASH_INLINE = 64 << 10


class MemoryBlobStore(BlobStore):
    """Blobs as bytes objects in this process."""

    def __init__(self, context: BackendContext[MemoryOptions, MemoryConnection]) -> None:
        self._context = context

    async def table(self) -> BlobTable:
        """The blobs. Lets other tasks run now and then."""
        connection = self._context.connection.opened or await self._context.connection.get()
        if connection.due():
            await checkpoint()
        return connection.blobs

    async def create(self, *, content_type: str, size_hint: int | None = None) -> BlobWriter:
        await self.table()
        return _Writer(self, content_type)

    async def put_bytes(self, data: bytes, *, content_type: str) -> BlobInfo:
        table = await self.table()
        if len(data) <= _HASH_INLINE:
            digest = hashlib.sha256(data).hexdigest()
        else:
            digest = await run_in_thread(lambda: hashlib.sha256(data).hexdigest())
        return keep(table, digest, data, content_type)

    async def open(self, file_id: str, *, start: int = 0, end: int | None = None) -> BlobReader:
        info, data = _found(await self.table(), file_id)
        start = max(start, 0)
        end = info.size if end is None else min(end, info.size)
        return _Reader(info, memoryview(data)[start : max(start, end)])

    async def get(self, file_id: str, *, start: int = 0, end: int | None = None) -> bytes:
        info, data = _found(await self.table(), file_id)
        return data[max(start, 0) : info.size if end is None else max(end, 0)]

    async def stat(self, file_id: str) -> BlobInfo:
        return _found(await self.table(), file_id)[0]

    async def delete(self, file_id: str) -> None:
        table = await self.table()
        _found(table, file_id)
        del table[file_id]

    async def url(self, file_id: str, *, expires_in: float | None = None) -> str | None:
        _found(await self.table(), file_id)
        return None

    async def create_upload(self, *, content_type: str, size: int | None = None) -> UploadSession:
        table = await self.table()
        upload_id = secrets.token_hex(16)
        table.uploads[upload_id] = PendingUpload(content_type, size, datetime.now(UTC))
        return UploadSession(upload_id=upload_id, method="proxy", content_type=content_type)

    async def upload(self, upload_id: str, data: bytes) -> None:
        pending = _session(await self.table(), upload_id)
        if pending.finished is not None or pending.busy:
            raise finalized_already(upload_id)
        pending.chunks.append(bytes(data))
        pending.received += len(data)
        pending.touched_time = datetime.now(UTC)

    async def finalize(self, upload_id: str) -> BlobInfo:
        table = await self.table()
        pending = _session(table, upload_id)
        if pending.finished is not None:
            return _found(table, pending.finished.file_id)[0]
        if not pending.chunks and pending.size != 0:
            raise nothing_uploaded(upload_id)
        if pending.size is not None and pending.received != pending.size:
            raise not_announced(upload_id, announced=pending.size, received=pending.received)
        pending.busy += 1
        try:
            info = await self.put_bytes(await joined(pending.chunks), content_type=pending.content_type)
        finally:
            pending.busy -= 1
        pending.finished, pending.chunks = info, []
        return info

    async def abort(self, upload_id: str) -> None:
        table = await self.table()
        if isinstance(upload_id, str):
            table.uploads.pop(upload_id, None)

    async def list(self) -> AsyncIterator[list[BlobInfo]]:
        infos = [info for info, _ in (await self.table()).values()]
        for start in range(0, len(infos), _PAGE):
            yield infos[start : start + _PAGE]
            await checkpoint()

    async def collect_garbage(self, *, older_than_seconds: float) -> int:
        table = await self.table()
        limit = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
        old = [key for key, pending in table.uploads.items() if pending.touched_time <= limit and not pending.busy]
        for key in old:
            del table.uploads[key]
        return len(old)


def keep(table: BlobTable, digest: str, data: bytes, content_type: str) -> BlobInfo:
    """Store bytes under their digest, or find them stored."""
    known = table.get(digest)
    if known is not None:
        return known[0]
    info = BlobInfo(file_id=digest, size=len(data), content_type=content_type, created_time=datetime.now(UTC))
    table[digest] = (info, data)
    return info


def _found(table: BlobTable, file_id: str) -> tuple[BlobInfo, bytes]:
    found = table.get(file_id) if isinstance(file_id, str) else None
    if found is None:
        raise BlobNotFoundError(file_id)
    return found


def _session(table: BlobTable, upload_id: str) -> PendingUpload:
    pending = table.uploads.get(upload_id) if isinstance(upload_id, str) else None
    if pending is None:
        raise no_session(upload_id)
    return pending


class _Writer(BlobWriter):
    def __init__(self, store: MemoryBlobStore, content_type: str) -> None:
        self._store = store
        self._content_type = content_type
        self._chunks: list[bytes] = []
        self._hash = hashlib.sha256()
        self._ended = False

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        self._check()
        data = bytes(chunk)
        await self._store.table()
        if len(data) <= _HASH_INLINE:
            self._hash.update(data)
        else:
            await run_in_thread(self._hash.update, data)
        self._chunks.append(data)

    async def commit(self) -> BlobInfo:
        self._check()
        table = await self._store.table()
        self._ended = True
        chunks, self._chunks = self._chunks, []
        return keep(table, self._hash.hexdigest(), await joined(chunks), self._content_type)

    async def abort(self) -> None:
        self._ended = True
        self._chunks = []

    def _check(self) -> None:
        if self._ended:
            raise writer_has_ended()


class _Reader(BlobReader):
    def __init__(self, info: BlobInfo, rest: memoryview) -> None:
        self.info = info
        self._rest = rest

    async def read(self) -> bytes:
        await checkpoint()
        chunk = bytes(self._rest[:_CHUNK])
        self._rest = self._rest[_CHUNK:]
        return chunk

    async def aclose(self) -> None:
        self._rest = memoryview(b"")
