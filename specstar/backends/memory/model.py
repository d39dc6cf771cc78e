"""The resources of one model in dictionaries, and the search index that follows them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from specstar.backends.sqlite.database import Database, Operation
from specstar.backends.sqlite.rows import encode_meta
from specstar.backends.sqlite.tables import ModelTables
from specstar.backends.sqlite.writes import EnsureModel
from specstar.errors import DuplicateResourceError, ResourceNotFoundError, RevisionConflictError
from specstar.roles import MetaWrite, ModelSpec, PayloadKey, ResourceMeta, RevisionInfo, StoredRevision

__all__ = ["IndexJob", "MemoryModel", "PayloadTable", "Row", "SearchIndex"]

# payload, time of writing
PayloadTable = dict[PayloadKey, tuple[bytes, float]]


class Row(Protocol):
    """A `StoredRevision` whose revision or payload may be None: kept elsewhere, or never written."""

    @property
    def meta(self) -> ResourceMeta: ...
    @property
    def revision(self) -> RevisionInfo | None: ...
    @property
    def payload(self) -> bytes | None: ...


class MemoryModel:
    """Rows, revisions and payloads of one model. Used on one event loop at a time; only index jobs run in a thread.

    A row is immutable and replaced as a whole, so that a search that runs beside writes sees each row as it was written.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec: ModelSpec = spec
        self.rows: dict[str, Any] = {}
        # All revisions of those resources that have, or had, more than one: id to record and payload.
        self.history: dict[str, dict[str, tuple[RevisionInfo, bytes | None]]] = {}
        self.index: SearchIndex | None = None
        self._changed: dict[str, None] = {}

    def declare(self, spec: ModelSpec) -> None:
        """Take over a declaration with other indexed fields; the index is made again when next used."""
        if spec != self.spec:
            self.spec = spec
            self.drop_index()

    def apply(self, change: MetaWrite, payload: bytes | None) -> None:
        """Make one change. Raises what `MetaStore.write` raises."""
        meta, revision, expected = change
        resource_id = meta.resource_id
        row = self.rows.get(resource_id)
        if expected is None:
            if row is not None:
                raise DuplicateResourceError(resource_id, model=self.spec.name)
            if revision is not None and revision.revision_id != meta.current_revision_id:
                self.history[resource_id] = {revision.revision_id: (revision, payload)}
                revision = payload = None
            self.rows[resource_id] = StoredRevision(meta, revision, payload)  # type: ignore[arg-type]
        else:
            if row is None:
                raise ResourceNotFoundError(resource_id, model=self.spec.name)
            if row.meta.version != expected:
                actual = row.meta.current_revision_id
                raise RevisionConflictError(resource_id, actual_revision_id=actual, model=self.spec.name)
            current = self._revise(row, meta, revision, payload)
            self.rows[resource_id] = StoredRevision(meta, *current)  # type: ignore[arg-type]
        if self.index is not None:
            self._changed[resource_id] = None

    def _revise(
        self, row: Row, meta: ResourceMeta, revision: RevisionInfo | None, payload: bytes | None
    ) -> tuple[RevisionInfo | None, bytes | None]:
        """Record a revision; returns the one that `meta` points to."""
        if revision is None and row.meta.current_revision_id == meta.current_revision_id:
            return row.revision, row.payload
        history = self.history.get(meta.resource_id)
        if history is None:
            history = self.history[meta.resource_id] = {}
            if row.revision is not None:
                history[row.revision.revision_id] = (row.revision, row.payload)
        if revision is not None:
            before = history.get(revision.revision_id)
            if payload is None and before is not None and before[0].payload_id == revision.payload_id:
                payload = before[1]
            history[revision.revision_id] = (revision, payload)
        return history.get(meta.current_revision_id, (None, None))

    def erase(self, resource_id: str, expected: int | None) -> list[RevisionInfo] | None:
        """Remove a resource; returns its revisions, None if there is none. Raises `RevisionConflictError`."""
        row = self.rows.get(resource_id)
        if row is None:
            return None
        if expected is not None and row.meta.version != expected:
            actual = row.meta.current_revision_id
            raise RevisionConflictError(resource_id, actual_revision_id=actual, model=self.spec.name)
        revisions = self.revisions(resource_id)
        del self.rows[resource_id]
        self.history.pop(resource_id, None)
        if self.index is not None:
            self._changed[resource_id] = None
        return revisions

    def revision(self, row: Row, revision_id: str) -> tuple[RevisionInfo, bytes | None] | None:
        """One revision of a resource, with its payload."""
        if row.revision is not None and row.revision.revision_id == revision_id:
            return row.revision, row.payload
        return self.history.get(row.meta.resource_id, {}).get(revision_id)

    def with_revision(
        self, resource_id: str, revision_id: str | None
    ) -> tuple[ResourceMeta, RevisionInfo | None] | None:
        """A row and the record of one revision (None: the current one), where there is one."""
        row = self.rows.get(resource_id)
        if row is None:
            return None
        if revision_id is None:
            return row.meta, row.revision
        found = self.revision(row, revision_id)
        return row.meta, None if found is None else found[0]

    def revisions(self, resource_id: str) -> list[RevisionInfo]:
        """All revisions of a resource, oldest first."""
        history = self.history.get(resource_id)
        if history is not None:
            return [history[key][0] for key in sorted(history)]
        row = self.rows.get(resource_id)
        return [row.revision] if row is not None and row.revision is not None else []

    def begin_job(self, operations: Sequence[Operation]) -> IndexJob:
        """What a search needs, taken on the event loop: the index, and the rows that changed since it was used."""
        if self.index is None:
            self.index = SearchIndex(self.spec)
            self._changed = dict.fromkeys(self.rows)
        changed, self._changed = self._changed, {}
        rows = self.rows
        return IndexJob(self.index, [(key, rows.get(key)) for key in changed], operations)

    def drop_index(self) -> None:
        """Give the index up; the next search makes it anew."""
        self.index = None
        self._changed = {}

    def close(self) -> None:
        """Drop everything."""
        self.rows.clear()
        self.history.clear()
        self.drop_index()


class SearchIndex:
    """A SQLite database in memory with the meta rows of a model, and the rows as they were when it was last updated."""

    def __init__(self, spec: ModelSpec) -> None:
        self.tables: ModelTables = ModelTables(spec)
        self.rows: dict[str, Any] = {}
        self.lock: threading.Lock = threading.Lock()
        self._database: Database | None = None

    @property
    def database(self) -> Database:
        if self._database is None:
            self._database = Database.in_memory(f"memory index of {self.tables.meta_name}")
            self._database.write([EnsureModel(self.tables)])
        return self._database

    def update(self, changed: Iterable[tuple[str, Any]]) -> None:
        """Bring these rows up to date; None as a row: erased."""
        written, erased = [], []
        for resource_id, row in changed:
            if row is None:
                self.rows.pop(resource_id, None)
                erased.append((resource_id,))
            else:
                self.rows[resource_id] = row
                written.append(encode_meta(row.meta))
        database = self.database
        with database.transaction():
            if written:
                database.executemany(self.tables.replace_meta, written)
            if erased:
                database.executemany(self.tables.delete_meta, erased)


class IndexJob:
    """One update of the index and the searches after it. `run` is called in a thread."""

    def __init__(self, index: SearchIndex, changed: list[tuple[str, Any]], operations: Sequence[Operation]) -> None:
        self.index = index
        self.changed = changed
        self._operations = operations

    def run(self) -> list[Any]:
        """One entry an operation: its result, or its own error."""
        with self.index.lock:
            if self.changed:
                self.index.update(self.changed)
            return self.index.database.read(self._operations)
