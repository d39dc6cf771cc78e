"""Changes into the parameters of batch statements: one list a column, in the order of the statement. On the hot path.

`rows` has the other way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from specstar.backends.postgres.copies import copy_head
from specstar.backends.postgres.statements import REVISION_COLUMNS
from specstar.config.encoding import Encoding
from specstar.errors import InvalidInputError
from specstar.roles.records import ResourceMeta, RevisionInfo, RevisionStatus
from specstar.roles.storage import Advance, StorageWrite

__all__ = ["advance_columns", "columns_of", "encode_indexed", "row_columns"]

_encode = msgspec.json.Encoder().encode
_STABLE, _JSON = RevisionStatus.stable, Encoding.json


def encode_indexed(indexed: dict[str, Any], resource_id: str) -> str:
    """The indexed fields as JSON text. Raises `InvalidInputError` for what JSONB cannot hold."""
    if not indexed:
        return "{}"
    try:
        encoded = _encode(indexed)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInputError(
            f"indexed fields of {resource_id!r} cannot be stored: {error}", field="indexed_data"
        ) from error
    if b"\\u0000" in encoded and _holds_nul(indexed):
        raise InvalidInputError(
            f"an indexed field of {resource_id!r} holds a NUL, which JSONB cannot", field="indexed_data"
        )
    return encoded.decode()


def _holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_holds_nul(part) for pair in value.items() for part in pair)
    return isinstance(value, (list, tuple)) and any(_holds_nul(part) for part in value)


def columns_of(items: Sequence[tuple[StorageWrite, str]], *, update: bool) -> list[list[Any]]:
    """The parameters of a batch write: one list a column, in the order of the statement.

    None stands for what goes without saying: see `statements.INCOMING`. A column that is None throughout is empty.
    """
    metas = [item.change.meta for item, _ in items]
    columns: list[list[Any]] = [
        [meta.resource_id for meta in metas],
        [meta.current_revision_id for meta in metas],
        [None if meta.revision_count == 1 else meta.revision_count for meta in metas],
        [None if meta.version == 1 else meta.version for meta in metas],
        *(_made(metas) if not update else _moved(metas)),
        [meta.is_deleted or None for meta in metas],
        [meta.schema_version for meta in metas],
        [indexed for _, indexed in items],
    ]
    revisions = [_revision_values(item.change.meta, item.change.revision) for item, _ in items]
    columns += map(list, zip(*revisions, strict=True))
    columns.append([item.payload for item, _ in items])
    columns.append([_copy_head(values, item.payload) for values, (item, _) in zip(revisions, items, strict=True)])
    if update:
        columns.append([item.change.expected_version for item, _ in items])
    return _lean(columns)


def row_columns(items: Sequence[tuple[StorageWrite, str]]) -> list[list[Any]]:
    """The parameters of a batch of updates without revisions, in the order of `statements.ROW_COLUMNS`."""
    metas = [item.change.meta for item, _ in items]
    return _lean(
        [
            [meta.resource_id for meta in metas],
            [meta.current_revision_id for meta in metas],
            [None if meta.revision_count == 1 else meta.revision_count for meta in metas],
            [meta.version for meta in metas],
            [meta.updated_time for meta in metas],
            [meta.updated_by or None for meta in metas],
            [meta.is_deleted or None for meta in metas],
            [meta.schema_version for meta in metas],
            [indexed for _, indexed in items],
            [item.change.expected_version for item, _ in items],
        ]
    )


def advance_columns(items: Sequence[tuple[Advance, str]]) -> list[list[Any]]:
    """The parameters of a batch of advances, in the order of the statement, with None for a stable revision in JSON by
    nobody."""
    revisions = [item.revision for item, _ in items]
    statuses = [None if revision.status is _STABLE else revision.status._value_ for revision in revisions]
    encodings = [None if revision.encoding is _JSON else revision.encoding._value_ for revision in revisions]
    return _lean(
        [
            [revision.resource_id for revision in revisions],
            [revision.parent_revision_id for revision in revisions],
            [revision.revision_id for revision in revisions],
            statuses,
            encodings,
            [revision.size for revision in revisions],
            [revision.updated_time for revision in revisions],
            [revision.updated_by or None for revision in revisions],
            [revision.schema_version for revision in revisions],
            [indexed for _, indexed in items],
            [item.payload for item, _ in items],
            [
                _advance_head(item, status, encoding)
                for (item, _), status, encoding in zip(items, statuses, encodings, strict=True)
            ],
        ]
    )


def _lean(columns: list[list[Any]]) -> list[list[Any]]:
    """An array of None alone goes as an empty one."""
    count = len(columns[0])
    return [[] if column[0] is None and column.count(None) == count else column for column in columns]


def _made(metas: list[ResourceMeta]) -> tuple[list[Any], ...]:
    """Times and users of new rows."""
    return (
        [meta.created_time for meta in metas],
        [None if meta.updated_time is meta.created_time else meta.updated_time for meta in metas],
        [meta.created_by or None for meta in metas],
        [None if meta.updated_by == meta.created_by else meta.updated_by for meta in metas],
    )


def _moved(metas: list[ResourceMeta]) -> tuple[list[Any], ...]:
    """Times and users of changed rows, whose creation stays what it was."""
    nothing = [None] * len(metas)
    return (
        nothing,
        [meta.updated_time for meta in metas],
        nothing,
        [meta.updated_by or None for meta in metas],
    )


_NO_REVISION = (None,) * len(REVISION_COLUMNS)


def _copy_head(values: tuple[Any, ...], payload: bytes | None) -> bytes | None:
    """For the copy of a revision in its row, if it is current and comes with its payload."""
    if payload is None or values is _NO_REVISION or values[0] is not None:
        return None
    return copy_head(values[1:], payload)


def _advance_head(item: Advance, status: str | None, encoding: str | None) -> bytes | None:
    """The same for an advance, whose revision has the times and users that the row has from then on."""
    revision, payload = item.revision, item.payload
    if payload is None:
        return None
    same = (None, None, None, None)
    return copy_head(
        (revision.parent_revision_id, None, status, encoding, revision.size, *same, revision.schema_version), payload
    )


def _revision_values(meta: ResourceMeta, revision: RevisionInfo | None) -> tuple[Any, ...]:
    if revision is None:
        return _NO_REVISION
    revision_id, time, user = revision.revision_id, meta.updated_time, meta.updated_by
    return (
        None if revision_id == meta.current_revision_id else revision_id,
        revision.parent_revision_id,
        None if revision.payload_id == revision_id else revision.payload_id,
        None if revision.status is _STABLE else revision.status._value_,
        None if revision.encoding is _JSON else revision.encoding._value_,
        revision.size,
        None if revision.created_time is time else revision.created_time,
        None if revision.updated_time is time else revision.updated_time,
        None if revision.created_by == user else revision.created_by,
        None if revision.updated_by == user else revision.updated_by,
        revision.schema_version,
    )
