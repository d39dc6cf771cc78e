"""S3 by hand on aioboto3: one client that is kept."""

from __future__ import annotations

import os
import sqlite3
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.contestant import Contestant, Sample, distributions
from benchmarks.contestants.blobs import LargeFile, timed
from benchmarks.sample import person, shuffled_forever

__all__ = ["RawAioboto3"]

_CONNECTIONS = 64


class Person(msgspec.Struct):
    """The payload."""

    name: str
    age: int
    city: str
    note: str


class RawAioboto3(Contestant):
    """An object a resource; meta as a SQLite database in one object, put with `If-Match` by each call in its turn."""

    async def open(self) -> None:
        import asyncio

        import aioboto3
        from aiobotocore.config import AioConfig

        found: dict[str, str] = self.setting["environment"]
        self._stack = AsyncExitStack()
        session = aioboto3.Session(
            aws_access_key_id=found["S3_ACCESS_KEY_ID"],
            aws_secret_access_key=found["S3_SECRET_ACCESS_KEY"],
            region_name=found["S3_REGION"],
        )
        config = AioConfig(max_pool_connections=_CONNECTIONS, s3={"addressing_style": "path"})
        client = session.client("s3", endpoint_url=found["S3_ENDPOINT_URL"], config=config)
        self.client: Any = await self._stack.enter_async_context(client)
        self.bucket = found["S3_BUCKET"]
        self.prefix = f"raw-{os.getpid()}/"
        self.folder = Path(self.setting["folder"])
        self.encode = msgspec.json.Encoder().encode
        self.decode = msgspec.json.Decoder(Person).decode
        self.rows: int = self.setting.get("rows", 256)
        self._keys: list[str] = []
        self._turn = asyncio.Lock()
        self._database: sqlite3.Connection | None = None
        self._etag: str | None = None

    async def close(self) -> None:
        if self._database is not None:
            self._database.close()
        await self._stack.aclose()

    def versions(self) -> dict[str, str]:
        return distributions("aioboto3", "aiobotocore")

    async def put(self, caller: int) -> None:
        """One object with the encoded payload."""
        await self._put(f"{self.prefix}{uuid.uuid4().hex}")

    async def _put(self, key: str) -> None:
        value = msgspec.convert(person(self.count(), self.payload), Person)
        await self.client.put_object(
            Bucket=self.bucket, Key=key, Body=self.encode(value), ContentType="application/json"
        )

    async def prepare_get(self) -> None:
        """Something to read."""
        import asyncio

        if not self._keys:
            self._keys = [f"{self.prefix}{uuid.uuid4().hex}" for _ in range(self.rows)]
            for start in range(0, self.rows, _CONNECTIONS):
                await asyncio.gather(*(self._put(key) for key in self._keys[start : start + _CONNECTIONS]))
        self._next = shuffled_forever(self._keys)

    async def get(self, caller: int) -> None:
        """One object, decoded."""
        answer = await self.client.get_object(Bucket=self.bucket, Key=next(self._next))
        async with answer["Body"] as body:
            self.decode(await body.read())

    async def meta_write(self, caller: int) -> None:
        """One row into the database, and the database into its object, if nobody else has changed it."""
        value = msgspec.convert(person(self.count(), self.payload), Person)
        async with self._turn:
            if self._database is None:
                self._database = sqlite3.connect(":memory:", check_same_thread=False)
                self._database.execute("CREATE TABLE meta (resource_id TEXT PRIMARY KEY, age INT, name TEXT)")
            self._database.execute("INSERT INTO meta VALUES (?, ?, ?)", (uuid.uuid4().hex, value.age, value.name))
            self._database.commit()
            condition = {"IfNoneMatch": "*"} if self._etag is None else {"IfMatch": self._etag}
            answer = await self.client.put_object(
                Bucket=self.bucket, Key=f"{self.prefix}meta.sqlite3", Body=self._database.serialize(), **condition
            )
            self._etag = answer["ETag"].strip('"')

    async def measure_blob_put(self, callers: int, seconds: float) -> Sample:
        """`upload_fileobj`, which sends parts in parallel."""
        with LargeFile(self.folder, self.setting["blob_bytes"]) as source:
            key = f"{self.prefix}blob"

            async def call() -> None:
                with source.path.open("rb") as file:
                    await self.client.upload_fileobj(file, self.bucket, key)

            async def after() -> None:
                await self.client.delete_object(Bucket=self.bucket, Key=key)
                source.renew()

            return await timed(call, after, seconds, source.size)

    async def measure_blob_get(self, callers: int, seconds: float) -> Sample:
        """`download_fileobj` into a file."""
        with LargeFile(self.folder, self.setting["blob_bytes"]) as source:
            key, target = f"{self.prefix}blob", self.folder / "copy"
            with source.path.open("rb") as file:
                await self.client.upload_fileobj(file, self.bucket, key)

            async def call() -> None:
                with target.open("wb") as file:
                    await self.client.download_fileobj(self.bucket, key, file)

            async def after() -> None:
                target.unlink()

            sample = await timed(call, after, seconds, source.size)
            await self.client.delete_object(Bucket=self.bucket, Key=key)
            return sample
