"""Searches for one value of one indexed field: those of one shape that wait together travel in one statement.

Only these: for them every operand has the same best plan, the range of one index, and none can be slow for its neighbours.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from specstar.backends.postgres.batching import MAX_IN_FLIGHT, MAX_ROWS
from specstar.backends.postgres.reader import largest_payload
from specstar.query import POSTGRES, Compare, Compiled, Fields, IndexedField, PostgresBatch, Query, compile_query
from specstar.query.ordering import kind_of
from specstar.runtime import Batcher

if TYPE_CHECKING:
    from specstar.backends.postgres.connection import Row
    from specstar.backends.postgres.tables import ModelTables

__all__ = ["PointSearches"]

_MAX_LIMIT = 100
_MAX_SHAPES = 64


class PointSearches:
    """Runs the searches of one model that `takes` says yes to."""

    def __init__(self, tables: ModelTables, fields: Fields) -> None:
        self._tables = tables
        self._fields = fields
        # By what the statements of two searches have in common: condition and limit. The least used one goes; whoever
        # waits there is served all the same.
        self._shapes: OrderedDict[tuple[str, int], _Shape] = OrderedDict()

    def takes(self, query: Query) -> bool:
        """True for a short first page, in the order of ids, of resources with one value in an indexed field."""
        node = query.condition
        if type(node) is not Compare or node.op != "eq" or node.value is None or node.meta:
            return False
        if query.sort or query.offset or query.after is not None or query.include_deleted:
            return False
        if query.limit is None or not 0 < query.limit <= _MAX_LIMIT:
            return False
        field = self._fields.resolve(node.field, meta=False)
        if not isinstance(field, IndexedField) or not field.index or kind_of(node.value) not in field.kinds:
            return False
        return self._tables.indexed.is_set()

    async def rows(self, query: Query) -> list[Row]:
        """The rows of `SearchSql.search_full` that the query finds."""
        compiled = compile_query(query, self._fields, POSTGRES, alias="m", first_param=2)
        key = compiled.where, query.limit or 0
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = _Shape(self._tables, self._fields, query, compiled)
            if len(self._shapes) > _MAX_SHAPES:
                self._shapes.popitem(last=False)
        else:
            self._shapes.move_to_end(key)
        return await shape.rows(compiled.params)


class _Shape:
    """The searches that differ in their operands alone."""

    def __init__(self, tables: ModelTables, fields: Fields, query: Query, compiled: Compiled) -> None:
        sql = tables.search_sql
        dialect = PostgresBatch()
        self._tables = tables
        self._limit = query.limit or 0
        self._one_sql = sql.search_full(compiled)
        self._many_sql = sql.search_full_each(compile_query(query, fields, dialect, alias="m"), dialect.types)
        self._alone = False
        self._batcher: Batcher[Sequence[Any], list[Row]] = Batcher(
            tables.home,
            self._flush,
            name=f"postgres searches of {tables.model}",
            max_items=max(1, MAX_ROWS // self._limit),
            max_in_flight=MAX_IN_FLIGHT,
        )

    async def rows(self, operands: Sequence[Any]) -> list[Row]:
        """The rows for these operands."""
        if self._alone or self._batcher.busy:
            return await self._batcher.submit(operands)
        # A batch of one is a task and two turns of the loop more.
        self._alone = True
        try:
            return await self._one(operands)
        finally:
            self._alone = False

    async def _one(self, operands: Sequence[Any]) -> list[Row]:
        connection = await self._tables.ready()
        most = largest_payload(self._tables.batch_bytes, self._limit)
        return await connection.fetch_alone(self._one_sql, most, *operands, doing="searching")

    async def _flush(self, batch: list[Sequence[Any]]) -> list[list[Row] | Exception]:
        if len(batch) == 1:
            return [await self._one(batch[0])]
        connection = await self._tables.ready()
        most = largest_payload(self._tables.batch_bytes, self._limit * len(batch))
        columns = [list(column) for column in zip(*batch, strict=True)]
        found: list[list[Row] | Exception] = [[] for _ in batch]
        for row in await connection.fetch(self._many_sql, most, *columns, doing="searching"):
            cast("list[Row]", found[row[0] - 1]).append(row[1:])
        return found
