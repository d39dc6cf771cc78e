"""Meta and resource together in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import cast

from anyio.lowlevel import checkpoint

from specstar.backends.memory.connection import MemoryConnection
from specstar.backends.memory.meta import Opened
from specstar.backends.memory.options import MemoryOptions
from specstar.backends.provider import BackendContext
from specstar.errors import DecodeError
from specstar.query import Condition, Query
from specstar.roles import ModelSpec, PayloadKey, ResourceMeta, RevisionInfo, Storage, StoredPayload, StoredRevision
from specstar.roles.meta import revision_gone
from specstar.roles.storage import Found, StorageWrite

__all__ = ["MemoryStorage"]


class MemoryStorage(Storage):
    """The resources of one model in memory. Calls run at once, on the event loop; searches in a thread."""

    shares_rows = True

    def __init__(self, context: BackendContext[MemoryOptions, MemoryConnection], model: ModelSpec) -> None:
        self._opened = Opened(context, model)
        self._lazy = context.connection

    async def write(self, item: StorageWrite) -> None:
        # Written out here and in `read`: a call in memory costs little more than this.
        connection = self._opened.connection
        if connection is None or self._lazy.opened is None:
            connection = await self._opened.connect()
        self._opened.model.apply(item[0], item[1])
        if connection.due():
            # After the change, so that calls take effect in their order.
            await checkpoint()

    async def write_many(self, items: Sequence[StorageWrite]) -> list[Exception | None]:
        return await self._opened.apply_all(items)

    async def read(self, resource_id: str, revision_id: str | None = None) -> StoredRevision | ResourceMeta | None:
        connection = self._opened.connection
        if connection is None or self._lazy.opened is None:
            await self._opened.connect()
        elif connection.due():
            await checkpoint()
        row = self._opened.rows.get(resource_id)
        if row is None:
            return None
        if revision_id is not None and revision_id != row.meta.current_revision_id:
            found = self._opened.model.revision(row, revision_id)
            if found is None:
                return cast("ResourceMeta", row.meta)
            if found[1] is None:
                raise _lost(found[0])
            return StoredRevision(row.meta, found[0], found[1])
        if row.revision is None:
            return cast("ResourceMeta", row.meta)
        if row.payload is None:
            raise _lost(row.revision)
        return cast("StoredRevision", row)

    async def read_many(self, resource_ids: Sequence[str]) -> list[StoredRevision | None]:
        await self._opened.turn()
        return [_whole(self._opened.rows.get(resource_id)) for resource_id in resource_ids]

    async def read_meta(self, resource_id: str) -> ResourceMeta | None:
        await self._opened.turn()
        row = self._opened.rows.get(resource_id)
        return None if row is None else row.meta

    async def read_revision(
        self, resource_id: str, revision_id: str | None = None
    ) -> tuple[ResourceMeta, RevisionInfo | None] | None:
        await self._opened.turn()
        return self._opened.model.with_revision(resource_id, revision_id)

    async def list_revisions(self, resource_id: str) -> list[RevisionInfo]:
        await self._opened.turn()
        return self._opened.model.revisions(resource_id)

    async def erase(self, resource_id: str, *, expected_version: int | None = None) -> bool:
        await self._opened.ready()
        return self._opened.model.erase(resource_id, expected_version) is not None

    async def find(self, query: Query) -> Found:
        await self._opened.turn()
        rows = await self._opened.search.rows(query)
        for row in rows:
            if row.revision is None:
                raise revision_gone(row.meta)
        return Found.of(query, [row.meta for row in rows], [_whole(row) for row in rows])

    async def search_meta(self, query: Query) -> list[ResourceMeta]:
        await self._opened.turn()
        return [row.meta for row in await self._opened.search.rows(query)]

    async def count(self, condition: Condition | None = None, *, include_deleted: bool = False) -> int:
        await self._opened.turn()
        return await self._opened.search.count(condition, include_deleted)

    async def explain(self, query: Query) -> str:
        await self._opened.turn()
        return await self._opened.search.explain(query)

    async def list_payloads(self) -> AsyncIterator[list[StoredPayload]]:
        # Payloads are part of their rows here: none can be left over.
        nothing: list[list[StoredPayload]] = []
        for page in nothing:
            yield page

    async def unreferenced(self, keys: Sequence[PayloadKey]) -> list[PayloadKey]:
        await self._opened.turn()
        known = {
            PayloadKey(key.resource_id, revision.payload_id)
            for key in keys
            for revision in self._opened.model.revisions(key.resource_id)
        }
        return [key for key in keys if key not in known]

    async def drop_payloads(self, keys: Sequence[PayloadKey]) -> None:
        """Nothing lies outside the rows."""
        await self._opened.turn()


def _whole(row: StoredRevision | None) -> StoredRevision | None:
    if row is None or row.revision is None:
        return None
    if row.payload is None:
        raise _lost(row.revision)
    return row


def _lost(revision: RevisionInfo) -> DecodeError:
    message = f"revision {revision.revision_id} of {revision.resource_id!r} was written without a payload"
    return DecodeError(message, resource_id=revision.resource_id, revision_id=revision.revision_id)
