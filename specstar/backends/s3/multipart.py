"""Multipart uploads with parallel parts, and large copies on the server. What fails or is cancelled leaves no part behind."""

from __future__ import annotations

import asyncio

from specstar.backends.s3.answers import bare_etag
from specstar.backends.s3.connection import S3Connection
from specstar.backends.s3.errors import ObjectMissing
from specstar.errors import BlobIntegrityError, LimitExceededError

__all__ = ["MultipartUpload", "abort_upload", "copy_object"]

_MAX_PARTS = 10_000
# One CopyObject request takes 5 GiB, but must answer within the operation timeout.
_COPY_AT_ONCE = 256 << 20
_COPY_PART = 128 << 20
_ABORT_ROUNDS = 3


class MultipartUpload:
    """One multipart upload, used by one task: `start`, `add` ..., then `complete` or `abort`.

    At most `at_once` parts are in flight; `add` waits while there are more. A failed part fails the next call.
    """

    def __init__(self, connection: S3Connection, bucket: str, key: str, *, at_once: int) -> None:
        self._connection = connection
        self._bucket = bucket
        self._key = key
        self._upload_id: str | None = None
        self._starting: asyncio.Task[None] | None = None
        self._slots = asyncio.Semaphore(at_once)
        self._tasks: list[asyncio.Task[str]] = []
        self._size = 0
        self.over: bool = False

    @property
    def parts(self) -> int:
        """The number of parts so far."""
        return len(self._tasks)

    async def start(self, *, content_type: str, metadata: dict[str, str]) -> None:
        """Begin the upload on the server."""
        # A task of its own: a caller cancelled meanwhile still learns the id that it must abort.
        self._starting = self._connection.start(self._create(content_type, metadata))
        with self._connection.closing_is_unavailable():
            await asyncio.shield(self._starting)

    async def _create(self, content_type: str, metadata: dict[str, str]) -> None:
        answer = await self._connection.call(
            "create_multipart_upload", Bucket=self._bucket, Key=self._key, ContentType=content_type, Metadata=metadata
        )
        self._upload_id = answer["UploadId"]
        self._connection.uploads.add((self._key, answer["UploadId"]))

    async def add(self, data: bytes | memoryview, sha256: str | None = None) -> None:
        """Send a part in the background. `sha256` in hex, where it is known."""
        if len(self._tasks) >= _MAX_PARTS:
            raise LimitExceededError(
                f"a blob has at most {_MAX_PARTS} parts; raise part_size_bytes",
                limit=_MAX_PARTS,
                actual=len(self._tasks) + 1,
            )
        await self._slots.acquire()
        self._raise_failed()
        self._size += len(data)
        self._tasks.append(self._connection.start(self._send(len(self._tasks) + 1, data, sha256)))

    async def add_copy(self, source: dict[str, str], etag: str, start: int, end: int) -> None:
        """Let the server copy bytes of another object as a part, in the background."""
        await self._slots.acquire()
        self._raise_failed()
        self._size += end - start
        self._tasks.append(self._connection.start(self._copy(len(self._tasks) + 1, source, etag, start, end)))

    async def _send(self, number: int, data: bytes | memoryview, sha256: str | None) -> str:
        try:
            answer = await self._connection.call(
                "upload_part",
                sha256=sha256,
                Bucket=self._bucket,
                Key=self._key,
                UploadId=self._upload_id,
                PartNumber=number,
                Body=data,
            )
            return str(answer["ETag"])
        finally:
            self._slots.release()

    async def _copy(self, number: int, source: dict[str, str], etag: str, start: int, end: int) -> str:
        try:
            answer = await self._connection.call(
                "upload_part_copy",
                Bucket=self._bucket,
                Key=self._key,
                UploadId=self._upload_id,
                PartNumber=number,
                CopySource=source,
                CopySourceIfMatch=etag,
                CopySourceRange=f"bytes={start}-{end - 1}",
            )
            return str(answer["CopyPartResult"]["ETag"])
        finally:
            self._slots.release()

    def _raise_failed(self) -> None:
        for task in self._tasks:
            if task.done() and (task.cancelled() or task.exception() is not None):
                with self._connection.closing_is_unavailable():
                    task.result()

    async def sent(self) -> None:
        """Wait for all parts."""
        with self._connection.closing_is_unavailable():
            await asyncio.gather(*self._tasks)

    async def complete(self) -> None:
        """Wait for all parts and join them into the object."""
        with self._connection.closing_is_unavailable():
            etags = await asyncio.gather(*self._tasks)
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
        try:
            await self._connection.call(
                "complete_multipart_upload",
                Bucket=self._bucket,
                Key=self._key,
                UploadId=self._upload_id,
                MultipartUpload={"Parts": parts},
            )
        except ObjectMissing:
            # A repeated request whose first answer was lost: the upload is over, its object is there.
            answer = await self._connection.call("head_object", Bucket=self._bucket, Key=self._key)
            if answer["ContentLength"] != self._size:
                raise BlobIntegrityError(
                    f"the object has {answer['ContentLength']} bytes, {self._size} were sent"
                ) from None
        self._ended()

    def _ended(self) -> None:
        self.over = True
        if self._upload_id is not None:
            self._connection.uploads.discard((self._key, self._upload_id))

    async def abort(self) -> None:
        """Stop the parts in flight and remove those that arrived. Does nothing once the upload is over."""
        if self.over or self._starting is None:
            return
        for task in self._tasks:
            task.cancel()
        await self._connection.clean_up(self._abort(), f"the unfinished upload of {self._key}")

    async def _abort(self) -> None:
        await asyncio.gather(*self._tasks, *((self._starting,) if self._starting else ()), return_exceptions=True)
        try:
            if self._upload_id is not None:
                await abort_upload(self._connection, self._bucket, self._key, self._upload_id)
        finally:
            self._ended()


async def abort_upload(connection: S3Connection, bucket: str, key: str, upload_id: str) -> None:
    """Abort until the server knows the upload no more: a part that was under way may arrive after the first abort."""
    for _ in range(_ABORT_ROUNDS):
        try:
            await connection.call("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload_id)
            await connection.call("list_parts", Bucket=bucket, Key=key, UploadId=upload_id, MaxParts=1)
        except ObjectMissing:
            return


async def copy_object(
    connection: S3Connection,
    *,
    bucket: str,
    source: str,
    key: str,
    etag: str,
    size: int,
    content_type: str,
    metadata: dict[str, str],
    at_once: int,
) -> None:
    """Copy within a bucket, on the server, if the source still has this ETag; in parts when it is large."""
    origin = {"Bucket": bucket, "Key": source}
    if size <= _COPY_AT_ONCE:
        await connection.call(
            "copy_object",
            Bucket=bucket,
            Key=key,
            CopySource=origin,
            CopySourceIfMatch=bare_etag(etag),
            MetadataDirective="REPLACE",
            ContentType=content_type,
            Metadata=metadata,
        )
        return
    upload = MultipartUpload(connection, bucket, key, at_once=at_once)
    step = max(_COPY_PART, -(-size // _MAX_PARTS))
    try:
        await upload.start(content_type=content_type, metadata=metadata)
        for start in range(0, size, step):
            await upload.add_copy(origin, bare_etag(etag), start, min(start + step, size))
        await upload.complete()
    finally:
        await upload.abort()
