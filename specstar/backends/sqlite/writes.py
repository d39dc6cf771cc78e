"""Operations that change the tables of a model. Each checks first, so that one which raises has changed nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from specstar.backends.sqlite.database import Database, Joined
from specstar.backends.sqlite.rows import decode_revision, encode_meta, encode_revision
from specstar.backends.sqlite.search import index_statements
from specstar.backends.sqlite.tables import CURRENT_ROW, ModelTables
from specstar.errors import (
    DecodeError,
    DuplicateResourceError,
    ResourceNotFoundError,
    RevisionConflictError,
    SpecstarError,
)
from specstar.roles import MetaWrite, PayloadKey, RevisionInfo

__all__ = [
    "ROW_OVERHEAD",
    "CreateRows",
    "DeletePayloads",
    "EnsureModel",
    "EraseResource",
    "EraseRow",
    "PutPayload",
    "WriteRow",
    "joined",
    "model_is_ready",
]

ROW_OVERHEAD = 512
"""Bytes of a row besides its JSON, record and payload, roughly."""
# Few sizes: each is a statement that is prepared once and kept.
_TOGETHER = (32, 8)


def model_is_ready(database: Database, tables: ModelTables) -> bool:
    """True if all tables and indexes of the model are there, with all columns."""
    return _lacks_nothing(database, tables) and _has_current_row(database, tables)


def _has_current_row(database: Database, tables: ModelTables) -> bool:
    columns = database.execute("SELECT name FROM pragma_table_info(?)", (tables.meta_name,))
    return (CURRENT_ROW,) in columns


def _lacks_nothing(database: Database, tables: ModelTables) -> bool:
    needed = {_created_name(statement) for statement in _statements(tables)}
    values = json.dumps(sorted(needed))
    found = database.execute("SELECT name FROM sqlite_schema WHERE name IN (SELECT value FROM json_each(?))", (values,))
    return len(found) == len(needed)


def _statements(tables: ModelTables) -> list[str]:
    return [*tables.create, *index_statements(tables)]


def _created_name(statement: str) -> str:
    return statement.split('"', 2)[1]


class EnsureModel:
    """Make the tables of a model and the indexes of its declared fields, where they are missing."""

    __slots__ = ("tables",)
    size = 0

    def __init__(self, tables: ModelTables) -> None:
        self.tables: ModelTables = tables

    def run(self, database: Database) -> None:
        if model_is_ready(database, self.tables):
            return
        for statement in _statements(self.tables):
            database.execute(statement)
        if not _has_current_row(database, self.tables):
            database.execute(self.tables.add_current_row)
        shown = self.tables.model.name.encode("utf-8", "backslashreplace").decode()
        database.execute(
            "INSERT OR IGNORE INTO specstar_models (suffix, name) VALUES (?, ?)", (self.tables.suffix, shown)
        )


class WriteRow:
    """One `MetaWrite`, with the payload of its revision where that lies in the database. Encodes at once, in the caller."""

    __slots__ = ("expected", "payload", "revision", "row", "size", "tables")

    def __init__(self, tables: ModelTables, change: MetaWrite, payload: bytes | None = None) -> None:
        meta, revision, expected = change
        self.expected: int | None = expected
        self.tables: ModelTables = tables
        self.row: tuple[Any, ...] = encode_meta(meta)
        self.size: int = ROW_OVERHEAD + len(self.row[-1])
        self.revision: tuple[str, str, str, bytes, bytes | None] | None = None
        if revision is not None:
            info = encode_revision(revision)
            self.revision = (revision.resource_id, revision.revision_id, revision.payload_id, info, payload)
            self.size += len(info) + (len(payload) if payload is not None else 0)

    def values(self) -> tuple[Any, ...] | None:
        """The columns of `ModelTables.write_rows`. None where that statement would not do: for a revision written again."""
        revision, expected = self.revision, self.expected
        if revision is None:
            return None if expected is None else (*self.row, None, None, None, None, expected, None)
        _, revision_id, payload_id, info, payload = revision
        if expected is not None and payload_id != revision_id:
            return None
        return (*self.row, revision_id, payload_id, info, payload, expected, None)

    def run(self, database: Database) -> None:
        tables, row = self.tables, self.row
        if self.expected is None:
            database.execute(tables.insert_meta, row)
        else:
            database.execute(tables.update_meta, (*row[1:], row[0], self.expected))
        if database.changes() == 0:
            raise self._refusal(database)
        if self.revision is not None:
            database.execute(tables.upsert_revision, self.revision)

    def _refusal(self, database: Database) -> Exception:
        resource_id, model = self.row[0], self.tables.model.name
        if self.expected is None:
            return DuplicateResourceError(resource_id, model=model)
        found = database.execute(self.tables.select_version, (resource_id,))
        if not found:
            return ResourceNotFoundError(resource_id, model=model)
        return RevisionConflictError(resource_id, actual_revision_id=found[0][1], model=model)


class CreateRows(Joined):
    """New rows of one model, with their revisions, by one statement each; the result has one entry a row: None or its error.

    SQLite runs such a statement without the interpreter, so that the event loop works on beside it.
    """

    __slots__ = ("operations",)

    def __init__(self, operations: Sequence[WriteRow]) -> None:
        self.operations: Sequence[WriteRow] = operations

    def run(self, database: Database) -> list[SpecstarError | None]:
        tables, count = self.operations[0].tables, len(self.operations)
        rows: list[Any] = []
        revisions: list[Any] = []
        for operation in self.operations:
            rows += operation.row
            revisions += operation.revision or ()
        # Whatever else fails ends the whole transaction, and the savepoint with it.
        database.execute("SAVEPOINT together")
        insert_metas, upsert_revisions = tables.together(count)
        database.execute(insert_metas, rows)
        if new := database.changes() == count:
            database.execute(upsert_revisions, revisions)
        else:
            database.execute("ROLLBACK TO together")
        database.execute("RELEASE together")
        # Where one of them was there already, each goes by itself.
        return [None] * count if new else [_run(operation, database) for operation in self.operations]


def _run(operation: WriteRow, database: Database) -> SpecstarError | None:
    try:
        operation.run(database)
    except SpecstarError as error:
        return error
    return None


def joined(operations: Sequence[Any]) -> Iterator[Any]:
    """The operations in their order, new rows of one model that follow on one another as `CreateRows`."""
    for tables, row in groupby(operations, _new_row_in):
        left = list(row)
        for size in _TOGETHER if tables is not None else ():
            while len(left) >= size:
                yield CreateRows(left[:size])
                del left[:size]
        yield from left


def _new_row_in(operation: Any) -> ModelTables | None:
    """The tables in which this is a new row with its revision."""
    if type(operation) is WriteRow and operation.expected is None and operation.revision is not None:
        return operation.tables
    return None


class EraseRow:
    """Remove a resource with its revisions and the payloads in the database.

    The result is the revisions removed, None if there was no such resource.
    """

    __slots__ = ("expected", "resource_id", "tables")
    size = 256

    def __init__(self, tables: ModelTables, resource_id: str, expected: int | None) -> None:
        self.tables: ModelTables = tables
        self.resource_id: str = resource_id
        self.expected: int | None = expected

    def run(self, database: Database) -> Any:
        erased = self.erase(database)
        return None if erased is None else [revision for revision, _ in erased]

    def erase(self, database: Database) -> list[tuple[RevisionInfo, bool]] | None:
        """Do it; the revisions removed, each with True if its payload lies elsewhere."""
        tables, key = self.tables, (self.resource_id,)
        found = database.execute(tables.select_version, key)
        if not found:
            return None
        if self.expected is not None and found[0][0] != self.expected:
            raise RevisionConflictError(self.resource_id, actual_revision_id=found[0][1], model=tables.model.name)
        revisions = [
            (_erased(info, self.resource_id, revision_id, payload_id), bool(elsewhere))
            for revision_id, info, payload_id, elsewhere in database.execute(tables.select_revisions, key)
        ]
        database.execute(tables.delete_revisions, key)
        database.execute(tables.delete_payloads, key)
        database.execute(tables.delete_meta, key)
        return revisions


def _erased(info: bytes, resource_id: str, revision_id: str, payload_id: str) -> RevisionInfo:
    """A revision that is removed. One whose record is damaged has to go too: where its payload is, a column tells."""
    try:
        return decode_revision(info, resource_id, revision_id)
    except DecodeError:
        return RevisionInfo(
            resource_id=resource_id,
            revision_id=revision_id,
            payload_id=payload_id,
            created_time=datetime.min.replace(tzinfo=UTC),
            updated_time=datetime.min.replace(tzinfo=UTC),
        )


class EraseResource(EraseRow):
    """The same; the members of the result are pairs: a revision removed, and True if its payload lies elsewhere."""

    __slots__ = ()

    def run(self, database: Database) -> Any:
        return self.erase(database)


class PutPayload:
    """Store a payload of the resource role; one that is there stays."""

    __slots__ = ("size", "tables", "values")

    def __init__(self, tables: ModelTables, key: PayloadKey, payload: bytes, now: int) -> None:
        self.tables: ModelTables = tables
        self.values: tuple[str, str, int, bytes] = (key.resource_id, key.payload_id, now, payload)
        self.size: int = len(payload) + 256

    def run(self, database: Database) -> None:
        database.execute(self.tables.put_payload, self.values)


class DeletePayloads:
    """Erase payloads of the resource role."""

    __slots__ = ("keys", "size", "tables")

    def __init__(self, tables: ModelTables, keys: Sequence[PayloadKey]) -> None:
        self.tables: ModelTables = tables
        self.keys: Sequence[PayloadKey] = keys
        self.size: int = 128 * len(keys)

    def run(self, database: Database) -> None:
        database.executemany(self.tables.delete_payload, self.keys)
