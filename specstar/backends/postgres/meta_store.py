"""The meta role alone: rows and revisions; payloads lie elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from specstar.backends.postgres.eraser import Eraser, RevisionsUnseen
from specstar.backends.postgres.reader import MetaReader, each_info_of
from specstar.backends.postgres.schema import META
from specstar.backends.postgres.searcher import Searcher
from specstar.backends.postgres.tables import ModelTables
from specstar.backends.postgres.writer import MetaWriter
from specstar.errors import OutcomeUnknownError
from specstar.query import Condition, Query
from specstar.roles.meta import MetaStore, MetaWrite
from specstar.roles.records import ResourceMeta, RevisionInfo
from specstar.roles.storage import ModelSpec, StorageWrite

if TYPE_CHECKING:
    from specstar.backends.postgres.connection import PostgresConnection
    from specstar.backends.postgres.options import PostgresOptions
    from specstar.backends.provider import BackendContext

__all__ = ["PostgresMetaStore"]

_PAGE = 5000


class PostgresMetaStore(MetaStore):
    """The rows and revisions of one model."""

    def __init__(self, context: BackendContext[PostgresOptions, PostgresConnection], model: ModelSpec) -> None:
        self._tables = tables = ModelTables(context, model, META, finds_payloads=True)
        self._writer = MetaWriter(tables)
        self._reader = MetaReader(tables)
        self._searcher = Searcher(tables)
        self._eraser = Eraser(tables, lists=True)

    async def write(self, change: MetaWrite) -> None:
        await self._writer.write(StorageWrite(change, None))

    async def write_many(self, changes: Sequence[MetaWrite]) -> list[Exception | None]:
        return await self._writer.write_many([StorageWrite(change, None) for change in changes])

    async def erase(self, resource_id: str, *, expected_version: int | None = None) -> list[RevisionInfo] | None:
        try:
            return await self._eraser.erase(resource_id, expected_version)
        except RevisionsUnseen as unseen:
            raise OutcomeUnknownError(
                f"{resource_id!r} is gone, but the answer that named its payloads was lost: they stay until "
                "collect_garbage",
                backend="postgres",
            ) from unseen

    async def get(self, resource_id: str) -> ResourceMeta | None:
        return await self._reader.meta.one(resource_id)

    async def get_many(self, resource_ids: Sequence[str]) -> list[ResourceMeta | None]:
        return await self._reader.meta.many(resource_ids)

    async def get_with_revision(
        self, resource_id: str, revision_id: str | None = None
    ) -> tuple[ResourceMeta, RevisionInfo | None] | None:
        if revision_id is None:
            return await self._reader.info.one(resource_id)
        return await self._reader.info_at.one((resource_id, revision_id))

    async def get_many_with_revision(
        self, resource_ids: Sequence[str]
    ) -> list[tuple[ResourceMeta, RevisionInfo] | None]:
        found = await self._reader.info.many(resource_ids, each_info_of)
        return [(entry[0], entry[1]) if entry is not None and entry[1] is not None else None for entry in found]

    async def list_revisions(self, resource_id: str) -> list[RevisionInfo]:
        return await self._reader.list_revisions(resource_id)

    async def search(self, query: Query) -> list[tuple[ResourceMeta, RevisionInfo]]:
        return await self._searcher.search_rows(query)

    async def count(self, condition: Condition | None = None, *, include_deleted: bool = False) -> int:
        return await self._searcher.count(condition, include_deleted=include_deleted)

    async def explain(self, query: Query) -> str:
        return await self._searcher.explain(query)

    async def referenced(self, payload_ids: Sequence[str]) -> set[str]:
        connection = await self._tables.ready()
        found: set[str] = set()
        for start in range(0, len(payload_ids), _PAGE):
            part = list(payload_ids[start : start + _PAGE])
            found.update(row[0] for row in await connection.fetch(self._tables.meta_sql.referenced, part))
        return found
