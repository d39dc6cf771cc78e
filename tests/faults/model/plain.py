"""What the managers do, in plain Python: dictionaries, and the rules of the documentation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from specstar.errors import (
    DuplicateResourceError,
    InvalidInputError,
    ResourceDeletedError,
    ResourceNotFoundError,
    RevisionConflictError,
    RevisionStateError,
)

__all__ = ["Op", "PlainBlobs", "PlainJobs", "PlainResources", "Row", "Rule", "User"]


class User(msgspec.Struct):
    name: str
    age: int = 0
    tags: list[str] = []


class Rule(Exception):
    """What the real call must raise."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__(error.__name__)
        self.error = error


@dataclass(frozen=True)
class Op:
    """One call on one resource. `expected`: the condition, "current", "stale" or none. `pick`: which revision is meant."""

    kind: str
    resource_id: str
    data: User = field(default_factory=lambda: User("nobody"))
    status: str = "stable"
    expected: str | None = None
    pick: int = 0
    patch: dict[str, Any] = field(default_factory=dict)
    user: str = ""


@dataclass(frozen=True)
class Revision:
    revision_id: str
    data: User
    status: str
    created_by: str
    updated_by: str
    parent: str | None


@dataclass(frozen=True)
class Row:
    """A resource as it must be found. `version` counts its changes."""

    revisions: tuple[Revision, ...]
    current_id: str
    deleted: bool
    version: int
    created_by: str
    updated_by: str

    @property
    def current(self) -> Revision:
        return next(revision for revision in self.revisions if revision.revision_id == self.current_id)

    def revision_id(self, pick: int) -> str:
        """One of its revisions, or now and then one that it does not have."""
        ids = [revision.revision_id for revision in self.revisions]
        return [*ids, "no such revision"][pick % (len(ids) + 1)]

    def expected_id(self, expected: str | None) -> str | None:
        """The id for a condition: the current one, or one that is not current."""
        if expected == "stale":
            others = [revision.revision_id for revision in self.revisions if revision.revision_id != self.current_id]
            return others[0] if others else "another revision"
        return self.current_id if expected else None


class PlainResources:
    """The resources of one model."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    def row(self, resource_id: str) -> Row:
        if resource_id not in self.rows:
            raise Rule(ResourceNotFoundError)
        return self.rows[resource_id]

    def change(self, op: Op, new_revision_id: str) -> Row | None:
        """The row after a change, None if it is gone. Raises `Rule` for a change that must be refused.

        `new_revision_id` is what the real call gave its new revision.
        """
        if op.kind == "create":
            if op.resource_id in self.rows:
                raise Rule(DuplicateResourceError)
            first = Revision(new_revision_id, op.data, op.status, op.user, op.user, None)
            return Row((first,), new_revision_id, False, 1, op.user, op.user)
        row = self.row(op.resource_id)
        if op.kind == "permanently_delete":
            self._check(row, op)
            return None
        if row.deleted and op.kind != "restore":
            raise Rule(ResourceDeletedError)
        self._check(row, op)
        changed: Row = getattr(self, f"_{op.kind}")(row, op, new_revision_id)
        return changed if changed is row else replace(changed, version=row.version + 1, updated_by=op.user)

    @staticmethod
    def _check(row: Row, op: Op) -> None:
        if op.kind != "restore" and row.expected_id(op.expected) not in (None, row.current_id):
            raise Rule(RevisionConflictError)

    @staticmethod
    def _update(row: Row, op: Op, new_id: str) -> Row:
        added = Revision(new_id, op.data, op.status, op.user, op.user, row.current_id)
        return replace(row, revisions=(*row.revisions, added), current_id=new_id)

    def _patch(self, row: Row, op: Op, new_id: str) -> Row:
        merged = {**msgspec.to_builtins(row.current.data), **op.patch}
        merged = {name: value for name, value in merged.items() if value is not None}
        try:
            data = msgspec.convert(merged, User)
        except msgspec.ValidationError:
            raise Rule(InvalidInputError) from None
        return self._update(row, replace(op, data=data), new_id)

    @staticmethod
    def _modify(row: Row, op: Op, _: str) -> Row:
        current = row.current
        if current.status != "draft":
            raise Rule(RevisionStateError)
        changed = replace(current, data=op.data, status=op.status, updated_by=op.user)
        return replace(row, revisions=tuple(changed if one is current else one for one in row.revisions))

    @staticmethod
    def _delete(row: Row, op: Op, _: str) -> Row:
        return replace(row, deleted=True)

    @staticmethod
    def _restore(row: Row, op: Op, _: str) -> Row:
        return replace(row, deleted=False) if row.deleted else row

    @staticmethod
    def _switch(row: Row, op: Op, _: str) -> Row:
        wanted = row.revision_id(op.pick)
        if wanted == "no such revision":
            raise Rule(ResourceNotFoundError)
        return row if wanted == row.current_id else replace(row, current_id=wanted)

    def found(self, *, include_deleted: bool) -> dict[str, User]:
        """What a search goes over: the current data by id."""
        return {key: row.current.data for key, row in self.rows.items() if include_deleted or not row.deleted}


class PlainBlobs:
    """Contents by their hash, and the parts of unfinished uploads by number."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.uploads: list[tuple[str, list[bytes]]] = []

    def put(self, data: bytes) -> str:
        file_id = hashlib.sha256(data).hexdigest()
        self.contents[file_id] = data
        return file_id


class PlainJobs:
    """Jobs: payload, key and status by id; `dead` are those among the dead letters."""

    def __init__(self) -> None:
        self.jobs: dict[str, tuple[int, str | None, str]] = {}
        self.dead: set[str] = set()

    def of_key(self, key: str) -> str | None:
        return next((job_id for job_id, (_, known, _) in self.jobs.items() if known == key), None)

    def status(self, job_id: str) -> str:
        return self.jobs[job_id][2]

    def set(self, job_id: str, status: str) -> None:
        number, key, _ = self.jobs[job_id]
        self.jobs[job_id] = (number, key, status)

    def with_status(self, *statuses: str) -> list[str]:
        return [job_id for job_id, (_, _, status) in self.jobs.items() if status in statuses]
