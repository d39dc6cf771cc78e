"""The meta role on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from specstar.backends.disk.connection import DiskConnection
from specstar.backends.disk.options import DiskOptions
from specstar.backends.provider import BackendContext
from specstar.backends.sqlite.lanes import Lanes
from specstar.backends.sqlite.reads import (
    CountRows,
    ExplainRows,
    GetMeta,
    GetRows,
    ListRevisions,
    Referenced,
    SearchRows,
)
from specstar.backends.sqlite.tables import ModelTables
from specstar.backends.sqlite.writes import EraseRow, WriteRow
from specstar.query import Condition, Query
from specstar.roles import MetaStore, MetaWrite, ModelSpec, ResourceMeta, RevisionInfo

__all__ = ["DiskMetaStore"]


class DiskMetaStore(MetaStore):
    """Rows and revisions of one model in the SQLite database of a root folder."""

    def __init__(self, context: BackendContext[DiskOptions, DiskConnection], model: ModelSpec) -> None:
        self._context = context
        self._tables = ModelTables(model)
        self._lanes: Lanes | None = None

    async def _way(self) -> Lanes:
        if self._lanes is None or self._context.connection.opened is None:
            connection = await self._context.connection.get()
            self._lanes = await connection.prepare(self._context.home, self._tables)
        return self._lanes

    async def write(self, change: MetaWrite) -> None:
        lanes = await self._way()
        await lanes.write(WriteRow(self._tables, change))

    async def write_many(self, changes: Sequence[MetaWrite]) -> list[Exception | None]:
        lanes = await self._way()
        return await lanes.write_all([WriteRow(self._tables, change) for change in changes])

    async def erase(self, resource_id: str, *, expected_version: int | None = None) -> list[RevisionInfo] | None:
        lanes = await self._way()
        return cast(
            "list[RevisionInfo] | None", await lanes.write(EraseRow(self._tables, resource_id, expected_version))
        )

    async def get(self, resource_id: str) -> ResourceMeta | None:
        return (await self.get_many((resource_id,)))[0]

    async def get_many(self, resource_ids: Sequence[str]) -> list[ResourceMeta | None]:
        lanes = await self._way()
        return cast("list[ResourceMeta | None]", await lanes.read(GetMeta(self._tables, resource_ids)))

    async def get_with_revision(
        self, resource_id: str, revision_id: str | None = None
    ) -> tuple[ResourceMeta, RevisionInfo | None] | None:
        lanes = await self._way()
        (found,) = await lanes.read(GetRows(self._tables, (resource_id,), revision_id))
        return cast("tuple[ResourceMeta, RevisionInfo | None] | None", found)

    async def get_many_with_revision(
        self, resource_ids: Sequence[str]
    ) -> list[tuple[ResourceMeta, RevisionInfo] | None]:
        lanes = await self._way()
        rows = await lanes.read(GetRows(self._tables, resource_ids, each=True))
        return [None if row is None or row[1] is None else row for row in rows]

    async def list_revisions(self, resource_id: str) -> list[RevisionInfo]:
        lanes = await self._way()
        return cast("list[RevisionInfo]", await lanes.read(ListRevisions(self._tables, resource_id)))

    async def search(self, query: Query) -> list[tuple[ResourceMeta, RevisionInfo]]:
        lanes = await self._way()
        return cast("list[tuple[ResourceMeta, RevisionInfo]]", await lanes.search(SearchRows(self._tables, query)))

    async def count(self, condition: Condition | None = None, *, include_deleted: bool = False) -> int:
        lanes = await self._way()
        return cast("int", await lanes.search(CountRows(self._tables, condition, include_deleted)))

    async def explain(self, query: Query) -> str:
        lanes = await self._way()
        return cast("str", await lanes.search(ExplainRows(self._tables, query)))

    async def referenced(self, payload_ids: Sequence[str]) -> set[str]:
        lanes = await self._way()
        return cast("set[str]", await lanes.search(Referenced(self._tables, payload_ids)))
