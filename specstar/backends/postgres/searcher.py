"""Search over one model: the SQL comes from the query compiler, this joins it with revisions and payloads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from specstar.backends.postgres.point_search import PointSearches
from specstar.backends.postgres.reader import MetaReader, Partial, each_full_of, each_info_of, largest_payload
from specstar.backends.postgres.rows import meta_of
from specstar.query import POSTGRES, Compiled, Condition, Fields, Query, compile_count, compile_query
from specstar.roles.meta import revision_gone
from specstar.roles.records import ResourceMeta, RevisionInfo, StoredRevision
from specstar.roles.storage import Found

if TYPE_CHECKING:
    from specstar.backends.postgres.connection import Row
    from specstar.backends.postgres.tables import ModelTables

__all__ = ["Searcher"]


class Searcher:
    """Runs queries over the rows of one model, each as one statement."""

    def __init__(self, tables: ModelTables) -> None:
        self._tables = tables
        self._sql = tables.search_sql
        self._fields = Fields(tables.spec.indexed_fields)
        self._points = PointSearches(tables, self._fields)

    async def find(self, query: Query, reader: MetaReader) -> Found:
        """The matching resources with their payloads; those too large for one answer are fetched one by one."""
        results: list[StoredRevision | None] = []
        rows: list[ResourceMeta] = []
        for row in await self._full_rows(query):
            first = each_full_of(row)
            found = await reader.complete(first) if isinstance(first, Partial) else first
            if isinstance(found, ResourceMeta):
                raise revision_gone(found)
            rows.append(first if isinstance(first, ResourceMeta) else first.meta)
            results.append(found)
        return Found.of(query, rows, results)

    async def _full_rows(self, query: Query) -> list[Row]:
        if self._points.takes(query):
            return await self._points.rows(query)
        sql, args = self._statement(query, self._sql.search_full, first_param=2)
        most = largest_payload(self._tables.batch_bytes, query.limit)
        connection = await self._tables.ready()
        return await connection.fetch_alone(sql, most, *args, doing="searching")

    async def search_rows(self, query: Query) -> list[tuple[ResourceMeta, RevisionInfo]]:
        """The matching rows with their current revisions."""
        sql, args = self._statement(query, self._sql.search)
        connection = await self._tables.ready()
        results: list[tuple[ResourceMeta, RevisionInfo]] = []
        for row in await connection.fetch_alone(sql, *args, doing="searching"):
            meta, revision = each_info_of(row)
            if revision is None:
                raise revision_gone(meta)
            results.append((meta, revision))
        return results

    async def search_meta(self, query: Query) -> list[ResourceMeta]:
        """The matching rows alone."""
        sql, args = self._statement(query, self._sql.search_meta)
        connection = await self._tables.ready()
        return [meta_of(row) for row in await connection.fetch_alone(sql, *args, doing="searching")]

    async def count(self, condition: Condition | None, *, include_deleted: bool) -> int:
        """The number of matching rows."""
        where, args = compile_count(condition, self._fields, POSTGRES, include_deleted=include_deleted, alias="m")
        connection = await self._tables.ready()
        return int((await connection.fetch_alone(self._sql.count(where), *args, doing="counting"))[0][0])

    async def explain(self, query: Query) -> str:
        """The planner's choice for a search, as text."""
        sql, args = self._statement(query, self._sql.search_full, first_param=2)
        connection = await self._tables.ready()
        rows = await connection.fetch_alone(
            f"EXPLAIN {sql}", largest_payload(self._tables.batch_bytes, query.limit), *args, doing="explaining"
        )
        return "\n".join(row[0] for row in rows)

    def _statement(
        self, query: Query, template: Callable[[Compiled], str], *, first_param: int = 1
    ) -> tuple[str, list[object]]:
        compiled = compile_query(query, self._fields, POSTGRES, alias="m", first_param=first_param)
        return template(compiled), compiled.params
