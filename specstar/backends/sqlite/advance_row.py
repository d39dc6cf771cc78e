"""The next revision of a resource whose row the caller has not read."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from specstar.backends.sqlite.database import Database
from specstar.backends.sqlite.rows import encode_indexed, encode_revision
from specstar.backends.sqlite.tables import ModelTables
from specstar.backends.sqlite.writes import ROW_OVERHEAD
from specstar.errors import ResourceDeletedError, ResourceNotFoundError, RevisionConflictError
from specstar.query import micros_of, time_of
from specstar.roles import Advance, RevisionInfo

__all__ = ["AdvanceRow"]


class AdvanceRow:
    """One `Advance`, with its payload where that lies in the database. Encodes at once, in the caller.

    The result is the revision as it was written if its times are not those that were asked for, else None.
    """

    __slots__ = ("_indexed", "_info", "_payload", "_revision", "_time", "size", "tables")

    def __init__(self, tables: ModelTables, item: Advance, payload: bytes | None) -> None:
        self.tables: ModelTables = tables
        self._revision = revision = item.revision
        self._time = micros_of(revision.updated_time)
        self._indexed = encode_indexed(item.indexed_data)
        self._info = encode_revision(revision)
        self._payload = payload
        self.size: int = (
            ROW_OVERHEAD + len(self._indexed) + len(self._info) + (len(payload) if payload is not None else 0)
        )

    def values(self) -> tuple[Any, ...]:
        """The columns of `ModelTables.write_rows`: what is None follows from the row that is there."""
        revision = self._revision
        revision_id = revision.revision_id
        return (
            revision.resource_id,
            revision_id,
            None,
            None,
            None,
            self._time,
            None,
            revision.updated_by,
            None,
            revision.schema_version,
            self._indexed,
            revision_id,
            revision.payload_id,
            self._info,
            self._payload,
            None,
            revision.parent_revision_id,
        )

    def run(self, database: Database) -> RevisionInfo | None:
        tables, revision = self.tables, self._revision
        resource_id, model = revision.resource_id, tables.model.name
        found = database.execute(tables.select_head, (resource_id,))
        if not found:
            raise ResourceNotFoundError(resource_id, model=model)
        current, is_deleted, row_time = found[0]
        if is_deleted:
            raise ResourceDeletedError(resource_id, model=model)
        if current != revision.parent_revision_id:
            raise RevisionConflictError(
                resource_id, expected_revision_id=revision.parent_revision_id, actual_revision_id=current, model=model
            )
        time, info, changed = self._time, self._info, None
        if row_time > time:
            # The clock was set back: the times of a resource never are.
            time, later = row_time, time_of(row_time)
            changed = replace(revision, created_time=later, updated_time=later)
            info = encode_revision(changed)
        written = (resource_id, revision.revision_id, revision.payload_id, info, self._payload)
        database.execute(tables.insert_revision, written)
        row = (revision.revision_id, time, revision.updated_by, revision.schema_version, self._indexed, resource_id)
        database.execute(tables.advance_meta, row)
        return changed
