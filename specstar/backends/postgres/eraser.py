"""Erasing resources for good: callers who wait at the same time share one statement."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from specstar.backends.postgres.batching import MAX_IN_FLIGHT, MAX_WHEN_SLOW
from specstar.backends.postgres.lost_answers import settled
from specstar.backends.postgres.outcomes import AnswerLost, BadValue, WriteRace
from specstar.backends.postgres.rows import erased_revision_of
from specstar.errors import BackendUnavailable, OutcomeUnknownError, RevisionConflictError, SpecstarError, twin_of
from specstar.roles.records import RevisionInfo
from specstar.runtime import Batcher

if TYPE_CHECKING:
    from specstar.backends.postgres.connection import PostgresConnection, Row
    from specstar.backends.postgres.tables import ModelTables

__all__ = ["Eraser", "RevisionsUnseen"]

# Fewer than of writes: each may have thousands of revisions.
MAX_ROWS = 64
_ATTEMPTS = 4

_Erased: TypeAlias = list[RevisionInfo] | None


class RevisionsUnseen(Exception):
    """The resource is gone, but the answer that named its revisions was lost."""


class _Erasure(NamedTuple):
    resource_id: str
    expected_version: int | None


class Eraser:
    """Removes rows with all their revisions, of one model. `lists`: the answer names those revisions."""

    def __init__(self, tables: ModelTables, *, lists: bool) -> None:
        self._tables = tables
        self._sql = tables.meta_sql.erase_listing if lists else tables.meta_sql.erase
        self._lists = lists
        self._batcher: Batcher[_Erasure, _Erased] = Batcher(
            tables.home,
            self._flush,
            name=f"postgres erasures of {tables.model}",
            max_items=MAX_ROWS,
            max_in_flight=MAX_IN_FLIGHT,
            max_when_slow=MAX_WHEN_SLOW,
            key_of=attrgetter("resource_id"),
            writes=True,
        )

    async def erase(self, resource_id: str, expected_version: int | None) -> list[RevisionInfo] | None:
        """Remove a resource with the next batch; returns its revisions, as far as they are listed. None: there is none.

        Raises `RevisionConflictError` if `expected_version` is given and is not the stored one, and `RevisionsUnseen`.
        """
        return await self._batcher.submit(_Erasure(resource_id, expected_version))

    async def _flush(self, items: list[_Erasure]) -> list[_Erased | Exception]:
        connection = await self._tables.ready()
        results: dict[str, _Erased | Exception] = {}
        # In the order of their ids, as writers lock their rows: see there.
        await self._apply(connection, sorted(items, key=attrgetter("resource_id")), results)
        return [results[item.resource_id] for item in items]

    async def _apply(
        self, connection: PostgresConnection, items: list[_Erasure], results: dict[str, _Erased | Exception]
    ) -> None:
        await self._erase(connection, items, results, lock=None)
        # There is none of these, or it was changed just then. In one transaction with a lock the statement sees all of a row, for
        # three more round trips.
        missed = [item for item in items if item.resource_id not in results]
        if missed:
            await self._erase(connection, missed, results, lock=self._tables.meta_sql.lock)

    async def _erase(
        self,
        connection: PostgresConnection,
        items: list[_Erasure],
        results: dict[str, _Erased | Exception],
        *,
        lock: str | None,
    ) -> None:
        """Each gets its result; without `lock` not those that were missed, though no version of them was expected."""
        left = {item.resource_id: item.expected_version for item in items}
        try:
            rows = await self._attempts(connection, left, results, lock)
            await self._sort_out(connection, left, rows, results, locked=lock is not None)
        except BadValue as bad:
            if len(items) == 1:
                error = connection.translated(bad.__cause__ or bad, f"erasing from {self._tables.model}")
                results[items[0].resource_id] = error
                return
            middle = len(items) // 2
            await self._erase(connection, items[:middle], results, lock=lock)
            await self._erase(connection, items[middle:], results, lock=lock)
        except SpecstarError as error:
            for resource_id in left:
                if resource_id not in results:
                    results[resource_id] = twin_of(error)

    async def _attempts(
        self,
        connection: PostgresConnection,
        left: dict[str, int | None],
        results: dict[str, _Erased | Exception],
        lock: str | None,
    ) -> Sequence[Row]:
        """The rows that were removed. Takes out of `left` what is gone by an attempt whose answer was lost."""
        why, cause = "", None
        for _ in range(_ATTEMPTS):
            try:
                return await connection.attempt(self._sql, list(left), list(left.values()), lock=lock)
            except WriteRace as race:
                why, cause = f"{self._tables.model}: given up after {_ATTEMPTS} deadlocks", race.__cause__
            except AnswerLost as lost:
                why, cause = connection.silence(lost), lost.__cause__
                there = await self._still_there(connection, lost, list(left))
                for resource_id in left.keys() - there:
                    # Nobody can say by whose hand; what was asked for holds.
                    results[resource_id] = RevisionsUnseen() if self._lists else []
                    del left[resource_id]
                if not left:
                    return []
                if lost.timed_out:
                    break
        raise BackendUnavailable(f"{why}; nothing was erased; retry later", backend="postgres") from cause

    async def _still_there(self, connection: PostgresConnection, lost: AnswerLost, ids: list[str]) -> set[str]:
        try:
            rows = await settled(connection, lost, self._tables.meta_sql.state, ids)
        except SpecstarError as error:
            raise OutcomeUnknownError(
                f"{connection.where} was lost while erasing from {self._tables.model}: each resource is there whole or not "
                "at all",
                backend="postgres",
            ) from error
        return {row[0] for row in rows}

    async def _sort_out(
        self,
        connection: PostgresConnection,
        left: dict[str, int | None],
        rows: Sequence[Row],
        results: dict[str, _Erased | Exception],
        *,
        locked: bool,
    ) -> None:
        """Give each its answer: the revisions of those that were removed, and why the others were not."""
        removed: dict[str, list[RevisionInfo]] = {}
        for row in rows:
            revisions = removed.setdefault(row[0], [])
            if self._lists and row[1] is not None:
                revisions.append(erased_revision_of(row[0], row, 2))
        results.update(removed)
        missed = [resource_id for resource_id in left if resource_id not in removed]
        held = [resource_id for resource_id in missed if left[resource_id] is not None]
        current = {row[0]: row[1] for row in await connection.fetch(self._tables.meta_sql.state, held)} if held else {}
        for resource_id in missed if locked else held:
            results[resource_id] = (
                RevisionConflictError(resource_id, actual_revision_id=current[resource_id], model=self._tables.model)
                if resource_id in current
                else None
            )
