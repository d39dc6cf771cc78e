"""Operations that read the tables of a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from specstar.backends.sqlite.database import Database, Operation
from specstar.backends.sqlite.rows import META_COLUMNS, decode_current, decode_meta, decode_revision
from specstar.backends.sqlite.search import CountRows, ExplainRows, SearchMeta, SearchRows
from specstar.backends.sqlite.tables import ModelTables
from specstar.errors import DecodeError
from specstar.query import time_of
from specstar.roles import PayloadKey, ResourceMeta, RevisionInfo, StoredPayload
from specstar.roles.records import unreadable_revision

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
    "Prefetch",
    "ReadById",
    "Referenced",
    "SearchFull",
    "SearchMeta",
    "SearchRows",
    "Unreferenced",
    "prefetches",
]

_INFO = len(META_COLUMNS)
# From this many ids on, one statement for all costs less than one for each.
_TOGETHER = 4
# SQLite holds the rows of a statement once more while it sorts them.
_MOST_TOGETHER = 256


class FoundRow(NamedTuple):
    """A row with a revision, and that revision's payload where it lies in the database."""

    meta: ResourceMeta
    revision: RevisionInfo | None
    payload: bytes | None


class ReadById:
    """What reads by resource id have in common: the rows of ids, in their order, or one id with a given revision.

    `each`: a current revision that does not decode must not hide the others.
    """

    __slots__ = ("each", "fetched", "ids", "revision_id", "tables")

    def __init__(
        self, tables: ModelTables, ids: Sequence[str], revision_id: str | None = None, *, each: bool = False
    ) -> None:
        self.tables: ModelTables = tables
        self.ids: Sequence[str] = ids
        self.revision_id: str | None = revision_id
        self.each: bool = each
        # The rows by id, where `Prefetch` has read them together with those of others.
        self.fetched: dict[str, tuple[Any, ...]] | None = None

    @property
    def selects(self) -> tuple[str, str]:
        """The statement for the current revision, and the one for a given revision."""
        raise NotImplementedError

    def decode(self, row: tuple[Any, ...]) -> Any:
        """The result for one row."""
        raise NotImplementedError

    def run(self, database: Database) -> list[Any]:
        """One entry an id; None where there is no such resource."""
        rows = self._select(database)
        return [None if row is None else self.decode(row) for row in rows]

    def _select(self, database: Database) -> list[tuple[Any, ...] | None]:
        if self.fetched is not None:
            return [self.fetched.get(resource_id) for resource_id in self.ids]
        current, given = self.selects
        if self.revision_id is None and len(self.ids) >= _TOGETHER:
            found = select_together(database, current, self.ids)
            return [found.get(resource_id) for resource_id in self.ids]
        result: list[tuple[Any, ...] | None] = []
        for resource_id in self.ids:
            values = (resource_id,) if self.revision_id is None else (self.revision_id, resource_id)
            rows = database.execute(current if self.revision_id is None else given, values)
            result.append(rows[0] if rows else None)
        return result


class GetMeta(ReadById):
    """The meta rows of ids."""

    __slots__ = ()

    @property
    def selects(self) -> tuple[str, str]:
        return self.tables.select_meta, self.tables.select_meta

    def decode(self, row: tuple[Any, ...]) -> ResourceMeta:
        return decode_meta(row)


class GetRows(ReadById):
    """The rows of ids with their revisions: pairs of meta and revision, which is None if there is no such revision."""

    __slots__ = ()

    @property
    def selects(self) -> tuple[str, str]:
        return self.tables.select_current, self.tables.select_given

    def decode(self, row: tuple[Any, ...]) -> tuple[ResourceMeta, RevisionInfo | None]:
        meta, info = decode_meta(row), row[_INFO]
        if info is None:
            return meta, None
        if self.each:
            return meta, decode_current(info, meta)
        return meta, decode_revision(info, row[0], self.revision_id or row[1])


class GetFull(ReadById):
    """What `GetRows` gives, with payloads, as `FoundRow`s."""

    __slots__ = ()

    @property
    def selects(self) -> tuple[str, str]:
        return self.tables.select_current_payload, self.tables.select_given_payload

    def decode(self, row: tuple[Any, ...]) -> FoundRow:
        return current_row(row) if self.each else found_row(row, self.revision_id)


class Prefetch:
    """Reads by id of several callers in one statement, which costs a third of one statement for each."""

    __slots__ = ("operations",)

    def __init__(self, operations: list[ReadById]) -> None:
        self.operations: list[ReadById] = operations

    def run(self, database: Database) -> None:
        first = self.operations[0]
        ids = [resource_id for operation in self.operations for resource_id in operation.ids]
        found = select_together(database, first.selects[0], ids)
        for operation in self.operations:
            operation.fetched = found


def prefetches(operations: Sequence[Operation]) -> list[Prefetch]:
    """What to run before these operations; they give the same results without."""
    groups: dict[tuple[type, ModelTables], list[ReadById]] = {}
    for operation in operations:
        if isinstance(operation, ReadById) and operation.revision_id is None:
            groups.setdefault((type(operation), operation.tables), []).append(operation)
    return [Prefetch(group) for group in groups.values() if len(group) >= _TOGETHER]


def select_together(database: Database, select: str, ids: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """The rows of many ids by id; `select` is a statement for one id."""
    found: dict[str, tuple[Any, ...]] = {}
    for start in range(0, len(ids), _MOST_TOGETHER):
        part = ids[start : start + _MOST_TOGETHER]
        found.update((row[0], row) for row in database.execute(_together(select), (json.dumps(part),)))
    return found


def _together(select: str) -> str:
    # Any order: to sort, SQLite fetches all rows, from wherever they lie, before it gives the first one, and the interpreter is
    # free meanwhile. Else it would be asked for after each row, and waited for. The plus keeps it from using an index instead.
    return select.replace("resource_id = ?", "resource_id IN (SELECT value FROM json_each(?)) ORDER BY +created_time")


def found_row(row: Sequence[Any], revision_id: str | None = None) -> FoundRow:
    """From the columns: meta, info, payload_id, payload; of this revision, or of the current one."""
    meta = decode_meta(row)
    info = row[_INFO]
    if info is None:
        return FoundRow(meta, None, None)
    return FoundRow(meta, decode_revision(info, row[0], revision_id or row[1]), row[_INFO + 2])


def current_row(row: Sequence[Any]) -> FoundRow:
    """The same for a row of many, with its current revision."""
    try:
        return found_row(row)
    except DecodeError:
        meta = decode_meta(row)
        return FoundRow(meta, unreadable_revision(meta), None)


class SearchFull(SearchMeta):
    """The matching rows with their current revisions and payloads."""

    __slots__ = ()

    def select(self, tables: ModelTables, matching: str) -> str:
        return f"SELECT {tables.meta_columns}, v.info, v.payload_id, v.payload {tables.from_matching(matching)}"

    def run(self, database: Database) -> list[FoundRow]:
        return [current_row(row) for row in database.execute(self.sql, self.params)]


class ListRevisions:
    """All revisions of a resource, oldest first."""

    __slots__ = ("resource_id", "tables")

    def __init__(self, tables: ModelTables, resource_id: str) -> None:
        self.tables: ModelTables = tables
        self.resource_id: str = resource_id

    def run(self, database: Database) -> list[RevisionInfo]:
        rows = database.execute(self.tables.select_revisions, (self.resource_id,))
        return [decode_revision(info, self.resource_id, revision_id) for revision_id, info, *_ in rows]


class Referenced:
    """Those of the payload ids that a revision points to."""

    __slots__ = ("payload_ids", "tables")

    def __init__(self, tables: ModelTables, payload_ids: Sequence[str]) -> None:
        self.tables: ModelTables = tables
        self.payload_ids: Sequence[str] = payload_ids

    def run(self, database: Database) -> set[str]:
        return {
            row[0] for row in database.execute(self.tables.select_referenced, (json.dumps(list(self.payload_ids)),))
        }


class Unreferenced:
    """Those of the payload keys that no revision of their resource points to."""

    __slots__ = ("keys", "tables")

    def __init__(self, tables: ModelTables, keys: Sequence[PayloadKey]) -> None:
        self.tables: ModelTables = tables
        self.keys: Sequence[PayloadKey] = keys

    def run(self, database: Database) -> list[PayloadKey]:
        return [key for key in self.keys if not database.execute(self.tables.select_pointer, key)]


class GetPayloads:
    """Payloads of the resource role, in the order of the keys; also those that a combined storage keeps with a revision."""

    __slots__ = ("keys", "tables")

    def __init__(self, tables: ModelTables, keys: Sequence[PayloadKey]) -> None:
        self.tables: ModelTables = tables
        self.keys: Sequence[PayloadKey] = keys

    def run(self, database: Database) -> list[bytes | None]:
        found: list[bytes | None] = []
        for key in self.keys:
            rows = database.execute(self.tables.get_payload, key) or database.execute(
                self.tables.get_inline_payload, key
            )
            found.append(rows[0][0] if rows else None)
        return found


class ListPayloads:
    """A page of the payloads of the resource role: the last rowid, for the next page, and the entries."""

    __slots__ = ("after", "limit", "tables")

    def __init__(self, tables: ModelTables, after: int, limit: int) -> None:
        self.tables: ModelTables = tables
        self.after: int = after
        self.limit: int = limit

    def run(self, database: Database) -> tuple[int, list[StoredPayload]]:
        rows = database.execute(self.tables.list_payloads, (self.after, self.limit))
        entries = [StoredPayload(PayloadKey(row[1], row[2]), row[3], time_of(row[4])) for row in rows]
        return (rows[-1][0] if rows else self.after), entries
