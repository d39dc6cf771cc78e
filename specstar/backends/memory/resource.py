"""The resource role in memory."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

from anyio.lowlevel import checkpoint

from specstar.backends.memory.connection import MemoryConnection
from specstar.backends.memory.model import PayloadTable
from specstar.backends.memory.options import MemoryOptions
from specstar.backends.provider import BackendContext
from specstar.roles import ModelSpec, PayloadKey, ResourceStore, StoredPayload

__all__ = ["MemoryResourceStore"]

_PAGE = 1000


class MemoryResourceStore(ResourceStore):
    """Payloads of one model in memory. Calls run at once, on the event loop."""

    def __init__(self, context: BackendContext[MemoryOptions, MemoryConnection], model: ModelSpec) -> None:
        self._context = context
        self._spec = model

    async def _table(self) -> PayloadTable:
        connection = self._context.connection.opened or await self._context.connection.get()
        if connection.due():
            await checkpoint()
        return connection.payloads(self._spec)

    async def put(self, key: PayloadKey, payload: bytes) -> None:
        (await self._table()).setdefault(key, (payload, time.time()))

    async def put_many(self, items: Sequence[tuple[PayloadKey, bytes]]) -> None:
        table, now = await self._table(), time.time()
        for key, payload in items:
            table.setdefault(key, (payload, now))

    async def get(self, key: PayloadKey) -> bytes | None:
        found = (await self._table()).get(key)
        return None if found is None else found[0]

    async def get_many(self, keys: Sequence[PayloadKey]) -> list[bytes | None]:
        table = await self._table()
        return [None if (found := table.get(key)) is None else found[0] for key in keys]

    async def delete_many(self, keys: Sequence[PayloadKey]) -> None:
        table = await self._table()
        for key in keys:
            table.pop(key, None)

    async def list(self) -> AsyncIterator[list[StoredPayload]]:
        table = await self._table()
        keys = list(table)
        for start in range(0, len(keys), _PAGE):
            page = [(key, table.get(key)) for key in keys[start : start + _PAGE]]
            yield [
                StoredPayload(PayloadKey(*key), len(found[0]), datetime.fromtimestamp(found[1], UTC))
                for key, found in page
                if found is not None
            ]
            await checkpoint()
