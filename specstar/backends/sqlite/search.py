"""Searches as operations. The query is compiled at once, in the caller, who gets its `QueryError`."""

from __future__ import annotations

from typing import Any

from specstar.backends.sqlite.database import Database
from specstar.backends.sqlite.rows import META_COLUMNS, decode_current, decode_meta
from specstar.backends.sqlite.tables import ModelTables
from specstar.query import (
    META_FIELDS,
    SQLITE,
    Condition,
    IndexedField,
    MetaField,
    Query,
    compile_count,
    compile_query,
    index_definitions,
)
from specstar.query.sql import Compiled
from specstar.roles import ResourceMeta, RevisionInfo
from specstar.roles.meta import revision_gone

__all__ = ["CountRows", "ExplainRows", "SearchIds", "SearchMeta", "SearchRows", "index_statements"]

_INFO = len(META_COLUMNS)
# Served by an index though nobody declares it: the newest first.
_INDEXED_META = ("created_time",)


def index_statements(tables: ModelTables) -> list[str]:
    """The `CREATE INDEX IF NOT EXISTS` statements of a model's declared fields."""
    fields: list[IndexedField | MetaField] = [*tables.model.indexed_fields]
    fields += [META_FIELDS[name] for name in _INDEXED_META]
    return [definition.sql for field in fields for definition in index_definitions(tables.meta_name, field, SQLITE)]


class SearchMeta:
    """The matching meta rows."""

    __slots__ = ("params", "sql")

    def __init__(self, tables: ModelTables, query: Query) -> None:
        compiled = compile_query(query, tables.fields, SQLITE)
        self.sql: str = self.select(tables, _matching(tables, compiled))
        self.params: list[Any] = compiled.params

    def select(self, tables: ModelTables, matching: str) -> str:
        """The statement, around the one that finds the rows in their order."""
        return matching

    def run(self, database: Database) -> Any:
        return self.rows(database)

    def rows(self, database: Database) -> list[ResourceMeta]:
        """The result, with its type."""
        return [decode_meta(row) for row in database.execute(self.sql, self.params)]


class SearchIds(SearchMeta):
    """The ids of the matching rows."""

    __slots__ = ()

    def select(self, tables: ModelTables, matching: str) -> str:
        return matching.replace(tables.columns, "resource_id", 1)

    def run(self, database: Database) -> list[str]:
        return [row[0] for row in database.execute(self.sql, self.params)]


class SearchRows(SearchMeta):
    """The matching rows with their current revisions."""

    __slots__ = ()

    def select(self, tables: ModelTables, matching: str) -> str:
        return f"SELECT {tables.meta_columns}, v.info {tables.from_matching(matching)}"

    def run(self, database: Database) -> list[tuple[ResourceMeta, RevisionInfo]]:
        results = []
        for row in database.execute(self.sql, self.params):
            meta = decode_meta(row)
            if row[_INFO] is None:
                raise revision_gone(meta)
            results.append((meta, decode_current(row[_INFO], meta)))
        return results


class CountRows:
    """The number of matching rows."""

    __slots__ = ("params", "sql")

    def __init__(self, tables: ModelTables, condition: Condition | None, include_deleted: bool) -> None:
        where, params = compile_count(condition, tables.fields, SQLITE, include_deleted=include_deleted)
        self.params: list[Any] = params
        self.sql: str = f"SELECT count(*) FROM {tables.meta} WHERE {where}"

    def run(self, database: Database) -> int:
        ((found,),) = database.execute(self.sql, self.params)
        return int(found)


class ExplainRows(SearchMeta):
    """SQLite's plan of a search, a step a line."""

    __slots__ = ()

    def select(self, tables: ModelTables, matching: str) -> str:
        return f"EXPLAIN QUERY PLAN {matching}"

    def run(self, database: Database) -> str:
        return "\n".join(row[3] for row in database.execute(self.sql, self.params))


def _matching(tables: ModelTables, compiled: Compiled) -> str:
    # A LIMIT, be it none, keeps the order when this is the inner statement of a join.
    page = compiled.page or "LIMIT -1"
    return f"SELECT {tables.columns} FROM {tables.meta} WHERE {compiled.where} ORDER BY {compiled.order_by} {page}"
