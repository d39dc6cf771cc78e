"""Blobs on their way in: hashed as they come, sent in parts, moved to their address when the address is known."""

from __future__ import annotations

import secrets
from typing import Any

from specstar.backends.checksums import Checksums, Sums
from specstar.backends.s3.blob_layout import BlobLayout, metadata_of, new_info
from specstar.backends.s3.connection import S3Connection
from specstar.backends.s3.errors import ConditionalConflict, NotImplementedThere, PreconditionFailed
from specstar.backends.s3.multipart import MultipartUpload, copy_object
from specstar.backends.s3.options import S3Options
from specstar.errors import BackendUnavailable, BlobIntegrityError
from specstar.roles import BlobInfo, BlobWriter
from specstar.roles.uploads import writer_has_ended
from specstar.runtime import joined

__all__ = ["S3BlobWriter", "put_small", "sums_of"]

# From this size on it is cheaper to ask first whether the blob is there than to send it in vain.
_ASK_FIRST = 1 << 20
_ROUNDS = 16
_HASH_ON_LOOP = 64 << 10
# Parts grow with their number, so that 10,000 of them hold a blob of unknown size.
_PARTS_PER_SIZE = 1000


async def put_small(
    connection: S3Connection, layout: BlobLayout, data: bytes, *, sums: Sums, content_type: str
) -> BlobInfo:
    """Store bytes whose checksums are known, by one request."""
    file_id = sums.file_id
    if len(data) >= _ASK_FIRST or not connection.conditional_put:
        found = await layout.find(connection, file_id)
        if found is not None:
            return found
    for _ in range(_ROUNDS):
        stored = await _put_new(connection, layout, data, sums=sums, content_type=content_type)
        # Whoever stored it first, perhaps an earlier attempt of ours: the same bytes.
        found = stored or await layout.find(connection, file_id)
        if found is not None:
            return found
        # Deleted meanwhile.
    raise BackendUnavailable(f"blob {file_id} is stored and deleted by others all the time; retry later", backend="s3")


async def _put_new(
    connection: S3Connection, layout: BlobLayout, data: bytes, *, sums: Sums, content_type: str
) -> BlobInfo | None:
    """None if it is there already."""
    file_id = sums.file_id
    info = new_info(file_id, len(data), content_type)
    condition: dict[str, Any] = {"IfNoneMatch": "*"} if connection.conditional_put else {}
    try:
        await connection.call(
            "put_object",
            sha256=file_id,
            Bucket=layout.bucket,
            Key=layout.key(file_id),
            Body=data,
            ContentType=content_type,
            Metadata=metadata_of(info, sums),
            **condition,
        )
    except NotImplementedThere:
        if not condition:
            raise
        connection.conditional_put = False
        return await put_small(connection, layout, data, sums=sums, content_type=content_type)
    except (PreconditionFailed, ConditionalConflict):
        return None
    return info


async def sums_of(connection: S3Connection, data: bytes) -> Sums:
    """The checksums of bytes; large ones are hashed in a thread."""
    if len(data) <= _HASH_ON_LOOP:
        return Checksums.of(data)
    return await connection.in_thread(Checksums.of, data)


class S3BlobWriter(BlobWriter):
    """Keeps up to `multipart_threshold_bytes` in memory; a larger blob goes in parts to a temporary key.

    Then at most `part_size_bytes` times `part_concurrency` plus one are in memory.
    """

    def __init__(
        self,
        connection: S3Connection,
        options: S3Options,
        layout: BlobLayout,
        *,
        content_type: str,
        size_hint: int | None = None,
    ) -> None:
        self._connection = connection
        self._layout = layout
        self._content_type = content_type
        self._part_size = options.part_size_bytes
        self._at_once = options.part_concurrency
        large = size_hint is not None and size_hint > options.multipart_threshold_bytes
        self._limit = self._part_size if large else options.multipart_threshold_bytes
        self._chunks: list[bytes] = []
        self._held = 0
        self._size = 0
        self._sums = Checksums()
        self._upload: MultipartUpload | None = None
        self._key = f"{layout.uploads}{secrets.token_hex(16)}/data"
        self._landed = False
        self._over = False

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        if self._over:
            raise writer_has_ended()
        data = bytes(chunk)
        position = 0
        while position < len(data):
            room = self._limit - self._held
            piece = data if position == 0 and len(data) <= room else data[position : position + room]
            self._chunks.append(piece)
            self._held += len(piece)
            position += len(piece)
            if self._held >= self._limit:
                await self._flush()
        self._size += len(data)

    async def _flush(self, *, last: bool = False) -> None:
        """Send what is held in whole parts; the `last` one may be smaller, and S3 refuses any other that is."""
        if self._upload is None:
            # Kept before it is started: an abort at any moment knows of it.
            self._connection.moving.add(self._key)
            self._upload = MultipartUpload(self._connection, self._layout.bucket, self._key, at_once=self._at_once)
            await self._upload.start(content_type=self._content_type, metadata={})
        chunks, self._chunks, self._held = self._chunks, [], 0
        part = self._limit_of_part()
        data, end = await self._connection.in_thread(self._join, chunks, part, last)
        del chunks
        for start in range(0, end, part):
            await self._upload.add(data[start : min(start + part, end)])
        if end < len(data):
            self._chunks, self._held = [data[end:]], len(data) - end
        self._limit = self._limit_of_part()

    def _limit_of_part(self) -> int:
        parts = self._upload.parts if self._upload is not None else 0
        return self._part_size * (1 + parts // _PARTS_PER_SIZE)

    def _join(self, chunks: list[bytes], part: int, last: bool) -> tuple[bytes, int]:
        """What is held, and how much of it is sent now."""
        data = b"".join(chunks) if len(chunks) != 1 else chunks[0]
        end = len(data) if last else len(data) // part * part
        self._sums.update(data[:end])
        return data, end

    async def commit(self) -> BlobInfo:
        if self._over:
            raise writer_has_ended()
        try:
            info = await self._commit()
        except BaseException:
            await self.abort()
            raise
        self._over = True
        return info

    async def _commit(self) -> BlobInfo:
        if self._upload is None:
            chunks, self._chunks = self._chunks, []
            data = await joined(chunks)
            del chunks
            sums = await sums_of(self._connection, data)
            return await put_small(self._connection, self._layout, data, sums=sums, content_type=self._content_type)
        if self._held:
            await self._flush(last=True)
        # Said before: if the answer is lost, the object may be there all the same.
        self._landed = True
        await self._upload.complete()
        return await self._move(self._sums.sums())

    async def _move(self, sums: Sums) -> BlobInfo:
        file_id = sums.file_id
        info = await self._layout.find(self._connection, file_id)
        if info is None:
            info = new_info(file_id, self._size, self._content_type)
            source = await self._connection.call("head_object", Bucket=self._layout.bucket, Key=self._key)
            if source["ContentLength"] != self._size:
                raise BlobIntegrityError(f"{self._size} bytes were sent, the server has {source['ContentLength']}")
            await copy_object(
                self._connection,
                bucket=self._layout.bucket,
                source=self._key,
                key=self._layout.key(file_id),
                etag=source["ETag"],
                size=self._size,
                content_type=self._content_type,
                metadata=metadata_of(info, sums),
                at_once=self._at_once,
            )
        await self._connection.clean_up(self._remove(), f"the temporary object {self._key}")
        return info

    async def _remove(self) -> None:
        try:
            await self._connection.call("delete_object", Bucket=self._layout.bucket, Key=self._key)
            self._landed = False
        finally:
            self._connection.moving.discard(self._key)

    async def abort(self) -> None:
        if self._over:
            return
        self._over = True
        self._chunks = []
        try:
            if self._upload is not None:
                await self._upload.abort()
            if self._landed:
                await self._connection.clean_up(self._remove(), f"the temporary object {self._key}")
        finally:
            self._connection.moving.discard(self._key)
