"""The SQL of one model's tables, as text that can be pasted into psql. Values are always parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specstar.backends.postgres.names import TableNames
from specstar.query import Compiled

__all__ = [
    "ADVANCE_COLUMNS",
    "META_COLUMNS",
    "REVISION_COLUMNS",
    "ROW_COLUMNS",
    "MetaSql",
    "SearchSql",
    "meta_sql",
]

# Name and type, in the order in which rows are read and written.
META_COLUMNS: tuple[tuple[str, str], ...] = (
    ("resource_id", "text"),
    ("current_revision_id", "text"),
    ("revision_count", "bigint"),
    ("version", "bigint"),
    ("created_time", "timestamptz"),
    ("updated_time", "timestamptz"),
    ("created_by", "text"),
    ("updated_by", "text"),
    ("is_deleted", "boolean"),
    ("schema_version", "text"),
    ("indexed", "jsonb"),
)
REVISION_COLUMNS: tuple[tuple[str, str], ...] = (
    ("revision_id", "text"),
    ("parent_revision_id", "text"),
    ("payload_id", "text"),
    ("status", "text"),
    ("encoding", "text"),
    ("size", "bigint"),
    ("created_time", "timestamptz"),
    ("updated_time", "timestamptz"),
    ("created_by", "text"),
    ("updated_by", "text"),
    ("schema_version", "text"),
)


def _list(columns: tuple[tuple[str, str], ...], alias: str, *, rename: str = "") -> str:
    return ", ".join(f"{alias}.{rename}{name}" for name, _ in columns)


_META = _list(META_COLUMNS, "m")
_REVISION = _list(REVISION_COLUMNS, "r")
# What a row says twice comes as NULL, which costs next to nothing to send and to decode: see `rows.meta_with_revision`.
_SAID_BEFORE = {
    "m.updated_time": "m.created_time",
    "m.updated_by": "m.created_by",
    "r.revision_id": "m.current_revision_id",
    "r.status": "'stable'",
    "r.encoding": "'json'",
    "r.created_time": "m.updated_time",
    "r.updated_time": "m.updated_time",
    "r.created_by": "m.updated_by",
    "r.updated_by": "m.updated_by",
}
_JOINED = ", ".join(
    f"NULLIF({column}, {_SAID_BEFORE[column]})" if column in _SAID_BEFORE else column
    for alias, columns in (("m", META_COLUMNS), ("r", REVISION_COLUMNS))
    for column in (f"{alias}.{name}" for name, _ in columns)
)
# A copy counts while its row is what it was made for: see `copies`.
_IS_COPIED = "m.copied_version = m.version AND m.revision_copy IS NOT NULL"
_COPY = f"CASE WHEN {_IS_COPIED} THEN m.revision_copy END"
# Large payloads do not travel with a batch: the reader asks for them one by one.
_PAYLOAD_AT = "CASE WHEN octet_length(r.payload) <= $2 THEN r.payload END"
_PAYLOAD = f"coalesce({_COPY}, {_PAYLOAD_AT})"


def _join_current(names: TableNames) -> str:
    """The current revision, looked up row by row: a join of sets would read all revisions for rows that have copies.

    Of those, the condition about the row alone lets the server not even begin.
    """
    return (
        f"LEFT JOIN LATERAL (SELECT r.* FROM {names.revision} r WHERE ({_IS_COPIED}) IS NOT TRUE "
        "AND r.resource_id = m.resource_id AND r.revision_id = m.current_revision_id LIMIT 1) r ON true"
    )


def _unseen(array: str) -> str:
    """An array that the planner does not look into: else it would plan short ones anew at every call, for their length."""
    return f"(SELECT {array})"


@dataclass(frozen=True, slots=True)
class MetaSql:
    """Statements over the meta and revision tables."""

    create: str
    update: str
    update_rows: str
    advance: str
    state: str
    outcome: str
    read: str
    read_full: str
    read_full_one: str
    read_at: str
    read_at_full: str
    read_meta: str
    payload: str
    list_revisions: str
    lock: str
    erase: str
    erase_listing: str
    referenced: str
    references: str


def meta_sql(names: TableNames, *, copies: bool = True) -> MetaSql:
    """The statements for the tables of these names. Without `copies` the revision is not copied into the row."""
    meta, revision = names.meta, names.revision
    current = f"FROM {meta} m {_join_current(names)}"
    one_batch = f"WHERE m.resource_id = ANY({_unseen('$1::text[]')}::text[])"
    # Key by key, by the index: a join of sets would read the whole of a small or fresh table for each batch.
    each_key = f"FROM unnest({_unseen('$1::text[]')}) AS k(resource_id) CROSS JOIN LATERAL"
    one_key = "WHERE m.resource_id = k.resource_id LIMIT 1"

    def pairs(second: str) -> str:
        return (
            f"FROM unnest({_unseen('$1::text[]')}, {_unseen(f'{second}::text[]')}) AS k(resource_id, revision_id) "
            f"JOIN {meta} m USING (resource_id) "
            f"LEFT JOIN {revision} r ON r.resource_id = m.resource_id "
            "AND r.revision_id = coalesce(k.revision_id, m.current_revision_id)"
        )

    # Where no version is expected, the one that the statement sees: it does not see the revision of a writer that it waits for,
    # and leaves the row that this one has changed.
    erased = (
        f"WITH k AS MATERIALIZED (SELECT e.resource_id, coalesce(e.version, (SELECT m.version FROM {meta} m "
        "WHERE m.resource_id = e.resource_id)) AS version "
        f"FROM unnest({_unseen('$1::text[]')}, {_unseen('$2::bigint[]')}) AS e(resource_id, version)), "
        f"w AS (DELETE FROM {meta} m USING k WHERE m.resource_id = k.resource_id "
        "AND m.version = k.version RETURNING m.resource_id), "
        f"r AS (DELETE FROM {revision} r USING w WHERE r.resource_id = w.resource_id"
    )
    return MetaSql(
        create=_write(names, update=False, copies=copies),
        update=_write(names, update=True, copies=copies),
        update_rows=_update_rows(names),
        advance=_advance(names, copies=copies),
        state=f"SELECT m.resource_id, m.current_revision_id, m.is_deleted FROM {meta} m {one_batch}",
        outcome=(
            "SELECT k.position, m.version, m.updated_time, m.current_revision_id, r.payload_id, r.updated_time, r.status "
            "FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS k(resource_id, revision_id, position) "
            f"LEFT JOIN {meta} m ON m.resource_id = k.resource_id "
            f"LEFT JOIN {revision} r ON r.resource_id = k.resource_id AND r.revision_id = k.revision_id"
        ),
        read=f"SELECT found.* {each_key} (SELECT {_JOINED}, {_COPY} {current} {one_key}) found",
        read_full=f"SELECT found.* {each_key} (SELECT {_JOINED}, {_PAYLOAD} {current} {one_key}) found",
        read_full_one=f"SELECT {_JOINED}, {_PAYLOAD} {current} WHERE m.resource_id = $1::text",
        read_at=f"SELECT {_JOINED}, NULL::bytea, k.revision_id {pairs('$2')}",
        read_at_full=f"SELECT {_JOINED}, {_PAYLOAD_AT}, k.revision_id {pairs('$3')}",
        read_meta=f"SELECT found.* {each_key} (SELECT {_META} FROM {meta} m {one_key}) found",
        payload=(
            f"SELECT r.payload FROM {revision} r WHERE r.resource_id = $1 AND r.revision_id = $2 AND r.payload_id = $3"
        ),
        list_revisions=(
            f"SELECT r.resource_id, {_REVISION} FROM {revision} r WHERE r.resource_id = $1 ORDER BY r.revision_id"
        ),
        lock=f"SELECT FROM {meta} m WHERE m.resource_id = ANY($1::text[]) ORDER BY m.resource_id FOR UPDATE",
        erase=f"{erased}) SELECT w.resource_id FROM w",
        erase_listing=(
            f"{erased} RETURNING r.resource_id, {_REVISION}) "
            "SELECT w.resource_id, r.* FROM w LEFT JOIN r ON r.resource_id = w.resource_id"
        ),
        referenced=f"SELECT r.payload_id FROM {revision} r WHERE r.payload_id = ANY($1::text[])",
        references=(
            "SELECT k.resource_id, k.payload_id FROM unnest($1::text[], $2::text[]) AS k(resource_id, payload_id) "
            f"JOIN {revision} r ON r.resource_id = k.resource_id AND r.payload_id = k.payload_id"
        ),
    )


# What NULL stands for in a batch of writes; empty arrays are read as arrays of NULL. A revision without a size is none. Of
# an update nothing about the creation is sent. Both ways, `columns` has the other half.
INCOMING: dict[str, str] = {
    "revision_count": "1",
    "version": "1",
    "updated_time": "k.created_time",
    "created_by": "''",
    "updated_by": "k.created_by, ''",
    "is_deleted": "false",
    "r_revision_id": "k.current_revision_id",
    "r_payload_id": "k.r_revision_id, k.current_revision_id",
    "r_status": "'stable'",
    "r_encoding": "'json'",
    "r_created_time": "k.updated_time, k.created_time",
    "r_updated_time": "k.updated_time, k.created_time",
    "r_created_by": "k.updated_by, k.created_by, ''",
    "r_updated_by": "k.updated_by, k.created_by, ''",
}


def _copied(version: str, *, copies: bool) -> tuple[str, str]:
    """The values of the columns of a copy, in a row that will have this version."""
    if not copies:
        return "NULL", "NULL"
    return "n.copy_head || n.payload", f"CASE WHEN n.copy_head IS NOT NULL THEN {version} END"


def _write(names: TableNames, *, update: bool, copies: bool) -> str:
    """A batch of creates, or of conditional updates: rows and revisions in one statement, hence one transaction.

    Returns the ids of the rows that were written; a revision is written only with its row.
    """
    incoming = [(name, kind) for name, kind in META_COLUMNS]
    incoming += [(f"r_{name}", kind) for name, kind in REVISION_COLUMNS]
    incoming += [("payload", "bytea"), ("copy_head", "bytea")]
    if update:
        incoming.append(("expected_version", "bigint"))
    arrays = ", ".join(
        _unseen(f"${position}::{kind}[]") if update else f"${position}::{kind}[]"
        for position, (_, kind) in enumerate(incoming, 1)
    )
    columns = ", ".join(name for name, _ in incoming)
    values = ", ".join(
        f"coalesce(k.{name}, {INCOMING[name]}) AS {name}" if name in INCOMING else f"k.{name}" for name, _ in incoming
    )
    meta_names = ", ".join(name for name, _ in META_COLUMNS)
    revision_names = ", ".join(name for name, _ in REVISION_COLUMNS)
    copy, copied_version = _copied("n.version", copies=copies)
    if update:
        changes = ", ".join(f"{name} = n.{name}" for name, _ in META_COLUMNS[1:] if not name.startswith("created_"))
        changes += f", revision_copy = {copy}, copied_version = {copied_version}"
        rows = (
            f"UPDATE {names.meta} m SET {changes} FROM n "
            "WHERE m.resource_id = n.resource_id AND m.version = n.expected_version RETURNING m.resource_id"
        )
    else:
        rows = (
            f"INSERT INTO {names.meta} ({meta_names}, revision_copy, copied_version) "
            f"SELECT {_list(META_COLUMNS, 'n')}, {copy}, {copied_version} FROM n "
            "ON CONFLICT (resource_id) DO NOTHING RETURNING resource_id"
        )
    rewritten = ", ".join(f"{name} = excluded.{name}" for name, _ in REVISION_COLUMNS[1:])
    return (
        f"WITH n AS (SELECT {values} FROM unnest({arrays}) AS k({columns})), "
        f"w AS ({rows}), "
        f"r AS (INSERT INTO {names.revision} AS r (resource_id, {revision_names}, payload) "
        f"SELECT n.resource_id, {_list(REVISION_COLUMNS, 'n', rename='r_')}, n.payload "
        "FROM n JOIN w ON w.resource_id = n.resource_id WHERE n.r_size IS NOT NULL "
        f"ON CONFLICT (resource_id, revision_id) DO UPDATE SET {rewritten}, "
        "payload = coalesce(excluded.payload, r.payload)) "
        "SELECT w.resource_id FROM w"
    )


# The columns of a batch of conditional updates that bring no revision. NULL stands for the same as in `INCOMING`.
ROW_COLUMNS: tuple[tuple[str, str], ...] = (
    *((name, kind) for name, kind in META_COLUMNS if not name.startswith("created_")),
    ("expected_version", "bigint"),
)


def _update_rows(names: TableNames) -> str:
    """A batch of conditional updates of rows alone. Returns the ids of those that were written."""
    arrays = ", ".join(f"{_unseen(f'${position}::{kind}[]')}" for position, (_, kind) in enumerate(ROW_COLUMNS, 1))
    columns = ", ".join(name for name, _ in ROW_COLUMNS)
    silent = {"revision_count": "1", "version": "1", "updated_by": "''", "is_deleted": "false"}
    changes = ", ".join(
        f"{name} = coalesce(n.{name}, {silent[name]})" if name in silent else f"{name} = n.{name}"
        for name, _ in ROW_COLUMNS[1:-1]
    )
    # A copy stays as long as what it leaves to the row is the same.
    kept = (
        f"{_IS_COPIED} AND (m.current_revision_id, m.updated_time, m.updated_by) = "
        "(n.current_revision_id, n.updated_time, coalesce(n.updated_by, ''))"
    )
    changes += (
        f", revision_copy = CASE WHEN {kept} THEN m.revision_copy END, "
        f"copied_version = CASE WHEN {kept} THEN coalesce(n.version, 1) END"
    )
    return (
        f"UPDATE {names.meta} m SET {changes} FROM unnest({arrays}) AS n({columns}) "
        "WHERE m.resource_id = n.resource_id AND m.version = n.expected_version RETURNING m.resource_id"
    )


# The columns of a batch of advances. NULL stands for what `columns.advance_columns` says.
ADVANCE_COLUMNS: tuple[tuple[str, str], ...] = (
    ("resource_id", "text"),
    ("parent_revision_id", "text"),
    ("revision_id", "text"),
    ("status", "text"),
    ("encoding", "text"),
    ("size", "bigint"),
    ("changed_time", "timestamptz"),
    ("changed_by", "text"),
    ("schema_version", "text"),
    ("indexed", "jsonb"),
    ("payload", "bytea"),
    ("copy_head", "bytea"),
)


def _advance(names: TableNames, *, copies: bool) -> str:
    """A batch of next revisions, each on the condition that its parent is current. The row itself need not be known.

    Returns the ids of the rows that were written, and the time where the row was already at a later one.
    """
    arrays = ", ".join(_unseen(f"${position}::{kind}[]") for position, (_, kind) in enumerate(ADVANCE_COLUMNS, 1))
    columns = ", ".join(name for name, _ in ADVANCE_COLUMNS)
    copy, copied_version = _copied("m.version + 1", copies=copies)
    # Conditions and new values in one step: what another transaction changed meanwhile is looked at again by the server.
    return (
        f"WITH w AS (UPDATE {names.meta} m SET current_revision_id = n.revision_id, "
        "revision_count = m.revision_count + 1, version = m.version + 1, "
        "updated_time = greatest(m.updated_time, n.changed_time), updated_by = coalesce(n.changed_by, ''), "
        "schema_version = n.schema_version, indexed = n.indexed, "
        f"revision_copy = {copy}, copied_version = {copied_version} "
        f"FROM unnest({arrays}) AS n({columns}) "
        "WHERE m.resource_id = n.resource_id AND m.current_revision_id = n.parent_revision_id AND NOT m.is_deleted "
        "RETURNING m.updated_time, m.updated_by, n.*), "
        f"r AS (INSERT INTO {names.revision} (resource_id, {', '.join(name for name, _ in REVISION_COLUMNS)}, payload) "
        "SELECT w.resource_id, w.revision_id, w.parent_revision_id, w.revision_id, coalesce(w.status, 'stable'), "
        "coalesce(w.encoding, 'json'), w.size, w.updated_time, w.updated_time, w.updated_by, w.updated_by, "
        "w.schema_version, w.payload FROM w) "
        "SELECT w.resource_id, NULLIF(w.updated_time, w.changed_time) FROM w"
    )


@dataclass(frozen=True, slots=True)
class SearchSql:
    """Statements around a compiled query, which names the meta table `m`."""

    names: TableNames

    def _page(self, compiled: Compiled) -> str:
        """The page of rows first: revisions and payloads are joined to these few, not sorted with all that match."""
        return f"(SELECT m.* FROM {self.names.meta} m WHERE {compiled.where} ORDER BY {compiled.order_by} {compiled.page}) m"

    def _joined(self, columns: str, compiled: Compiled) -> str:
        return f"SELECT {columns} FROM {self._page(compiled)} {_join_current(self.names)} ORDER BY {compiled.order_by}"

    def search(self, compiled: Compiled) -> str:
        """Rows with their current revisions."""
        return self._joined(f"{_JOINED}, {_COPY}", compiled)

    def search_full(self, compiled: Compiled) -> str:
        """The same with payloads of at most `$1` bytes."""
        return self._joined(f"{_JOINED}, {_PAYLOAD.replace('$2', '$1')}", compiled)

    def search_full_each(self, compiled: Compiled, types: Sequence[str]) -> str:
        """`search_full` for many queries of one shape, compiled for `PostgresBatch`: position from 1, then the same columns.

        The operands are arrays from `$2` on, one of each type.
        """
        arrays = ", ".join(_unseen(f"${number}::{kind}[]") for number, kind in enumerate(types, 2))
        columns = ", ".join(f"p{number}" for number, _ in enumerate(types, 1))
        return (
            f"SELECT k.position, found.* FROM unnest({arrays}) WITH ORDINALITY AS k({columns}, position) "
            f"CROSS JOIN LATERAL ({self.search_full(compiled)}) found"
        )

    def search_meta(self, compiled: Compiled) -> str:
        """Rows alone."""
        return f"SELECT {_META} FROM {self._page(compiled)} ORDER BY {compiled.order_by}"

    def count(self, where: str) -> str:
        """The number of rows."""
        return f"SELECT count(*) FROM {self.names.meta} m WHERE {where}"
