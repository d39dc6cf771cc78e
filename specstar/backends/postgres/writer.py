"""Batched conditional writes: each caller gets its own outcome, and a lost answer is found out instead of repeated."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

from specstar.backends.postgres.batching import MANY_AT_ONCE, MAX_IN_FLIGHT, MAX_ROWS, MAX_WHEN_SLOW
from specstar.backends.postgres.lost_answers import Applied, find_out
from specstar.backends.postgres.outcomes import AnswerLost, BadValue, WriteRace
from specstar.backends.postgres.writes import Kind, Write, change_of, kind_of, narrowed, size_of, write_of
from specstar.errors import BackendUnavailable, SpecstarError, twin_of
from specstar.roles.records import RevisionInfo
from specstar.roles.storage import Advance, StorageWrite
from specstar.runtime import Batcher, for_each

if TYPE_CHECKING:
    from specstar.backends.postgres.connection import PostgresConnection
    from specstar.backends.postgres.tables import ModelTables

__all__ = ["MetaWriter"]

logger: logging.Logger = logging.getLogger("specstar")

_RACES = 6
_TURNS = 10
_LOSSES = 3

_Result: TypeAlias = RevisionInfo | Exception | None


class _Entry(NamedTuple):
    position: int
    write: Write


class MetaWriter:
    """Writes rows, revisions and (where they are kept here) payloads of one model."""

    def __init__(self, tables: ModelTables) -> None:
        self._tables = tables
        self._sql = tables.meta_sql
        self._batcher: Batcher[Write, RevisionInfo | None] = Batcher(
            tables.home,
            self._flush,
            name=f"postgres writes of {tables.model}",
            max_items=MAX_ROWS,
            max_bytes=tables.batch_bytes,
            max_in_flight=MAX_IN_FLIGHT,
            max_when_slow=MAX_WHEN_SLOW,
            size_of=size_of,
            key_of=attrgetter("resource_id"),
            writes=True,
        )

    async def write(self, item: StorageWrite) -> None:
        """Apply one change with the next batch."""
        await self._batcher.submit(write_of(item))

    async def advance(self, item: Advance) -> RevisionInfo:
        """Write the next revision of a resource with the next batch; see `AdvancingStorage.advance`."""
        return cast("RevisionInfo", await self._batcher.submit(write_of(item)))

    async def write_many(self, items: Sequence[StorageWrite]) -> list[Exception | None]:
        """Apply many changes, in batches of their own."""
        results: list[Exception | None] = [None] * len(items)
        entries: list[_Entry] = []
        for position, item in enumerate(items):
            try:
                entries.append(_Entry(position, write_of(item)))
            except SpecstarError as error:
                results[position] = error

        async def apply(batch: list[_Entry]) -> None:
            outcomes: Sequence[_Result]
            try:
                connection = await self._tables.ready()
                async with connection.pool.alone():
                    outcomes = await self._flush([entry.write for entry in batch])
            except SpecstarError as error:
                outcomes = [twin_of(error) for _ in batch]
            for entry, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    results[entry.position] = outcome

        # Side by side, or a slow network would have each wait for the answer to the one before; changes of one resource in order.
        distinct = len({entry.write.resource_id for entry in entries}) == len(entries)
        batches = list(_batches(entries, self._tables.batch_bytes))
        connection = self._tables.connected
        at_once = connection.pool.at_once(len(batches), MANY_AT_ONCE) if distinct and connection is not None else 1
        await for_each(batches, apply, at_once=at_once)
        return results

    async def _flush(self, writes: list[Write]) -> list[_Result]:
        connection = await self._tables.ready()
        results: list[_Result] = [None] * len(writes)
        # Rows are locked in the order of their ids, so that writers of the same rows queue up instead of deadlocking.
        entries = sorted((_Entry(*pair) for pair in enumerate(writes)), key=lambda entry: entry.write.resource_id)
        groups: dict[Kind, list[_Entry]] = {}
        for entry in entries:
            groups.setdefault(kind_of(entry.write), []).append(entry)
        for kind, group in groups.items():
            narrow = narrowed(kind, [entry.write for entry in group])
            await self._apply(connection, narrow, group, results)
        return results

    async def _apply(
        self, connection: PostgresConnection, kind: Kind, entries: list[_Entry], results: list[_Result]
    ) -> None:
        left = list(entries)
        try:
            await self._attempts(connection, kind, left, results)
        except SpecstarError as error:
            # Those that are written by now stay acknowledged.
            for entry in left:
                if results[entry.position] is None:
                    results[entry.position] = twin_of(error)

    async def _attempts(
        self, connection: PostgresConnection, kind: Kind, entries: list[_Entry], results: list[_Result]
    ) -> None:
        """Takes out of `entries` what is written or has its own error: what it raises is for those that are left."""
        sql = kind.sql(self._sql)
        races = losses = turns = 0
        while True:
            try:
                rows = await connection.attempt(sql, *kind.columns([entry.write for entry in entries]))
            except WriteRace as race:
                races += 1
                if races > _RACES:
                    message = f"{self._tables.model}: given up after {_RACES} deadlocks; nothing was written"
                    raise BackendUnavailable(message, backend="postgres") from (race.__cause__ or race)
                await asyncio.sleep(random.uniform(0.2, 1.0) * 0.01 * 2**races)
            except BadValue as bad:
                await self._isolate(connection, kind, entries, results, bad)
                return
            except AnswerLost as lost:
                logger.warning("postgres: the answer to a write of %d rows was lost; finding out", len(entries))
                losses += 1
                await self._find_out(connection, kind, lost, entries, results)
                if not entries:
                    return
                if lost.timed_out or losses >= _LOSSES:
                    silence = connection.silence(lost, sum(size_of(entry.write) for entry in entries))
                    message = f"{silence}; nothing was written; retry later"
                    raise BackendUnavailable(message, backend="postgres") from lost.__cause__
            else:
                made = {row[0]: row for row in rows}
                self._tables.growth.add(len(made), connection)
                if kind.result is not None:
                    for entry in entries:
                        if (row := made.get(entry.write.resource_id)) is not None:
                            results[entry.position] = kind.result(entry.write, row[1])
                entries[:] = [entry for entry in entries if entry.write.resource_id not in made]
                if entries:
                    await self._explain(connection, kind, entries, results, after_loss=losses > 0)
                if not entries:
                    return
                turns += 1
                if turns > _TURNS:
                    message = (
                        f"{self._tables.model}: changed to and fro faster than written; nothing was written; retry"
                    )
                    raise BackendUnavailable(message, backend="postgres")

    async def _find_out(
        self,
        connection: PostgresConnection,
        kind: Kind,
        lost: AnswerLost | None,
        entries: list[_Entry],
        results: list[_Result],
    ) -> None:
        """After a lost answer: takes out of `entries` all but those that were not written."""
        outcomes = await find_out(connection, self._sql, lost, [change_of(entry.write) for entry in entries])
        absent: list[_Entry] = []
        for entry, outcome in zip(entries, outcomes, strict=True):
            if outcome == "absent":
                absent.append(entry)
            elif not isinstance(outcome, Applied):
                results[entry.position] = outcome
            elif kind.result is not None:
                results[entry.position] = kind.result(entry.write, outcome.time)
        entries[:] = absent

    async def _isolate(
        self,
        connection: PostgresConnection,
        kind: Kind,
        entries: list[_Entry],
        results: list[_Result],
        bad: BadValue,
    ) -> None:
        """Halve the batch until the change that was refused stands alone."""
        if len(entries) == 1:
            results[entries[0].position] = connection.translated(bad.__cause__ or bad, f"writing {self._tables.model}")
            return
        middle = len(entries) // 2
        await self._apply(connection, kind, entries[:middle], results)
        await self._apply(connection, kind, entries[middle:], results)

    async def _explain(
        self,
        connection: PostgresConnection,
        kind: Kind,
        missed: list[_Entry],
        results: list[_Result],
        *,
        after_loss: bool,
    ) -> None:
        """Say why the condition of a write did not hold. Leaves in `missed` what is to be tried again."""
        if after_loss:
            # The first attempt may have arrived after all, behind our back: then it is what the second one met.
            await self._find_out(connection, kind, None, missed, results)
        ids = [entry.write.resource_id for entry in missed]
        rows = await connection.fetch(self._sql.state, ids) if kind.looks else []
        found = {row[0]: row for row in rows}
        again: list[_Entry] = []
        for entry in missed:
            refusal = kind.refusal(entry.write, found.get(entry.write.resource_id), self._tables.model)
            if refusal is None:
                again.append(entry)
            else:
                results[entry.position] = refusal
        missed[:] = again


def _batches(entries: list[_Entry], max_bytes: int) -> Iterator[list[_Entry]]:
    """Cut into batches of bounded rows and bytes, in which no resource comes twice."""
    batch: list[_Entry] = []
    ids: set[str] = set()
    size = 0
    for entry in entries:
        resource_id, more = entry.write.resource_id, size_of(entry.write)
        if batch and (len(batch) >= MAX_ROWS or size + more > max_bytes or resource_id in ids):
            yield batch
            batch, ids, size = [], set(), 0
        batch.append(entry)
        ids.add(resource_id)
        size += more
    if batch:
        yield batch
