"""Indexes of declared fields: made with the tables, and built beside running writers where there are rows already."""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from specstar.backends.postgres.names import TableNames
from specstar.errors import BackendUnavailable, SpecstarError
from specstar.query import META_FIELDS, POSTGRES, IndexDefinition, IndexedField, index_definitions, quote_identifier

if TYPE_CHECKING:
    from specstar.backends.postgres.connection import PostgresConnection
    from specstar.backends.postgres.session import Session

__all__ = [
    "build",
    "dropped",
    "field_indexes",
    "missing",
    "old_payload_index",
    "payload_index",
    "revision_count_index",
]

logger: logging.Logger = logging.getLogger("specstar")

_POLL_SECONDS = 2.0
_LONGEST_POLL_SECONDS = 15.0
_FAILURES = 20
_BUILD_SECONDS = 86_400
_LOCK_CLASS = 1936745828
_PRESENT = (
    "SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
    "WHERE i.indrelid = ANY(ARRAY[to_regclass($1), to_regclass($2)]::oid[])"
)
_BUILDING = (
    "SELECT EXISTS (SELECT FROM pg_stat_progress_create_index "
    "WHERE relid = ANY(ARRAY[to_regclass($1), to_regclass($2)]::oid[]))"
)


def field_indexes(names: TableNames, fields: Sequence[IndexedField]) -> list[IndexDefinition]:
    """The indexes that searches on these fields use."""
    schema = names.schema or None
    return [
        definition
        for field in fields
        for definition in index_definitions(names.base + "_meta", field, POSTGRES, schema=schema)
    ]


def revision_count_index(names: TableNames) -> IndexDefinition:
    """The index by which resources that have more than their first revision are found."""
    (definition,) = index_definitions(
        names.base + "_meta", META_FIELDS["revision_count"], POSTGRES, schema=names.schema or None
    )
    return definition


def payload_index(names: TableNames) -> IndexDefinition:
    """The index by which garbage collection finds who points to a payload."""
    # Not a name that the table of another model may have.
    return _payload_index(names, names.base + "_payload_id")


def old_payload_index(names: TableNames) -> IndexDefinition:
    """The same under its name of before: that of the table of payloads of a model "{this}_by"."""
    return _payload_index(names, names.base + "_by_payload")


def _payload_index(names: TableNames, name: str) -> IndexDefinition:
    return IndexDefinition(
        name, f"CREATE INDEX IF NOT EXISTS {quote_identifier(name)} ON {names.revision} (payload_id)"
    )


async def missing(
    connection: PostgresConnection, names: TableNames, wanted: Sequence[IndexDefinition]
) -> list[IndexDefinition]:
    """Those that are not there, or were left half-built by a process that died."""
    if not wanted:
        return []
    rows = await connection.fetch(_PRESENT, names.meta, names.revision, doing="looking for indexes")
    valid = {row[0] for row in rows if row[1]}
    return [definition for definition in wanted if definition.name not in valid]


async def build(
    connection: PostgresConnection,
    names: TableNames,
    wanted: Sequence[IndexDefinition],
    afterwards: Sequence[str] = (),
) -> None:
    """Build indexes without blocking writers, on connections outside the pool; then run the statements `afterwards`.

    Searches work meanwhile, only slower. While another process builds, this one looks from time to time whether it still
    does.

    Failures are logged: the next process that uses the model tries again.
    """
    failures = 0
    pause = _POLL_SECONDS
    while failures < _FAILURES:
        try:
            if await _build_as_only_one(connection, names, wanted, afterwards):
                return
        except BackendUnavailable as error:
            failures += 1
            logger.info("postgres: building indexes of %s waits: %s", names.meta, error)
        except SpecstarError as error:
            logger.warning("postgres: the indexes of %s could not be looked at: %s", names.meta, error)
            return
        await asyncio.sleep(pause)
        pause = min(pause * 1.25, _LONGEST_POLL_SECONDS)
    logger.warning("postgres: gave up building indexes of %s; the next start tries again", names.meta)


async def _build_as_only_one(
    connection: PostgresConnection,
    names: TableNames,
    wanted: Sequence[IndexDefinition],
    afterwards: Sequence[str],
) -> bool:
    """Build what is missing, then do the rest; False if another one is at it."""
    guard = await connection.connect_alone()
    try:
        await guard.lift_limits()
        if not await guard.try_lock(_LOCK_CLASS, _lock_key(names)):
            return not await missing(connection, names, wanted)
        # What a process that has ended had begun goes on in the server, and looks half-built until it is done. Not to be
        # waited for by a lock: the snapshot of whoever waits there may be waited for by the build.
        if (await connection.fetch(_BUILDING, names.meta, names.revision))[0][0]:
            return False
        worker = await connection.connect_alone()
        try:
            await worker.lift_limits()
            await _run(worker, connection, names, [*await _missing_statements(connection, names, wanted), *afterwards])
        finally:
            worker.terminate()
        return True
    except SpecstarError:
        raise
    except Exception as error:
        raise connection.translated(error, "building an index") from error
    finally:
        guard.terminate()


async def _run(worker: Session, connection: PostgresConnection, names: TableNames, statements: list[str]) -> None:
    """Run statements one by one; if one is refused for good, those that are left are shown for someone who may."""
    for done, statement in enumerate(statements):
        logger.info("postgres: %s", statement)
        try:
            await worker.execute(statement, timeout=_BUILD_SECONDS)
        except Exception as error:
            refusal = connection.translated(error, "building an index")
            if isinstance(refusal, BackendUnavailable):
                raise refusal from error
            logger.warning(
                "postgres: the indexes of %s are not what they should be (%s); run, one by one: %s",
                names.meta,
                refusal,
                "; ".join(statements[done:]),
            )
            return


def _lock_key(names: TableNames) -> int:
    return zlib.crc32(f"{names.schema}.{names.base}".encode()) - (1 << 31)


async def _missing_statements(
    connection: PostgresConnection, names: TableNames, wanted: Sequence[IndexDefinition]
) -> list[str]:
    """The statements that build what is not there, in the place of what was left half-built."""
    valid = {row[0]: row[1] for row in await connection.fetch(_PRESENT, names.meta, names.revision)}
    statements: list[str] = []
    for definition in wanted:
        if valid.get(definition.name) is False:
            statements.append(dropped(names, definition))
        if not valid.get(definition.name):
            statements.append(definition.sql.replace("CREATE INDEX ", "CREATE INDEX CONCURRENTLY ", 1))
    return statements


def dropped(names: TableNames, definition: IndexDefinition) -> str:
    """The statement that drops an index without blocking writers."""
    where = quote_identifier(names.schema) + "." if names.schema else ""
    return f"DROP INDEX CONCURRENTLY IF EXISTS {where}{quote_identifier(definition.name)}"
