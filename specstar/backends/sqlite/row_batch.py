"""Rows of one model, new and changed, in one statement, which is a transaction by itself: SQLite does not need the interpreter
until it is durable.

Meanwhile the event loop prepares the next batch. With several statements a transaction, each would wait for the loop's turn to
end before it begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from specstar.backends.sqlite.advance_row import AdvanceRow
from specstar.backends.sqlite.database import Database
from specstar.backends.sqlite.tables import ModelTables
from specstar.backends.sqlite.writes import WriteRow

__all__ = ["RowBatch"]

# Few sizes: each is a statement that is prepared once and kept. What is left of one is filled with nothing, at a price.
_SIZES = (1, 2, 4, 8, 16, 24, 32, 40, 48, 64, 96, 128, 192, 256)

_ROWS = (WriteRow, AdvanceRow)


class RowBatch:
    """Operations of one model, by the values that each has for the statement. All of them are done, or none.

    The result has one entry for each: None.
    """

    __slots__ = ("_count", "_size", "_values", "tables")

    def __init__(self, tables: ModelTables, rows: Sequence[tuple[Any, ...]]) -> None:
        self.tables: ModelTables = tables
        self._count = count = len(rows)
        self._size = size = next(size for size in _SIZES if size >= count)
        values: list[Any] = []
        for row in rows:
            values += row
        values += [None] * ((size - count) * tables.row_width)
        self._values = values

    @classmethod
    def of(cls, operations: Sequence[Any]) -> RowBatch | None:
        """The operations, if all can go so. All that can be done before their turn is done here."""
        if len(operations) > _SIZES[-1]:
            return None
        tables: ModelTables | None = None
        rows: list[tuple[Any, ...]] = []
        for operation in operations:
            if not isinstance(operation, _ROWS):
                return None
            if tables is None:
                tables = operation.tables
            row = operation.values()
            if row is None or operation.tables is not tables:
                return None
            rows.append(row)
        return None if tables is None else cls(tables, rows)

    def run(self, database: Database) -> list[None]:
        """Do it, outside of any transaction. Whatever fails, nothing is written."""
        tables = self.tables
        if tables.suffix not in database.prepared:
            for statement in tables.prepare_rows:
                database.execute(statement)
            database.prepared.add(tables.suffix)
        database.execute(tables.write_rows(self._size), self._values)
        return [None] * self._count
