"""The kinds of writes that travel in batches: their statements, their columns, and why one was not made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from msgspec.structs import replace

from specstar.backends.postgres.columns import advance_columns, columns_of, encode_indexed, row_columns
from specstar.errors import (
    DuplicateResourceError,
    LimitExceededError,
    ResourceDeletedError,
    ResourceNotFoundError,
    RevisionConflictError,
    SpecstarError,
    shown,
)
from specstar.roles.meta import MetaWrite
from specstar.roles.records import RevisionInfo
from specstar.roles.storage import Advance, StorageWrite

if TYPE_CHECKING:
    from datetime import datetime

    from specstar.backends.postgres.connection import Row
    from specstar.backends.postgres.statements import MetaSql

__all__ = ["LARGEST", "Kind", "Write", "change_of", "check_size", "kind_of", "narrowed", "size_of", "write_of"]

LARGEST = 1_000_000_000
"""Bytes of a payload with its row."""

_ROW_BYTES = 512


class Write(NamedTuple):
    """A change, with the projection of its payload as JSON text."""

    resource_id: str
    item: StorageWrite | Advance
    indexed: str


def write_of(item: StorageWrite | Advance) -> Write:
    """Raises `InvalidInputError` for indexed values that JSONB cannot hold, `LimitExceededError` for a payload too large."""
    if isinstance(item, Advance):
        resource_id, indexed = item.revision.resource_id, item.indexed_data
    else:
        meta = item.change.meta
        resource_id, indexed = meta.resource_id, meta.indexed_data
    write = Write(resource_id, item, encode_indexed(indexed, resource_id))
    check_size(size_of(write), resource_id)
    return write


def check_size(size: int, resource_id: str) -> None:
    """Raises `LimitExceededError` for what the server would break the connection over: a message of 1 GiB."""
    if size > LARGEST:
        raise LimitExceededError(
            f"{shown(resource_id)} has {size} bytes with its row; PostgreSQL takes at most {LARGEST}",
            field="data",
            limit=LARGEST,
            actual=size,
        )


def size_of(write: Write) -> int:
    """Bytes of the statement's parameters, roughly."""
    payload = write.item.payload
    return _ROW_BYTES + len(write.indexed) + (len(payload) if payload is not None else 0)


def change_of(write: Write) -> MetaWrite | Advance:
    """By what it is found out whether the write was made."""
    item = write.item
    return item if isinstance(item, Advance) else item.change


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """Writes that one statement makes.

    `refusal` says why a write was not made; where it `looks`, from the row that is there: id, current revision, deleted.
    None: what stood against it is gone by now, so it is to be tried again.
    `result` is the answer to one that was made, whose time may be another than was asked for; without it there is none.
    """

    sql: Callable[[MetaSql], str]
    columns: Callable[[Sequence[Any]], list[list[Any]]]
    refusal: Callable[[Write, Row | None, str], SpecstarError | None]
    looks: bool = True
    result: Callable[[Write, datetime | None], RevisionInfo] | None = None


def _taken(write: Write, _row: Row | None, model: str) -> SpecstarError:
    return DuplicateResourceError(write.resource_id, model=model)


def _changed(write: Write, row: Row | None, model: str) -> SpecstarError:
    if row is None:
        return ResourceNotFoundError(write.resource_id, model=model)
    return RevisionConflictError(write.resource_id, actual_revision_id=row[1], model=model)


def _not_advanced(write: Write, row: Row | None, model: str) -> SpecstarError | None:
    if row is None:
        return ResourceNotFoundError(write.resource_id, model=model)
    _, current, deleted = row
    if deleted:
        return ResourceDeletedError(write.resource_id, model=model)
    expected = cast("Advance", write.item).revision.parent_revision_id
    if current == expected:  # restored, or switched back, after the statement
        return None
    return RevisionConflictError(
        write.resource_id, expected_revision_id=expected, actual_revision_id=current, model=model
    )


def _advanced(write: Write, time: datetime | None) -> RevisionInfo:
    revision = cast("Advance", write.item).revision
    return revision if time is None else replace(revision, created_time=time, updated_time=time)


_CREATE = Kind(lambda sql: sql.create, lambda writes: columns_of(_pairs(writes), update=False), _taken, looks=False)
_UPDATE = Kind(lambda sql: sql.update, lambda writes: columns_of(_pairs(writes), update=True), _changed)
_UPDATE_ROWS = Kind(lambda sql: sql.update_rows, lambda writes: row_columns(_pairs(writes)), _changed)
_ADVANCE = Kind(
    lambda sql: sql.advance, lambda writes: advance_columns(_pairs(writes)), _not_advanced, result=_advanced
)


def _pairs(writes: Sequence[Write]) -> list[tuple[Any, str]]:
    return [(item, indexed) for _, item, indexed in writes]


def kind_of(write: Write) -> Kind:
    """The statement that a write belongs to."""
    item = write.item
    if isinstance(item, Advance):
        return _ADVANCE
    return _CREATE if item.change.expected_version is None else _UPDATE


def narrowed(kind: Kind, writes: Sequence[Write]) -> Kind:
    """The cheapest kind that serves all of these writes of one kind: rows alone, if no update brings a revision."""
    if kind is _UPDATE and all(cast("StorageWrite", write.item).change.revision is None for write in writes):
        return _UPDATE_ROWS
    return kind
