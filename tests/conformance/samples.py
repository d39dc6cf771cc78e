"""Rows, revisions and ids that the suites use."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from specstar.query import IndexedField, fields_of
from specstar.roles import MetaWrite, ModelSpec, ResourceMeta, RevisionInfo, RevisionStatus

__all__ = ["HOSTILE_IDS", "HOSTILE_MODELS", "TIME", "Sample", "changed", "created", "model", "revised"]

TIME = datetime(2024, 5, 1, 10, 0, 0, 123456, tzinfo=UTC)
_numbers = itertools.count(1)

# Each must be kept apart from all others, and none may reach a path, a key or SQL.
HOSTILE_IDS = [
    ".",
    "..",
    "../../etc/passwd",
    "/absolute",
    "a/b",
    "a\\b",
    "a b",
    " lead",
    "trail ",
    "\\0",
    "%00",
    "%2e%2e",
    "\\x00",
    "a\tb\nc",
    "case",
    "CASE",
    "Case",
    "é",  # one code point
    "e\u0301",  # the same, decomposed
    "ﬁ",  # a ligature, equal to "fi" under NFKC
    "fi",
    "İstanbul",
    "ß",
    "ss",
    "\u200d",
    "👩‍👩‍👧",
    "\U0010ffff",
    "\ufeffbom",
    "CON",
    "aux.txt",
    "nul",
    "select",
    "'; DROP TABLE meta; --",
    '"quoted"',
    "`back`",
    "$(id)",
    "${HOME}",
    "*?[a]",
    "~",
    "~root",
    "-rf",
    "null",
    "true",
    "0",
    "00",
    "0.0",
    "1e3",
    "1000",
    "_blobs",
    "specstar.sqlite3",
    "x" * 1024,
    "x" * 1023,
    "é" * 512,
    "\U0001f600" * 256,
]
HOSTILE_MODELS = [
    "User",
    "user",
    "USER",
    "us.er",
    "us_er",
    "../User",
    "a" * 300,
    "a" * 299 + "b",
    "Größe",
    "Gro\u0308ße",
    "select",
    'x"; DROP TABLE y; --',
    "pg_catalog",
    "sqlite_master",
    "模型",
    " ",
    "_",
]


class Sample(msgspec.Struct, kw_only=True):
    """The model whose fields the searches use."""

    name: str | None = None
    age: int | float | None = None
    active: bool | None = None
    tags: list[str | int] = []
    address: dict[str, Any] = {}
    any: Any = None


def model(
    name: str = "Sample", fields: tuple[str, ...] = ("name", "age", "active", "tags", "address.city", "any")
) -> ModelSpec:
    """The model with its indexed fields."""
    indexed: tuple[IndexedField, ...] = fields_of(Sample, list(fields))
    return ModelSpec(name=name, indexed_fields=indexed)


def created(resource_id: str | None = None, /, *, deleted: Any = False, **indexed: Any) -> MetaWrite:
    """The write of a new resource. Times grow by a second with each call."""
    number = next(_numbers)
    resource_id = f"r-{number:08d}" if resource_id is None else resource_id
    revision_id = f"rev-{number:08d}"
    now = TIME + timedelta(seconds=number)
    meta = ResourceMeta(
        resource_id=resource_id,
        current_revision_id=revision_id,
        created_time=now,
        updated_time=now,
        created_by="alice",
        updated_by="bob",
        is_deleted=deleted,
        schema_version="7",
        indexed_data={key.replace("__", "."): value for key, value in indexed.items()},
    )
    return MetaWrite(meta, _revision(meta, revision_id), None)


def revised(before: MetaWrite, /, **indexed: Any) -> MetaWrite:
    """The write of another revision, on condition that `before` still stands."""
    number = next(_numbers)
    meta = msgspec.structs.replace(
        before.meta,
        current_revision_id=f"rev-{number:08d}",
        revision_count=before.meta.revision_count + 1,
        version=before.meta.version + 1,
        updated_time=TIME + timedelta(seconds=number),
        indexed_data=indexed or before.meta.indexed_data,
    )
    return MetaWrite(meta, _revision(meta, meta.current_revision_id), before.meta.version)


def changed(before: MetaWrite, /, **fields: Any) -> MetaWrite:
    """A write of the row alone: delete, restore, switch."""
    meta = msgspec.structs.replace(before.meta, version=before.meta.version + 1, **fields)
    return MetaWrite(meta, None, before.meta.version)


def _revision(meta: ResourceMeta, revision_id: str) -> RevisionInfo:
    return RevisionInfo(
        resource_id=meta.resource_id,
        revision_id=revision_id,
        parent_revision_id=None,
        payload_id=f"p-{revision_id}",
        status=RevisionStatus.stable,
        size=12,
        created_time=meta.updated_time,
        updated_time=meta.updated_time,
        created_by="alice",
        updated_by="bob",
        schema_version="7",
    )
