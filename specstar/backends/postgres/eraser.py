"""Erasing a resource for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specstar.backends.postgres.lost_answers import settled
from specstar.backends.postgres.outcomes import AnswerLost, BadValue, WriteRace
from specstar.backends.postgres.rows import revision_of
from specstar.errors import BackendUnavailable, OutcomeUnknownError, RevisionConflictError, SpecstarError
from specstar.roles.records import RevisionInfo

if TYPE_CHECKING:
    from specstar.backends.postgres.tables import ModelTables

__all__ = ["RevisionsUnseen", "erase"]

_ATTEMPTS = 4


class RevisionsUnseen(Exception):
    """The resource is gone, but the answer that named its revisions was lost."""


async def erase(tables: ModelTables, resource_id: str, expected_version: int | None) -> list[RevisionInfo] | None:
    """Remove the row and all its revisions; returns those, or None if there was no such resource.

    Raises `RevisionConflictError` if `expected_version` is given and is not the stored one, and `RevisionsUnseen`.
    """
    connection = await tables.ready()
    sql = tables.meta_sql
    rows = None
    for _ in range(_ATTEMPTS):
        try:
            async with connection.pool.alone():
                # A statement does not see the revision of a writer that it has waited for: the next one does.
                rows = await connection.attempt(sql.erase, resource_id, expected_version, lock=sql.lock)
            break
        except WriteRace:
            continue
        except BadValue as bad:
            raise connection.translated(bad.__cause__ or bad, f"erasing from {tables.model}") from bad
        except AnswerLost as lost:
            try:
                there = await settled(connection, lost, sql.state, [resource_id])
            except SpecstarError as error:
                raise OutcomeUnknownError(
                    f"{connection.where} was lost while erasing {resource_id!r}: it is there whole or not at all",
                    backend="postgres",
                ) from error
            if not there:
                # Nobody can say by whose hand; what was asked for holds.
                raise RevisionsUnseen from lost
            if lost.timed_out:
                break
    if rows is None:
        raise BackendUnavailable(
            f"{connection.where} did not answer; nothing was erased; retry later", backend="postgres"
        )
    if rows:
        return [revision_of(resource_id, row, 2) for row in rows if row[1] is not None]
    state = await connection.fetch(sql.state, [resource_id])
    if state and expected_version is not None:
        raise RevisionConflictError(resource_id, actual_revision_id=state[0][1], model=tables.model)
    return None
