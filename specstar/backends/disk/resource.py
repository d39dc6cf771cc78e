"""The resource role on disk: small payloads in the database, large ones in files."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence

from specstar.backends.disk.connection import DiskConnection
from specstar.backends.disk.options import DiskOptions
from specstar.backends.disk.payloads import PayloadFileLane, payload_pages
from specstar.backends.provider import BackendContext
from specstar.backends.sqlite.lanes import Lanes
from specstar.backends.sqlite.reads import GetPayloads
from specstar.backends.sqlite.tables import ModelTables
from specstar.backends.sqlite.writes import DeletePayloads, PutPayload
from specstar.roles import ModelSpec, PayloadKey, ResourceStore, StoredPayload
from specstar.runtime import left_in_order

__all__ = ["DiskResourceStore"]


class DiskResourceStore(ResourceStore):
    """Payloads of one model under a root folder."""

    def __init__(self, context: BackendContext[DiskOptions, DiskConnection], model: ModelSpec) -> None:
        self._context = context
        self._tables = ModelTables(model)
        self._inline = context.options.inline_payload_bytes
        self._opened: tuple[Lanes, PayloadFileLane] | None = None

    async def _way(self) -> tuple[Lanes, PayloadFileLane]:
        if self._opened is None or self._context.connection.opened is None:
            home, connection = self._context.home, await self._context.connection.get()
            lanes = await connection.prepare(home, self._tables)
            if self._opened is None:
                self._opened = lanes, PayloadFileLane(home, connection, self._tables.suffix)
        return self._opened

    async def put(self, key: PayloadKey, payload: bytes) -> None:
        lanes, files = await self._way()
        if len(payload) <= self._inline:
            await lanes.write(PutPayload(self._tables, key, payload, _now()))
        else:
            await files.write(key, payload)

    async def put_many(self, items: Sequence[tuple[PayloadKey, bytes]]) -> None:
        lanes, files = await self._way()
        now = _now()
        small = [PutPayload(self._tables, key, data, now) for key, data in items if len(data) <= self._inline]
        large = [(key, data) for key, data in items if len(data) > self._inline]
        if large:
            await files.write_many(large)
        for result in await lanes.write_all(small):
            if result is not None:
                raise result

    async def get(self, key: PayloadKey) -> bytes | None:
        lanes, files = await self._way()
        (payload,) = await lanes.read(GetPayloads(self._tables, (key,)))
        return payload if payload is not None else await files.read(key)

    async def get_many(self, keys: Sequence[PayloadKey]) -> list[bytes | None]:
        lanes, files = await self._way()
        found: list[bytes | None] = await lanes.read(GetPayloads(self._tables, keys))
        missing = [place for place, payload in enumerate(found) if payload is None]
        if missing:
            for place, payload in zip(missing, await files.read_many([keys[place] for place in missing]), strict=True):
                found[place] = payload
        return found

    async def delete_many(self, keys: Sequence[PayloadKey]) -> None:
        lanes, files = await self._way()
        if keys:
            await lanes.write(DeletePayloads(self._tables, keys))
            await files.delete(keys)

    async def list(self) -> AsyncIterator[list[StoredPayload]]:
        lanes, files = await self._way()
        async with left_in_order(payload_pages(lanes, self._tables, files)) as pages:
            async for page in pages:
                yield page

    async def sweep(self, *, older_than_seconds: float) -> int:
        _, files = await self._way()
        return await files.sweep(older_than_seconds)


def _now() -> int:
    return time.time_ns() // 1000
