"""New resources in one statement, which is a transaction by itself: SQLite does not need the interpreter until it is durable.

Meanwhile the event loop prepares the next batch. With several statements a transaction, each would wait for the loop's turn to
end before it begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from specstar.backends.sqlite.database import Database
from specstar.backends.sqlite.tables import ModelTables
from specstar.backends.sqlite.writes import new_row_in

__all__ = ["NewRows"]

# Few sizes: each is a statement that is prepared once and kept. What is left of one is filled with nothing, at a price.
_SIZES = (1, 2, 4, 8, 16, 24, 32, 40, 48, 64, 96, 128, 192, 256)


class NewRows:
    """New rows of one model with their revisions. The result has one entry for each: None."""

    __slots__ = ("_count", "_size", "_values", "tables")

    def __init__(self, tables: ModelTables, operations: Sequence[Any]) -> None:
        self.tables = tables
        self._count = count = len(operations)
        self._size = size = next(size for size in _SIZES if size >= count)
        values: list[Any] = []
        for operation in operations:
            values += operation.row
            values += operation.revision[1:]
        values += [None] * ((size - count) * tables.new_width)
        self._values = values

    @classmethod
    def of(cls, operations: Sequence[Any]) -> NewRows | None:
        """The operations, if they are nothing else. All that can be done before their turn is done here."""
        tables = new_row_in(operations[0])
        if tables is None or len(operations) > _SIZES[-1]:
            return None
        if any(new_row_in(operation) is not tables for operation in operations):
            return None
        return cls(tables, operations)

    def run(self, database: Database) -> list[None]:
        """Do it, outside of any transaction. Whatever fails, nothing is written."""
        tables = self.tables
        if tables.suffix not in database.prepared:
            for statement in tables.prepare_new:
                database.execute(statement)
            database.prepared.add(tables.suffix)
        database.execute(tables.insert_new(self._size), self._values)
        return [None] * self._count
