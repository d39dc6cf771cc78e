"""Batched conditional writes: each caller gets its own outcome, and a lost answer is found out instead of repeated."""

from __future__ import annotations

import asyncio
import copy
import logging
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from specstar.backends.postgres.lost_answers import Outcome, find_out
from specstar.backends.postgres.outcomes import AnswerLost, BadValue, WriteRace
from specstar.backends.postgres.rows import columns_of, encode_indexed
from specstar.errors import (
    BackendUnavailable,
    DuplicateResourceError,
    ResourceNotFoundError,
    RevisionConflictError,
    SpecstarError,
)
from specstar.roles.storage import StorageWrite
from specstar.runtime import Batcher

if TYPE_CHECKING:
    from specstar.backends.postgres.connection import PostgresConnection
    from specstar.backends.postgres.tables import ModelTables

__all__ = ["MetaWriter"]

logger = logging.getLogger("specstar")

MAX_ROWS = 256
MAX_IN_FLIGHT = 2
_ROW_BYTES = 512
_RACES = 6
_LOSSES = 3


class _Change(NamedTuple):
    write: StorageWrite
    indexed: str


class _Entry(NamedTuple):
    position: int
    change: _Change


def _resource_id(change: _Change) -> str:
    return change.write.change.meta.resource_id


def _size(change: _Change) -> int:
    payload = change.write.payload
    return _ROW_BYTES + len(change.indexed) + (len(payload) if payload is not None else 0)


class MetaWriter:
    """Writes rows, revisions and (where they are kept here) payloads of one model."""

    def __init__(self, tables: ModelTables) -> None:
        self._tables = tables
        self._sql = tables.meta_sql
        self._batcher: Batcher[_Change, None] = Batcher(
            tables.home,
            self._flush,
            name=f"postgres writes of {tables.model}",
            max_items=MAX_ROWS,
            max_bytes=tables.batch_bytes,
            max_in_flight=MAX_IN_FLIGHT,
            size_of=_size,
            key_of=_resource_id,
            writes=True,
        )

    async def write(self, item: StorageWrite) -> None:
        """Apply one change with the next batch."""
        meta = item.change.meta
        await self._batcher.submit(_Change(item, encode_indexed(meta.indexed_data, meta.resource_id)))

    async def write_many(self, items: Sequence[StorageWrite]) -> list[Exception | None]:
        """Apply many changes, in batches of their own."""
        results: list[Exception | None] = [None] * len(items)
        entries: list[_Entry] = []
        for position, item in enumerate(items):
            meta = item.change.meta
            try:
                entries.append(_Entry(position, _Change(item, encode_indexed(meta.indexed_data, meta.resource_id))))
            except SpecstarError as error:
                results[position] = error
        for batch in _batches(entries, self._tables.batch_bytes):
            try:
                connection = await self._tables.ready()
                async with connection.pool.alone():
                    outcomes = await self._flush([entry.change for entry in batch])
            except SpecstarError as error:
                outcomes = [_twin(error) for _ in batch]
            for entry, outcome in zip(batch, outcomes, strict=True):
                results[entry.position] = outcome
        return results

    async def _flush(self, changes: list[_Change]) -> list[Exception | None]:
        connection = await self._tables.ready()
        results: list[Exception | None] = [None] * len(changes)
        # Rows are locked in the order of their ids, so that writers of the same rows queue up instead of deadlocking.
        entries = sorted((_Entry(*pair) for pair in enumerate(changes)), key=lambda entry: _resource_id(entry.change))
        creates = [entry for entry in entries if entry.change.write.change.expected_version is None]
        updates = [entry for entry in entries if entry.change.write.change.expected_version is not None]
        for group, update in ((creates, False), (updates, True)):
            if group:
                await self._apply(connection, group, results, update=update)
        return results

    async def _apply(
        self, connection: PostgresConnection, entries: list[_Entry], results: list[Exception | None], *, update: bool
    ) -> None:
        left = list(entries)
        try:
            await self._attempts(connection, left, results, update=update)
        except SpecstarError as error:
            # Those that are written by now stay acknowledged.
            for entry in left:
                if results[entry.position] is None:
                    results[entry.position] = _twin(error)

    async def _attempts(
        self, connection: PostgresConnection, entries: list[_Entry], results: list[Exception | None], *, update: bool
    ) -> None:
        """Takes out of `entries` what is written or has its own error: what it raises is for those that are left."""
        sql = self._sql.update if update else self._sql.create
        races = losses = 0
        while True:
            try:
                rows = await connection.attempt(sql, *columns_of([entry.change for entry in entries], update=update))
            except WriteRace as race:
                races += 1
                if races > _RACES:
                    message = f"{self._tables.model}: given up after {_RACES} deadlocks; nothing was written"
                    raise BackendUnavailable(message, backend="postgres") from (race.__cause__ or race)
                await asyncio.sleep(random.uniform(0.2, 1.0) * 0.01 * 2**races)
            except BadValue as bad:
                await self._isolate(connection, entries, results, bad, update=update)
                return
            except AnswerLost as lost:
                logger.warning("postgres: the answer to a write of %d rows was lost; finding out", len(entries))
                losses += 1
                pending = await find_out(connection, self._sql, lost, [entry.change.write.change for entry in entries])
                for entry, outcome in zip(entries, pending, strict=True):
                    if isinstance(outcome, Exception):
                        results[entry.position] = outcome
                entries[:] = _absent(entries, pending)
                if not entries:
                    return
                if lost.timed_out or losses >= _LOSSES:
                    message = f"{connection.where} did not answer; nothing was written; retry later"
                    raise BackendUnavailable(message, backend="postgres") from lost.__cause__
            else:
                written = {row[0] for row in rows}
                entries[:] = [entry for entry in entries if _resource_id(entry.change) not in written]
                if entries:
                    await self._explain(connection, entries, results, after_loss=losses > 0, update=update)
                return

    async def _isolate(
        self,
        connection: PostgresConnection,
        entries: list[_Entry],
        results: list[Exception | None],
        bad: BadValue,
        *,
        update: bool,
    ) -> None:
        """Halve the batch until the change that was refused stands alone."""
        if len(entries) == 1:
            results[entries[0].position] = connection.translated(bad.__cause__ or bad, f"writing {self._tables.model}")
            return
        middle = len(entries) // 2
        await self._apply(connection, entries[:middle], results, update=update)
        await self._apply(connection, entries[middle:], results, update=update)

    async def _explain(
        self,
        connection: PostgresConnection,
        missed: list[_Entry],
        results: list[Exception | None],
        *,
        after_loss: bool,
        update: bool,
    ) -> None:
        """Say why the condition of a write did not hold. Takes out of `missed` what was written after all."""
        if after_loss:
            # The first attempt may have arrived after all, behind our back: then it is what the second one met.
            outcomes = await find_out(connection, self._sql, None, [entry.change.write.change for entry in missed])
            for entry, outcome in zip(missed, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    results[entry.position] = outcome
            missed[:] = _absent(missed, outcomes)
        model = self._tables.model
        ids = [_resource_id(entry.change) for entry in missed]
        if not update:
            for entry, resource_id in zip(missed, ids, strict=True):
                results[entry.position] = DuplicateResourceError(resource_id, model=model)
            return
        found = {row[0]: row[1] for row in await connection.fetch(self._sql.state, ids)}
        for entry, resource_id in zip(missed, ids, strict=True):
            if resource_id in found:
                actual = found[resource_id]
                results[entry.position] = RevisionConflictError(resource_id, actual_revision_id=actual, model=model)
            else:
                results[entry.position] = ResourceNotFoundError(resource_id, model=model)


def _absent(entries: list[_Entry], outcomes: list[Outcome]) -> list[_Entry]:
    return [entry for entry, outcome in zip(entries, outcomes, strict=True) if outcome == "absent"]


def _batches(entries: list[_Entry], max_bytes: int) -> Iterator[list[_Entry]]:
    """Cut into batches of bounded rows and bytes, in which no resource comes twice."""
    batch: list[_Entry] = []
    ids: set[str] = set()
    size = 0
    for entry in entries:
        resource_id, more = _resource_id(entry.change), _size(entry.change)
        if batch and (len(batch) >= MAX_ROWS or size + more > max_bytes or resource_id in ids):
            yield batch
            batch, ids, size = [], set(), 0
        batch.append(entry)
        ids.add(resource_id)
        size += more
    if batch:
        yield batch


def _twin(error: SpecstarError) -> SpecstarError:
    """An error of its own for each caller."""
    twin = copy.copy(error)
    twin.__cause__ = error.__cause__
    return twin
