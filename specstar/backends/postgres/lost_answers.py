"""What became of a write whose answer was lost: end the server process that may still work on it, then read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from specstar.errors import BackendUnavailable, OutcomeUnknownError, SpecstarError
from specstar.roles.meta import MetaWrite
from specstar.roles.storage import Advance

if TYPE_CHECKING:
    from specstar.backends.postgres.connection import PostgresConnection, Row
    from specstar.backends.postgres.outcomes import AnswerLost, ServerSession
    from specstar.backends.postgres.statements import MetaSql

__all__ = ["Applied", "Outcome", "find_out", "settled"]

logger: logging.Logger = logging.getLogger("specstar")

# The start time tells our process from a stranger's that got its number later.
_END_PROCESS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2"
_FIND_PROCESS = "SELECT pid FROM pg_stat_activity WHERE pid = $1"
# A commit without a change waits for nobody. This one waits for the synchronous standbys, and so for the commits before it,
# which were taken for made when that wait was cut short: https://www.postgresql.org/docs/current/warm-standby.html
_WRITE_NOTHING = "SELECT pg_logical_emit_message(true, 'specstar', 'looking')"
_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 1.0


class Applied(NamedTuple):
    """The write is there. `time` is that of its revision as stored, where it wrote one."""

    time: datetime | None


Outcome: TypeAlias = Applied | Literal["absent"] | OutcomeUnknownError


async def find_out(
    connection: PostgresConnection, sql: MetaSql, lost: AnswerLost | None, changes: Sequence[MetaWrite | Advance]
) -> list[Outcome]:
    """One outcome a change: it is there, it is not and never will be, or nobody can say. Waits like `settled`."""
    ids = [_resource_id(change) for change in changes]
    revisions = [change.revision.revision_id if change.revision else None for change in changes]
    try:
        rows = await settled(connection, lost, sql.outcome, ids, revisions)
    except SpecstarError:
        return [_unknown(connection, change) for change in changes]
    return [_judge(changes[row[0] - 1], row) for row in sorted(rows, key=lambda row: row[0])]


async def settled(connection: PostgresConnection, lost: AnswerLost | None, sql: str, *args: Any) -> list[Row]:
    """What a statement reads when the server process of a lost write is gone, and what it committed is as durable as ever.

    Waits at most `acquire_timeout_seconds`, trying again while the server restarts, and not at all when closing. Raises a
    `SpecstarError` if that was not enough.
    """
    loop = asyncio.get_running_loop()
    limit = connection.options.acquire_timeout_seconds
    deadline = loop.time() + limit
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                if lost is not None:
                    await _fence(connection, lost.session)
                return await _on_primary(connection, (_WRITE_NOTHING,), (sql, *args))
        except (SpecstarError, TimeoutError) as error:
            hopeless = connection.closing or not isinstance(error, (BackendUnavailable, TimeoutError))
            if hopeless or loop.time() + pause >= deadline:
                if isinstance(error, SpecstarError):
                    raise
                message = f"{connection.where} did not settle a lost write within {limit:g} s"
                raise BackendUnavailable(message, backend="postgres") from error
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


async def _fence(connection: PostgresConnection, session: ServerSession) -> None:
    """Make sure that the server process of a lost connection is gone: what it did not commit, it never will.

    A role that may not end it waits for its end. Behind PgBouncer it cannot be known which process that is; there only the
    condition of the write protects.
    """
    if session.pid is None:
        return
    statement = (_FIND_PROCESS, session.pid) if session.started is None else (_END_PROCESS, *session)
    pause = _FIRST_PAUSE_SECONDS
    while await _on_primary(connection, statement):
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


async def _on_primary(connection: PostgresConnection, *statements: Sequence[Any]) -> list[Row]:
    """Run statements with their arguments in one transaction, of a server that takes writes; the rows of the last one."""
    rows: list[Row] = []
    async with connection.transaction() as session:
        if await session.fetchval("SELECT pg_is_in_recovery()"):
            # A standby knows neither the processes of the primary nor its last commits.
            connection.leave(session)
            raise BackendUnavailable(f"{connection.where} is a standby at the moment", backend="postgres")
        for sql, *args in statements:
            rows = list(await session.fetch(sql, *args))
    return rows


def _resource_id(change: MetaWrite | Advance) -> str:
    return change.revision.resource_id if isinstance(change, Advance) else change.meta.resource_id


def _judge(change: MetaWrite | Advance, row: Row) -> Outcome:
    _, version, updated_time, current_revision_id, payload_id, revision_time, status = row
    if isinstance(change, Advance):
        # Its revision's id is new: if it is there at all, it came with this write.
        return "absent" if payload_id is None else Applied(revision_time)
    meta, revision = change.meta, change.revision
    if (
        revision is not None
        and payload_id == revision.payload_id
        and revision_time == revision.updated_time
        and status == revision.status.value
    ):
        return Applied(revision_time)
    if version is None or version == change.expected_version:
        return "absent"
    if (version, updated_time, current_revision_id) == (meta.version, meta.updated_time, meta.current_revision_id):
        return Applied(revision_time)
    if change.expected_version is None:
        # The revision id of a create is new: if it is there at all, it came with this create.
        return Applied(revision_time) if payload_id is not None else "absent"
    if revision is not None and payload_id is None:
        return "absent"
    return OutcomeUnknownError(
        f"{meta.resource_id!r} was changed again before the fate of this write could be read; read it before repeating",
        backend="postgres",
    )


def _unknown(connection: PostgresConnection, change: MetaWrite | Advance) -> OutcomeUnknownError:
    limit = connection.options.acquire_timeout_seconds
    return OutcomeUnknownError(
        f"{connection.where} was lost during a write of {_resource_id(change)!r} and did not come back within {limit:g} s: "
        "it was made whole or not at all; read it before repeating",
        backend="postgres",
    )
