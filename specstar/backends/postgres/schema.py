"""Tables: created on first use under an advisory lock, versioned, migrated forward, never written over."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from specstar.backends.postgres.names import TableNames, quote
from specstar.backends.postgres.statements import META_COLUMNS, REVISION_COLUMNS
from specstar.errors import SchemaVersionError
from specstar.query import IndexDefinition

if TYPE_CHECKING:
    from specstar.backends.postgres.connection import PostgresConnection
    from specstar.backends.postgres.session import Session

__all__ = ["BUSY_META", "META", "PAYLOAD", "Component", "ensure", "give_room"]

logger = logging.getLogger("specstar")

# One lock for all creation and migration in a database: "spec", "star" in ASCII.
_LOCK = "SELECT pg_advisory_xact_lock(1936745827, 1937006962)"
# By way of the catalog: to_regclass alone takes no lock, so it may answer from before another process created the table.
_EXISTS = "SELECT EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid = to_regclass($1))"
_SCHEMA_EXISTS = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE oid = to_regnamespace($1))"


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
    meta = _columns(META_COLUMNS, frozenset({"schema_version"}))
    revision = _columns(REVISION_COLUMNS, frozenset({"schema_version", "parent_revision_id"}))
    # Free room on each page lets changed rows stay on it, and dead ones are cleaned up without a vacuum.
    return (
        f"CREATE TABLE {names.meta} ({meta}, PRIMARY KEY (resource_id)) WITH (fillfactor = {fillfactor}); "
        f'CREATE TABLE {names.revision} (resource_id text COLLATE "C" NOT NULL, {revision}, payload bytea, '
        "PRIMARY KEY (resource_id, revision_id))"
    )


def _create_payload(names: TableNames) -> str:
    return (
        f'CREATE TABLE {names.payload} (resource_id text COLLATE "C" NOT NULL, payload_id text COLLATE "C" NOT NULL, '
        "payload bytea NOT NULL, created_time timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (resource_id, payload_id))"
    )


def _meta(fillfactor: int) -> Component:
    return Component(
        "meta", 1, lambda names: (names.meta, names.revision), lambda names: _create_meta(names, fillfactor)
    )


META = _meta(85)
# Room for a second version of every row.
_BUSY_FILLFACTOR = 45
BUSY_META = _meta(_BUSY_FILLFACTOR)
PAYLOAD = Component("payload", 1, lambda names: (names.payload,), _create_payload)


def give_room(names: TableNames) -> str:
    """The statement that gives the pages of an existing meta table, from now on, the room that `BUSY_META` has."""
    return f"ALTER TABLE {names.meta} SET (fillfactor = {_BUSY_FILLFACTOR})"


async def ensure(
    connection: PostgresConnection, names: TableNames, component: Component, indexes: Sequence[IndexDefinition] = ()
) -> bool:
    """Make sure that the tables are there in this version; True if they were created now, then with these indexes.

    Two short reads if they are. Raises `SchemaVersionError` for tables of a newer version or another program.
    """
    if (await connection.fetch(_EXISTS, names.versions, doing="looking for tables"))[0][0]:
        rows = await connection.fetch(
            _version_of(names), names.base, component.name, doing="reading the schema version"
        )
        if rows and _checked(rows[0][0], names, component) == component.version:
            return False
    async with connection.transaction() as session:
        return await _create_or_migrate(session, names, component, indexes)


async def _create_or_migrate(
    session: Session, names: TableNames, component: Component, indexes: Sequence[IndexDefinition]
) -> bool:
    await session.fetch(_LOCK)
    if names.schema and not await session.fetchval(_SCHEMA_EXISTS, quote(names.schema)):
        await session.execute(f"CREATE SCHEMA {quote(names.schema)}")
    if not await session.fetchval(_EXISTS, names.versions):
        await session.execute(
            f'CREATE TABLE {names.versions} (base text COLLATE "C" NOT NULL, component text NOT NULL, '
            "version integer NOT NULL, changed_time timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (base, component))"
        )
    stored = await session.fetchval(_version_of(names), names.base, component.name)
    if stored is None:
        for table in component.tables(names):
            if await session.fetchval(_EXISTS, table):
                raise SchemaVersionError(
                    f"table {table} exists, but {names.versions} does not know it: it belongs to another program or "
                    "another table_prefix; choose another table_prefix or schema. Nothing was changed",
                    backend="postgres",
                )
        await session.execute("; ".join([component.create(names), *(definition.sql for definition in indexes)]))
        await session.execute(
            f"INSERT INTO {names.versions} (base, component, version) VALUES ($1, $2, $3)",
            names.base,
            component.name,
            component.version,
        )
        logger.info("postgres: created %s", ", ".join(component.tables(names)))
        return True
    version = _checked(stored, names, component)
    while version < component.version:
        await session.execute(component.migrations[version](names))
        version += 1
        await session.execute(
            f"UPDATE {names.versions} SET version = $3, changed_time = now() WHERE base = $1 AND component = $2",
            names.base,
            component.name,
            version,
        )
        logger.info("postgres: migrated %s to version %d", ", ".join(component.tables(names)), version)
    return False


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
