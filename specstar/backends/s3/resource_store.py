"""The resource role: one object a payload. Keys are written once, so every request may be repeated safely."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

from specstar.backends.provider import BackendContext
from specstar.backends.s3.answers import server_time
from specstar.backends.s3.connection import S3Connection
from specstar.backends.s3.errors import ObjectMissing
from specstar.backends.s3.keys import PayloadKeys
from specstar.backends.s3.options import S3Options
from specstar.errors import BackendError
from specstar.roles import ModelSpec, PayloadKey, ResourceStore, StoredPayload
from specstar.runtime import for_each

__all__ = ["S3ResourceStore", "delete_objects", "delete_page", "object_pages", "server_clock"]

# DeleteObjects takes 1000 keys.
_DELETE_PAGE = 1000


class S3ResourceStore(ResourceStore):
    """The payloads of one model under `{prefix}resource/{model}/`.

    Requests in flight are bounded by the connection's pool; calls beyond wait there, first come, first served.
    """

    def __init__(self, context: BackendContext[S3Options, S3Connection], model: ModelSpec) -> None:
        self._lazy = context.connection
        self._bucket = context.options.bucket
        self._keys = PayloadKeys(context.options.prefix, model.name)
        # Leaves room for others beside one large call.
        self._at_once = max(1, context.options.max_pool_connections * 3 // 4)

    async def put(self, key: PayloadKey, payload: bytes) -> None:
        connection = self._lazy.opened or await self._lazy.get()
        metadata = self._keys.metadata(key)
        more: dict[str, Any] = {"Metadata": metadata} if metadata else {}
        await connection.call("put_object", Bucket=self._bucket, Key=self._keys.key(key), Body=payload, **more)

    async def put_many(self, items: Sequence[tuple[PayloadKey, bytes]]) -> None:
        await for_each(items, lambda item: self.put(*item), at_once=self._at_once)

    async def get(self, key: PayloadKey) -> bytes | None:
        connection = self._lazy.opened or await self._lazy.get()
        try:
            answer = await connection.call("get_object", Bucket=self._bucket, Key=self._keys.key(key))
        except ObjectMissing:
            return None
        body: bytes = answer["Body"]
        return body

    async def get_many(self, keys: Sequence[PayloadKey]) -> list[bytes | None]:
        return await for_each(keys, self.get, at_once=self._at_once)

    async def delete_many(self, keys: Sequence[PayloadKey]) -> None:
        connection = self._lazy.opened or await self._lazy.get()
        names = [self._keys.key(key) for key in keys]
        if len(names) == 1:
            await connection.call("delete_object", Bucket=self._bucket, Key=names[0])
            return
        await delete_objects(connection, self._bucket, names)

    async def list(self) -> AsyncIterator[list[StoredPayload]]:
        connection = self._lazy.opened or await self._lazy.get()
        async for page in object_pages(connection, self._bucket, self._keys.root):
            hashed = [entry["Key"] for entry in page if self._keys.is_hashed(entry["Key"])]
            told = dict(zip(hashed, await for_each(hashed, self._metadata, at_once=self._at_once), strict=True))
            found = [(self._keys.parse(entry["Key"], told.get(entry["Key"])), entry) for entry in page]
            yield [
                StoredPayload(key, entry["Size"], entry["LastModified"].astimezone(UTC))
                for key, entry in found
                if key is not None
            ]

    async def clock(self) -> datetime:
        connection = self._lazy.opened or await self._lazy.get()
        return datetime.fromtimestamp(await server_clock(connection, self._bucket, self._keys.root) + 1.0, UTC)

    async def _metadata(self, name: str) -> dict[str, str] | None:
        connection = self._lazy.opened or await self._lazy.get()
        try:
            answer = await connection.call("head_object", Bucket=self._bucket, Key=name)
        except ObjectMissing:
            return None
        metadata: dict[str, str] = answer.get("Metadata", {})
        return metadata


async def server_clock(connection: S3Connection, bucket: str, prefix: str) -> float:
    """The server's clock, in seconds since the epoch: it comes in whole ones, cut off."""
    return server_time(await connection.call("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1))


async def delete_objects(connection: S3Connection, bucket: str, names: Sequence[str]) -> None:
    """Delete any number of objects; missing ones are ignored. Raises `BackendError` if some stay."""
    for start in range(0, len(names), _DELETE_PAGE):
        await delete_page(connection, bucket, names[start : start + _DELETE_PAGE])


async def delete_page(connection: S3Connection, bucket: str, names: Sequence[str]) -> None:
    """Delete at most 1000 objects; missing ones are ignored. Raises `BackendError` if some stay."""
    if not names:
        return
    answer = await connection.call(
        "delete_objects", Bucket=bucket, Delete={"Objects": [{"Key": name} for name in names], "Quiet": True}
    )
    errors = [error for error in answer.get("Errors", []) if error.get("Code") != "NoSuchKey"]
    if errors:
        first = errors[0]
        raise BackendError(
            f"{len(errors)} of {len(names)} objects could not be deleted, {first['Key']}: {first.get('Code')}"
        )


async def object_pages(
    connection: S3Connection, bucket: str, prefix: str, **more: Any
) -> AsyncIterator[list[dict[str, Any]]]:
    """The entries of a listing, page by page."""
    token: dict[str, Any] = {}
    while True:
        answer = await connection.call("list_objects_v2", Bucket=bucket, Prefix=prefix, **more, **token)
        yield answer.get("Contents", [])
        if not answer.get("IsTruncated"):
            return
        token = {"ContinuationToken": answer["NextContinuationToken"]}
