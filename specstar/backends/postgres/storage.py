"""Meta and resource on one connection: row, revision and payload travel, and are committed, together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from specstar.backends.postgres.eraser import Eraser
from specstar.backends.postgres.reader import MetaReader
from specstar.backends.postgres.schema import META
from specstar.backends.postgres.searcher import Searcher
from specstar.backends.postgres.tables import ModelTables
from specstar.backends.postgres.writer import MetaWriter
from specstar.query import Condition, Query
from specstar.roles.records import ResourceMeta, RevisionInfo, StoredRevision
from specstar.roles.resource import PayloadKey, StoredPayload
from specstar.roles.storage import Advance, AdvancingStorage, Found, ModelSpec, StorageWrite

if TYPE_CHECKING:
    from specstar.backends.postgres.connection import PostgresConnection
    from specstar.backends.postgres.options import PostgresOptions
    from specstar.backends.provider import BackendContext

__all__ = ["PostgresStorage"]

_PAGE = 1000


class PostgresStorage(AdvancingStorage):
    """The resources of one model in a meta and a revision table; payloads are a column of the latter."""

    portable = True

    def __init__(self, context: BackendContext[PostgresOptions, PostgresConnection], model: ModelSpec) -> None:
        self._tables = tables = ModelTables(context, model, META)
        self._writer = MetaWriter(tables)
        self._reader = MetaReader(tables)
        self._searcher = Searcher(tables)
        self._eraser = Eraser(tables, lists=False)

    async def write(self, item: StorageWrite) -> None:
        await self._writer.write(item)

    async def advance(self, item: Advance) -> RevisionInfo:
        return await self._writer.advance(item)

    async def write_many(self, items: Sequence[StorageWrite]) -> list[Exception | None]:
        return await self._writer.write_many(items)

    async def read(self, resource_id: str, revision_id: str | None = None) -> StoredRevision | ResourceMeta | None:
        return await self._reader.read(resource_id, revision_id)

    async def read_many(self, resource_ids: Sequence[str]) -> list[StoredRevision | None]:
        return await self._reader.read_many(resource_ids)

    async def read_meta(self, resource_id: str) -> ResourceMeta | None:
        return await self._reader.meta.one(resource_id)

    async def read_revision(
        self, resource_id: str, revision_id: str | None = None
    ) -> tuple[ResourceMeta, RevisionInfo | None] | None:
        if revision_id is None:
            return await self._reader.info.one(resource_id)
        return await self._reader.info_at.one((resource_id, revision_id))

    async def list_revisions(self, resource_id: str) -> list[RevisionInfo]:
        return await self._reader.list_revisions(resource_id)

    async def erase(self, resource_id: str, *, expected_version: int | None = None) -> bool:
        return await self._eraser.erase(resource_id, expected_version) is not None

    async def find(self, query: Query) -> Found:
        return await self._searcher.find(query, self._reader)

    async def search_meta(self, query: Query) -> list[ResourceMeta]:
        return await self._searcher.search_meta(query)

    async def count(self, condition: Condition | None = None, *, include_deleted: bool = False) -> int:
        return await self._searcher.count(condition, include_deleted=include_deleted)

    async def explain(self, query: Query) -> str:
        return await self._searcher.explain(query)

    async def list_payloads(self) -> AsyncIterator[list[StoredPayload]]:
        """Nothing: payloads are columns of their revisions, so none can be left behind."""
        no_pages: list[list[StoredPayload]] = []
        for page in no_pages:
            yield page

    async def unreferenced(self, keys: Sequence[PayloadKey]) -> list[PayloadKey]:
        connection = await self._tables.ready()
        found: set[tuple[str, str]] = set()
        for start in range(0, len(keys), _PAGE):
            part = keys[start : start + _PAGE]
            sql = self._tables.meta_sql.references
            rows = await connection.fetch(sql, [key.resource_id for key in part], [key.payload_id for key in part])
            found.update((row[0], row[1]) for row in rows)
        return [key for key in keys if key not in found]

    async def drop_payloads(self, keys: Sequence[PayloadKey]) -> None:
        """Nothing to do: see `list_payloads`."""
