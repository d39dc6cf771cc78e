"""Searches in memory: batched, each batch one thread job that first brings the index up to date."""

from __future__ import annotations

from typing import Any

import anyio

from specstar.backends.memory.model import MemoryModel, SearchIndex
from specstar.backends.sqlite.database import Database, Operation
from specstar.backends.sqlite.search import CountRows, ExplainRows, SearchIds
from specstar.backends.sqlite.tables import ModelTables
from specstar.query import Condition, Query
from specstar.runtime import Batcher, Home, run_in_thread

__all__ = ["MemorySearch"]


class _FindRows:
    """The matching rows, as they were when the index was updated."""

    __slots__ = ("_find", "_index")

    def __init__(self, find: SearchIds) -> None:
        self._find = find
        self._index: SearchIndex | None = None

    def on(self, index: SearchIndex) -> None:
        """Name the index that the search will run on."""
        self._index = index

    def run(self, database: Database) -> list[Any]:
        assert self._index is not None
        rows = self._index.rows
        return [rows[resource_id] for resource_id in self._find.run(database)]


class MemorySearch:
    """The searches of one model on one home."""

    def __init__(self, home: Home, model: MemoryModel) -> None:
        self._model = model
        self._tables = ModelTables(model.spec)
        self._limit = anyio.CapacityLimiter(1)
        self._batcher: Batcher[Operation, Any] = Batcher(home, self._flush, name="memory searches", max_in_flight=1)

    async def rows(self, query: Query) -> list[Any]:
        """The matching rows (`StoredRevision`). Raises `QueryError`."""
        return await self._batcher.submit(_FindRows(SearchIds(self._tables, query)))  # type: ignore[no-any-return]

    async def count(self, condition: Condition | None, include_deleted: bool) -> int:
        """The number of matching rows. Raises `QueryError`."""
        found: int = await self._batcher.submit(CountRows(self._tables, condition, include_deleted))
        return found

    async def explain(self, query: Query) -> str:
        """SQLite's plan."""
        plan: str = await self._batcher.submit(ExplainRows(self._tables, query))
        return plan

    async def _flush(self, operations: list[Operation]) -> list[Any]:
        job = self._model.begin_job(operations)
        for operation in operations:
            if isinstance(operation, _FindRows):
                operation.on(job.index)
        try:
            return await run_in_thread(job.run, limiter=self._limit)
        except BaseException:
            # It may have stopped half way: the dictionaries are the truth, so start over from them.
            if self._model.index is job.index:
                self._model.drop_index()
            raise
