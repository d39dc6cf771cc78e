"""The blob role: content-addressed objects, with their type and time in the objects themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from specstar.backends.provider import BackendContext
from specstar.backends.s3.blob_file import put_file
from specstar.backends.s3.blob_garbage import collect_uploads
from specstar.backends.s3.blob_layout import BlobLayout
from specstar.backends.s3.blob_reader import S3BlobReader, open_blob
from specstar.backends.s3.blob_save import save_blob
from specstar.backends.s3.blob_uploads import Uploads
from specstar.backends.s3.blob_writer import S3BlobWriter, put_small, sums_of
from specstar.backends.s3.connection import S3Connection
from specstar.backends.s3.options import S3Options
from specstar.backends.s3.resource_store import object_pages
from specstar.errors import BlobNotFoundError
from specstar.roles import BlobInfo, BlobStore, BlobWriter, UploadSession
from specstar.runtime import for_each

__all__ = ["S3BlobStore"]


class S3BlobStore(BlobStore):
    """All blobs of one specstar under `{blob_prefix}{sha256}` in the blob bucket."""

    def __init__(self, context: BackendContext[S3Options, S3Connection]) -> None:
        self._options = context.options
        self._lazy = context.connection
        self._layout = BlobLayout(context.options)
        self._uploads = Uploads(context.options, self._layout)

    async def create(self, *, content_type: str, size_hint: int | None = None) -> BlobWriter:
        connection = self._lazy.opened or await self._lazy.get()
        return S3BlobWriter(connection, self._options, self._layout, content_type=content_type, size_hint=size_hint)

    async def put_bytes(self, data: bytes, *, content_type: str) -> BlobInfo:
        connection = self._lazy.opened or await self._lazy.get()
        if len(data) < self._options.multipart_threshold_bytes:
            sums = await sums_of(connection, data)
            return await put_small(connection, self._layout, data, sums=sums, content_type=content_type)
        writer = await self.create(content_type=content_type, size_hint=len(data))
        try:
            view = memoryview(data)
            for start in range(0, len(data), self._options.part_size_bytes):
                await writer.write(view[start : start + self._options.part_size_bytes])
            return await writer.commit()
        finally:
            await writer.abort()

    async def put_file(self, path: Path, *, content_type: str) -> BlobInfo:
        connection = self._lazy.opened or await self._lazy.get()
        return await put_file(connection, self._options, self._layout, path, content_type=content_type)

    async def open(self, file_id: str, *, start: int = 0, end: int | None = None) -> S3BlobReader:
        connection = self._lazy.opened or await self._lazy.get()
        at_once = self._options.part_concurrency
        return await open_blob(connection, self._layout, file_id, start=start, end=end, at_once=at_once)

    async def save(self, file_id: str, path: Path) -> BlobInfo:
        return await save_blob(await self.open(file_id), path)

    async def stat(self, file_id: str) -> BlobInfo:
        connection = self._lazy.opened or await self._lazy.get()
        info = await self._layout.find(connection, file_id)
        if info is None:
            raise BlobNotFoundError(file_id)
        return info

    async def delete(self, file_id: str) -> None:
        await self.stat(file_id)
        connection = self._lazy.opened or await self._lazy.get()
        await connection.call("delete_object", Bucket=self._layout.bucket, Key=self._layout.key(file_id))

    async def url(self, file_id: str, *, expires_in: float | None = None) -> str | None:
        """A presigned GET URL. It dies earlier if the credentials that signed it do (temporary ones)."""
        seconds = self._options.presigned_url_expiry if expires_in is None else int(expires_in)
        await self.stat(file_id)
        connection = self._lazy.opened or await self._lazy.get()
        params = {"Bucket": self._layout.bucket, "Key": self._layout.key(file_id)}
        url: str = await connection.client.generate_presigned_url("get_object", Params=params, ExpiresIn=seconds)
        return url

    async def create_upload(self, *, content_type: str, size: int | None = None) -> UploadSession:
        connection = self._lazy.opened or await self._lazy.get()
        return await self._uploads.create(connection, content_type=content_type, size=size)

    async def upload(self, upload_id: str, data: bytes) -> None:
        connection = self._lazy.opened or await self._lazy.get()
        await self._uploads.append(connection, upload_id, data)

    async def finalize(self, upload_id: str) -> BlobInfo:
        connection = self._lazy.opened or await self._lazy.get()
        return await self._uploads.finalize(connection, upload_id)

    async def abort(self, upload_id: str) -> None:
        connection = self._lazy.opened or await self._lazy.get()
        await self._uploads.abort(connection, upload_id)

    async def list(self) -> AsyncIterator[list[BlobInfo]]:
        connection = self._lazy.opened or await self._lazy.get()

        async def info(entry: dict[str, Any]) -> BlobInfo | None:
            return await self._layout.find(connection, entry["Key"].removeprefix(self._layout.root))

        at_once = max(1, self._options.max_pool_connections // 2)
        async for page in object_pages(connection, self._layout.bucket, self._layout.root, Delimiter="/"):
            entries = [entry for entry in page if self._layout.is_blob(entry["Key"])]
            yield [found for found in await for_each(entries, info, at_once=at_once) if found is not None]

    async def collect_garbage(self, *, older_than_seconds: float) -> int:
        connection = self._lazy.opened or await self._lazy.get()
        return await collect_uploads(connection, self._layout, self._uploads, older_than_seconds=older_than_seconds)
