"""The object that holds the database of one model: read it, replace it on a condition, and see whether the server minds."""

from __future__ import annotations

import hashlib
import secrets
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any, NamedTuple

from specstar.backends.s3.answers import bare_etag
from specstar.backends.s3.connection import S3Connection
from specstar.backends.s3.errors import (
    ConditionalConflict,
    NotImplementedThere,
    NotModified,
    ObjectMissing,
    PreconditionFailed,
    endpoint_of,
)
from specstar.backends.s3.keys import base_root, meta_key, probe_key
from specstar.backends.s3.resource_store import object_pages
from specstar.errors import BackendError

__all__ = ["Fetched", "MetaObject", "StoredObject", "refuse_unless_conditional"]

# The push that belongs to an older base has ended, whatever its timeouts: a signed request is good for 15 minutes.
_ORPHAN_SECONDS = 86_400.0


class Fetched(NamedTuple):
    """A version of the object. `verified`: its bytes match the checksum that their writer left."""

    data: bytes
    etag: str
    verified: bool


class StoredObject(ABC):
    """One object that several processes replace. ETags are without quotes."""

    name: str

    @abstractmethod
    async def head(self) -> str | None:
        """The ETag; None if there is no object."""

    @abstractmethod
    async def fetch(self, known: str | None = None) -> Fetched | None:
        """The object; None if there is none. Raises `NotModified` if it is still the one with the ETag `known`."""

    @abstractmethod
    async def push(self, data: bytes, sha256: str, *, replaces: str | None, locked: bool) -> str:
        """Send a new version once, with no retry below; the new ETag.

        `locked`: only if the object still has the ETag `replaces` (None: does not exist). Raises `PreconditionFailed`,
        `ConditionalConflict`, `ObjectMissing`, and `RequestFailed` if the answer was lost.
        """

    @abstractmethod
    async def probe(self) -> None:
        """Raise `BackendError` if the server does not honour conditions on writes."""

    @abstractmethod
    async def put_base(self, name: str, data: bytes, sha256: str) -> None:
        """Store a base. Its name is used once, so this may be repeated."""

    @abstractmethod
    async def fetch_base(self, name: str) -> bytes | None:
        """The bytes of a base; None if it is not there (any more)."""

    @abstractmethod
    async def delete_base(self, name: str) -> None:
        """Remove a base."""

    @abstractmethod
    async def sweep_bases(self, newest: str, keep: Collection[str]) -> None:
        """Remove bases that killed writers left: all but `keep` that are a day older than `newest`, a base whose push landed.

        By the server's clock, and not by the time at which this runs: it may come late, when newer bases are old as well.
        """


class MetaObject(StoredObject):
    """The object in the bucket."""

    def __init__(self, connection: S3Connection, bucket: str, prefix: str, model: str) -> None:
        self._connection = connection
        self._bucket = bucket
        self._key = meta_key(prefix, model)
        self._bases = base_root(prefix, model)
        self._prefix = prefix
        self.name: str = f"s3://{bucket}/{self._key}"

    async def head(self) -> str | None:
        try:
            answer = await self._connection.call("head_object", Bucket=self._bucket, Key=self._key)
        except ObjectMissing:
            return None
        return bare_etag(answer["ETag"])

    async def fetch(self, known: str | None = None) -> Fetched | None:
        condition: dict[str, Any] = {} if known is None else {"IfNoneMatch": f'"{known}"'}
        try:
            answer = await self._connection.call("get_object", Bucket=self._bucket, Key=self._key, **condition)
        except ObjectMissing:
            return None
        data, etag = answer["Body"], bare_etag(answer["ETag"])
        if etag == known:
            raise NotModified(f"{self.name}: not modified")  # a server that ignores If-None-Match on reads
        expected = answer.get("Metadata", {}).get("sha256")
        if expected is None:
            return Fetched(data, etag, verified=False)
        found = (await self._connection.in_thread(hashlib.sha256, data)).hexdigest()
        if found != expected:
            raise BackendError(
                f"{self.name}: the {len(data)} bytes received do not match their checksum; nothing was changed"
            )
        return Fetched(data, etag, verified=True)

    async def push(self, data: bytes, sha256: str, *, replaces: str | None, locked: bool) -> str:
        condition: dict[str, Any] = {}
        if locked:
            # Unquoted: some servers compare the value literally.
            condition = {"IfNoneMatch": "*"} if replaces is None else {"IfMatch": replaces}
        answer = await self._connection.call(
            "put_object",
            attempts=1,
            sha256=sha256,
            Bucket=self._bucket,
            Key=self._key,
            Body=data,
            ContentType="application/vnd.sqlite3",
            Metadata={"sha256": sha256},
            **condition,
        )
        return bare_etag(answer["ETag"])

    async def probe(self) -> None:
        connection, place = self._connection, (self._bucket, self._prefix)
        if place in connection.probed:
            return
        async with connection.probing:
            if place not in connection.probed:
                await refuse_unless_conditional(
                    connection, self._bucket, probe_key(self._prefix, secrets.token_hex(16))
                )
                connection.probed.add(place)

    async def put_base(self, name: str, data: bytes, sha256: str) -> None:
        await self._connection.call(
            "put_object",
            sha256=sha256,
            Bucket=self._bucket,
            Key=self._bases + name,
            Body=data,
            ContentType="application/vnd.sqlite3",
        )

    async def fetch_base(self, name: str) -> bytes | None:
        try:
            answer = await self._connection.call("get_object", Bucket=self._bucket, Key=self._bases + name)
        except ObjectMissing:
            return None
        data: bytes = answer["Body"]
        return data

    async def delete_base(self, name: str) -> None:
        await self._connection.call("delete_object", Bucket=self._bucket, Key=self._bases + name)

    async def sweep_bases(self, newest: str, keep: Collection[str]) -> None:
        times: dict[str, float] = {}
        async for page in object_pages(self._connection, self._bucket, self._bases):
            times.update((entry["Key"].removeprefix(self._bases), entry["LastModified"].timestamp()) for entry in page)
        # Not there: others have moved on, and will sweep.
        limit = times.get(newest, 0.0) - _ORPHAN_SECONDS
        for name in [name for name, time in times.items() if time < limit and name not in keep]:
            await self.delete_base(name)


async def refuse_unless_conditional(connection: S3Connection, bucket: str, key: str) -> None:
    """Create, refuse to create, replace, refuse to replace: what servers that ignore conditions on writes fail at."""

    async def put(body: bytes, **condition: Any) -> str | None:
        try:
            answer = await connection.call("put_object", Bucket=bucket, Key=key, Body=body, **condition)
        except (PreconditionFailed, ConditionalConflict, ObjectMissing):
            return None
        return bare_etag(answer["ETag"])

    try:
        # A retry may be answered with 412 after its first attempt succeeded: what counts is the object.
        await put(b"1", IfNoneMatch="*")
        first = bare_etag((await connection.call("head_object", Bucket=bucket, Key=key))["ETag"])
        refused_create = await put(b"2", IfNoneMatch="*") is None
        await put(b"3", IfMatch=first)
        second = bare_etag((await connection.call("head_object", Bucket=bucket, Key=key))["ETag"])
        refused_stale = await put(b"4", IfMatch=first) is None
        last = bare_etag((await connection.call("head_object", Bucket=bucket, Key=key))["ETag"])
    except NotImplementedThere:
        refused_create = refused_stale = False
        first = second = last = ""
    finally:
        await connection.clean_up(connection.call("delete_object", Bucket=bucket, Key=key), f"the probe object {key}")
    if not (refused_create and refused_stale and first != second == last):
        raise BackendError(
            f"s3 at {endpoint_of(connection.options)} does not honour If-Match and If-None-Match on writes, so enable_locking "
            "cannot protect metadata; use another server, or set enable_locking to false if only one process ever writes"
        )
