"""Operations that read the tables of a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from specstar.backends.sqlite.database import Database
from specstar.backends.sqlite.rows import META_COLUMNS, decode_meta, decode_revision, to_time
from specstar.backends.sqlite.search import CountRows, ExplainRows, SearchMeta, SearchRows
from specstar.backends.sqlite.tables import ModelTables
from specstar.roles import PayloadKey, ResourceMeta, RevisionInfo, StoredPayload

__all__ = [
    "CountRows",
    "ExplainRows",
    "FoundRow",
    "GetFull",
    "GetMeta",
    "GetPayloads",
    "GetRows",
    "ListPayloads",
    "ListRevisions",
    "Referenced",
    "SearchFull",
    "SearchMeta",
    "SearchRows",
    "Unreferenced",
]

_INFO = len(META_COLUMNS)


class FoundRow(NamedTuple):
    """A row with a revision, and that revision's payload where it lies in the database."""

    meta: ResourceMeta
    revision: RevisionInfo | None
    payload: bytes | None


class GetMeta:
    """The meta rows of ids, in their order."""

    __slots__ = ("ids", "tables")

    def __init__(self, tables: ModelTables, ids: Sequence[str]) -> None:
        self.tables = tables
        self.ids = ids

    def run(self, database: Database) -> list[ResourceMeta | None]:
        select = self.tables.select_meta
        found = []
        for resource_id in self.ids:
            rows = database.execute(select, (resource_id,))
            found.append(decode_meta(rows[0]) if rows else None)
        return found


class GetRows:
    """The rows of ids with their current revisions, or one id with a given revision."""

    __slots__ = ("ids", "revision_id", "tables")

    def __init__(self, tables: ModelTables, ids: Sequence[str], revision_id: str | None = None) -> None:
        self.tables = tables
        self.ids = ids
        self.revision_id = revision_id

    def run(self, database: Database) -> list[tuple[ResourceMeta, RevisionInfo | None] | None]:
        return [
            None if row is None else (decode_meta(row), None if row[_INFO] is None else decode_revision(row[_INFO], row[0]))
            for row in select_each(database, self.ids, self.revision_id, self.tables.select_current, self.tables.select_given)
        ]


class GetFull:
    """What `GetRows` gives, with payloads."""

    __slots__ = ("ids", "revision_id", "tables")

    def __init__(self, tables: ModelTables, ids: Sequence[str], revision_id: str | None = None) -> None:
        self.tables = tables
        self.ids = ids
        self.revision_id = revision_id

    def run(self, database: Database) -> list[FoundRow | None]:
        tables = self.tables
        rows = select_each(
            database, self.ids, self.revision_id, tables.select_current_payload, tables.select_given_payload
        )
        return [None if row is None else found_row(row) for row in rows]


def select_each(
    database: Database, ids: Sequence[str], revision_id: str | None, current: str, given: str
) -> list[tuple[Any, ...] | None]:
    """One row or None for each id."""
    result: list[tuple[Any, ...] | None] = []
    for resource_id in ids:
        if revision_id is None:
            rows = database.execute(current, (resource_id,))
        else:
            rows = database.execute(given, (revision_id, resource_id))
        result.append(rows[0] if rows else None)
    return result


def found_row(row: Sequence[Any]) -> FoundRow:
    """From the columns: meta, info, payload_id, payload."""
    meta = decode_meta(row)
    info = row[_INFO]
    if info is None:
        return FoundRow(meta, None, None)
    return FoundRow(meta, decode_revision(info, meta.resource_id), row[_INFO + 2])


class SearchFull(SearchMeta):
    """The matching rows with their current revisions and payloads."""

    __slots__ = ()

    def select(self, tables: ModelTables, matching: str) -> str:
        return f"SELECT {tables.meta_columns}, v.info, v.payload_id, v.payload {tables.from_matching(matching)}"

    def run(self, database: Database) -> list[FoundRow]:
        return [found_row(row) for row in database.execute(self.sql, self.params)]


class ListRevisions:
    """All revisions of a resource, oldest first."""

    __slots__ = ("resource_id", "tables")

    def __init__(self, tables: ModelTables, resource_id: str) -> None:
        self.tables = tables
        self.resource_id = resource_id

    def run(self, database: Database) -> list[RevisionInfo]:
        rows = database.execute(self.tables.select_revisions, (self.resource_id,))
        return [decode_revision(info, self.resource_id) for info, _ in rows]


class Referenced:
    """Those of the payload ids that a revision points to."""

    __slots__ = ("payload_ids", "tables")

    def __init__(self, tables: ModelTables, payload_ids: Sequence[str]) -> None:
        self.tables = tables
        self.payload_ids = payload_ids

    def run(self, database: Database) -> set[str]:
        return {row[0] for row in database.execute(self.tables.select_referenced, (json.dumps(list(self.payload_ids)),))}


class Unreferenced:
    """Those of the payload keys that no revision of their resource points to."""

    __slots__ = ("keys", "tables")

    def __init__(self, tables: ModelTables, keys: Sequence[PayloadKey]) -> None:
        self.tables = tables
        self.keys = keys

    def run(self, database: Database) -> list[PayloadKey]:
        return [key for key in self.keys if not database.execute(self.tables.select_pointer, key)]


class GetPayloads:
    """Payloads of the resource role, in the order of the keys; also those that a combined storage keeps with a revision."""

    __slots__ = ("keys", "tables")

    def __init__(self, tables: ModelTables, keys: Sequence[PayloadKey]) -> None:
        self.tables = tables
        self.keys = keys

    def run(self, database: Database) -> list[bytes | None]:
        found: list[bytes | None] = []
        for key in self.keys:
            rows = database.execute(self.tables.get_payload, key) or database.execute(self.tables.get_inline_payload, key)
            found.append(rows[0][0] if rows else None)
        return found


class ListPayloads:
    """A page of the payloads of the resource role: the last rowid, for the next page, and the entries."""

    __slots__ = ("after", "limit", "tables")

    def __init__(self, tables: ModelTables, after: int, limit: int) -> None:
        self.tables = tables
        self.after = after
        self.limit = limit

    def run(self, database: Database) -> tuple[int, list[StoredPayload]]:
        rows = database.execute(self.tables.list_payloads, (self.after, self.limit))
        entries = [StoredPayload(PayloadKey(row[1], row[2]), row[3], to_time(row[4])) for row in rows]
        return (rows[-1][0] if rows else self.after), entries
