"""Tables: created on first use under an advisory lock, versioned, migrated forward, never written over."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import asyncpg

from specstar.backends.postgres.copies import COPY_COLUMNS
from specstar.backends.postgres.names import TableNames
from specstar.backends.postgres.session import in_transaction
from specstar.backends.postgres.statements import META_COLUMNS, REVISION_COLUMNS
from specstar.errors import BackendUnavailable, SchemaVersionError
from specstar.query import IndexDefinition, quote_identifier

if TYPE_CHECKING:
    from specstar.backends.postgres.connection import PostgresConnection
    from specstar.backends.postgres.session import Session

__all__ = ["BUSY_META", "META", "PAYLOAD", "Component", "ensure", "give_room"]

logger: logging.Logger = logging.getLogger("specstar")

_Fetch: TypeAlias = Callable[..., Awaitable[list[Any]]]

# One lock for all creation and migration in a database: "spec", "star" in ASCII.
_LOCK = "SELECT pg_advisory_xact_lock(1936745827, 1937006962)"
# By way of the catalog: to_regclass alone takes no lock, so it may answer from before another process created the table.
_EXISTING = (
    "SELECT name FROM unnest($1::text[]) AS name "
    "WHERE EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid = to_regclass(name))"
)
_SEARCH_PATH = "SELECT unnest(pg_catalog.current_schemas(false))"
_SCHEMA_EXISTS = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE oid = to_regnamespace($1))"


_LOCK_SECONDS = 2
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Component:
    """A set of tables with one version. `migrations[n]` leads from version n to n + 1."""

    name: str
    version: int
    tables: Callable[[TableNames], tuple[str, ...]]
    create: Callable[[TableNames], str]
    migrations: Mapping[int, Callable[[TableNames], str]] = field(default_factory=dict)


def _columns(columns: tuple[tuple[str, str], ...], nullable: frozenset[str]) -> str:
    def column(name: str, kind: str) -> str:
        # Ids and users compare byte by byte, in the same order as on every other backend.
        collation = ' COLLATE "C"' if kind == "text" else ""
        return f"{name} {kind}{collation}{'' if name in nullable else ' NOT NULL'}"

    return ", ".join(column(*pair) for pair in columns)


def _create_meta(names: TableNames, fillfactor: int) -> str:
    copies = frozenset(name for name, _ in COPY_COLUMNS)
    meta = _columns(META_COLUMNS + COPY_COLUMNS, copies | {"schema_version"})
    revision = _columns(REVISION_COLUMNS, frozenset({"schema_version", "parent_revision_id"}))
    # Free room on each page lets changed rows stay on it, and dead ones are cleaned up without a vacuum.
    return (
        f"CREATE TABLE {names.meta} ({meta}, PRIMARY KEY (resource_id)) WITH (fillfactor = {fillfactor}); "
        f'CREATE TABLE {names.revision} (resource_id text COLLATE "C" NOT NULL, {revision}, payload bytea, '
        "PRIMARY KEY (resource_id, revision_id))"
    )


def _add_copies(names: TableNames) -> str:
    return f"ALTER TABLE {names.meta} {', '.join(f'ADD COLUMN {name} {kind}' for name, kind in COPY_COLUMNS)}"


def _create_payload(names: TableNames) -> str:
    return (
        f'CREATE TABLE {names.payload} (resource_id text COLLATE "C" NOT NULL, payload_id text COLLATE "C" NOT NULL, '
        "payload bytea NOT NULL, created_time timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (resource_id, payload_id))"
    )


def _meta(fillfactor: int) -> Component:
    return Component(
        "meta",
        2,
        lambda names: (names.meta, names.revision),
        lambda names: _create_meta(names, fillfactor),
        {1: _add_copies},
    )


META = _meta(85)
# Room for a second version of every row.
_BUSY_FILLFACTOR = 45
BUSY_META = _meta(_BUSY_FILLFACTOR)
PAYLOAD = Component("payload", 1, lambda names: (names.payload,), _create_payload)


def give_room(names: TableNames) -> str:
    """The statement that gives the pages of an existing meta table, from now on, the room that `BUSY_META` has."""
    return f"ALTER TABLE {names.meta} SET (fillfactor = {_BUSY_FILLFACTOR})"


class _Found(NamedTuple):
    """Where the tables of a component are, or are to be made, and what is known of them."""

    names: TableNames
    first: TableNames
    versions: str
    version: int | None
    unknown: str | None


async def ensure(
    connection: PostgresConnection, names: TableNames, component: Component, indexes: Sequence[IndexDefinition] = ()
) -> bool:
    """Make sure that the tables are there in this version; True if they were created now, then with these indexes.

    A few short reads if they are. Raises `SchemaVersionError` for tables of a newer version or another program, and
    `BackendUnavailable` if those of an older one are in use for too long to be changed.
    """
    found = await _look(partial(connection.fetch, doing="looking for tables"), names, component)
    if found.names != found.first and found.version is not None:
        logger.warning(
            "postgres: uses %s, which the search_path leads to, beside its first schema %r; set the option schema",
            ", ".join(component.tables(found.names)),
            found.first.schema,
        )
    if found.version is not None and _checked(found.version, found.names, component) == component.version:
        return False
    held: BaseException | None = None
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            async with connection.transaction() as session:
                return await _create_or_migrate(session, names, component, indexes)
        except BackendUnavailable as error:
            held = error.__cause__
            if not isinstance(held, asyncpg.LockNotAvailableError):
                raise
        if attempt < _ATTEMPTS:
            await asyncio.sleep(random.uniform(0.5, 1) * _LOCK_SECONDS)
    raise BackendUnavailable(
        f"{', '.join(component.tables(found.names))} must be changed for this specstar, and others have them locked for too "
        "long: end the transactions that hold them up (pg_stat_activity), or retry later",
        backend="postgres",
    ) from held


async def _look(fetch: _Fetch, names: TableNames, component: Component) -> _Found:
    """Find the tables in their schema or, if none is configured, along the search_path, as the statements do.

    What is new goes to the first schema of the path, and is entered there: others may have what lies behind it in theirs, too.
    An earlier specstar entered it in the first table of versions along the path.
    """
    places = [names]
    if not names.schema:
        places = [names.placed(row[0]) for row in await fetch(_SEARCH_PATH)] or places
    tables = [(place, table) for place in places for table in component.tables(place)]
    asked = [table for _, table in tables] + [place.versions for place in places]
    there = {row[0] for row in await fetch(_EXISTING, asked)}
    taken = [(place, table) for place, table in tables if table in there]
    home, unknown = taken[0] if taken else (places[0], None)
    for place in [home, *(place for place in places if taken and place is not home)]:
        if place.versions in there and (rows := await fetch(_version_of(place), names.base, component.name)):
            return _Found(home, places[0], place.versions, rows[0][0], None)
    return _Found(home, places[0], home.versions, None, unknown)


async def _create_or_migrate(
    session: Session, names: TableNames, component: Component, indexes: Sequence[IndexDefinition]
) -> bool:
    await session.fetch(_LOCK)
    if names.schema and not await session.fetchval(_SCHEMA_EXISTS, quote_identifier(names.schema)):
        await session.execute(f"CREATE SCHEMA {quote_identifier(names.schema)}")
    found = await _look(session.fetch, names, component)
    tables = ", ".join(component.tables(found.names))
    if found.unknown is not None:
        raise SchemaVersionError(
            f"table {found.unknown} exists, but {found.versions} does not know it: it belongs to another program or "
            "another table_prefix; choose another table_prefix or schema. Nothing was changed",
            backend="postgres",
        )
    if found.version is None:
        if not await session.fetch(_EXISTING, [found.versions]):
            await session.execute(
                f'CREATE TABLE {found.versions} (base text COLLATE "C" NOT NULL, component text NOT NULL, '
                "version integer NOT NULL, changed_time timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (base, component))"
            )
        await session.execute("; ".join([component.create(found.names), *(definition.sql for definition in indexes)]))
        await session.execute(
            f"INSERT INTO {found.versions} (base, component, version) VALUES ($1, $2, $3)",
            names.base,
            component.name,
            component.version,
        )
        logger.info("postgres: created %s", tables)
        return True
    version = _checked(found.version, found.names, component)
    try:
        async with in_transaction(session):
            await _migrate(session, found, names, component, version)
    except asyncpg.LockNotAvailableError:
        # With the lock of all migrations, so that no other process waits at once, and those behind this one get on.
        await asyncio.sleep(_LOCK_SECONDS)
        raise
    return False


async def _migrate(session: Session, found: _Found, names: TableNames, component: Component, version: int) -> None:
    # Whoever waits for a table that a long transaction reads makes all others wait behind it.
    await session.execute(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'")
    while version < component.version:
        await session.execute(component.migrations[version](found.names))
        version += 1
        await session.execute(
            f"UPDATE {found.versions} SET version = $3, changed_time = now() WHERE base = $1 AND component = $2",
            names.base,
            component.name,
            version,
        )
        logger.info("postgres: migrated %s to version %d", ", ".join(component.tables(found.names)), version)


def _version_of(names: TableNames) -> str:
    return f"SELECT version FROM {names.versions} WHERE base = $1 AND component = $2"


def _checked(version: int, names: TableNames, component: Component) -> int:
    tables = ", ".join(component.tables(names))
    if version > component.version:
        raise SchemaVersionError(
            f"{tables} have version {version}, this specstar knows up to {component.version}: upgrade specstar. "
            "Nothing was changed",
            backend="postgres",
        )
    if version < component.version and any(
        step not in component.migrations for step in range(version, component.version)
    ):
        raise SchemaVersionError(
            f"{tables} have version {version}, which this specstar cannot migrate to {component.version}. "
            "Nothing was changed",
            backend="postgres",
        )
    return version
