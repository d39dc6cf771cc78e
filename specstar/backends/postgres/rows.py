"""Records of the driver into structs, and changes into columns; both on the hot path, so by position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from specstar.backends.postgres.statements import META_COLUMNS, REVISION_COLUMNS
from specstar.config.encoding import UNDECODABLE, Encoding
from specstar.errors import DecodeError, InvalidInputError
from specstar.query.values import INT_MAX, INT_MIN
from specstar.roles.records import ResourceMeta, RevisionInfo, RevisionStatus
from specstar.roles.storage import Advance, StorageWrite

if TYPE_CHECKING:
    from specstar.backends.postgres.connection import Row

__all__ = [
    "advance_columns",
    "columns_of",
    "encode_indexed",
    "meta_of",
    "meta_with_revision",
    "meta_with_unknown_revision",
    "revision_of",
    "row_columns",
]

META_WIDTH = len(META_COLUMNS)
REVISION_WIDTH = len(REVISION_COLUMNS)
_JOINED_WIDTH = META_WIDTH + REVISION_WIDTH
_REVISION_NAMES = [name for name, _ in REVISION_COLUMNS]
_PAYLOAD_ID = META_WIDTH + _REVISION_NAMES.index("payload_id")
_STATUS_AT, _ENCODING_AT = _REVISION_NAMES.index("status"), _REVISION_NAMES.index("encoding")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_STABLE, _JSON = RevisionStatus.stable, Encoding.json
# None: what goes without saying, see `statements`.
_STATUS: dict[str | None, RevisionStatus] = {None: _STABLE, **{status.value: status for status in RevisionStatus}}
_ENCODING: dict[str | None, Encoding] = {None: _JSON, **{encoding.value: encoding for encoding in Encoding}}


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
    revisions = [(item.change.meta, item.change.revision) for item, _ in items]
    columns += map(list, zip(*map(_revision_values, revisions), strict=True))
    columns.append([item.payload for item, _ in items])
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
    return _lean(
        [
            [revision.resource_id for revision in revisions],
            [revision.parent_revision_id for revision in revisions],
            [revision.revision_id for revision in revisions],
            [None if revision.status is _STABLE else revision.status._value_ for revision in revisions],
            [None if revision.encoding is _JSON else revision.encoding._value_ for revision in revisions],
            [revision.size for revision in revisions],
            [revision.updated_time for revision in revisions],
            [revision.updated_by or None for revision in revisions],
            [revision.schema_version for revision in revisions],
            [indexed for _, indexed in items],
            [item.payload for item, _ in items],
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


_NO_REVISION = (None,) * REVISION_WIDTH


def _revision_values(pair: tuple[ResourceMeta, RevisionInfo | None]) -> tuple[Any, ...]:
    meta, revision = pair
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


def meta_of(row: Row) -> ResourceMeta:
    """The meta row in the first columns of a record."""
    (
        resource_id,
        current_revision_id,
        revision_count,
        version,
        created_time,
        updated_time,
        created_by,
        updated_by,
        is_deleted,
        schema_version,
        indexed,
    ) = row[:META_WIDTH]
    return ResourceMeta(
        resource_id=resource_id,
        current_revision_id=current_revision_id,
        revision_count=revision_count,
        version=version,
        created_time=created_time,
        updated_time=created_time if updated_time is None else updated_time,
        created_by=created_by,
        updated_by=created_by if updated_by is None else updated_by,
        is_deleted=is_deleted,
        schema_version=schema_version,
        indexed_data=_indexed(indexed, resource_id) if indexed != "{}" else {},
    )


def _indexed(indexed: str, resource_id: str) -> dict[str, Any]:
    try:
        data = _decode(indexed)
    except UNDECODABLE as error:
        message = f"the indexed fields of {resource_id!r} are damaged: {error}"
        raise DecodeError(message, resource_id=resource_id) from error
    for part in data.values():
        kind = type(part)
        if kind is dict or kind is list or (kind is int and not INT_MIN <= part <= INT_MAX):
            return {name: _doubles_back(value) for name, value in data.items()}
    return data


def _doubles_back(value: Any) -> Any:
    """JSONB spells large doubles as whole numbers (1e300 as 1 and 300 zeros): beyond 64 bits they are doubles again."""
    if type(value) is int:
        return value if INT_MIN <= value <= INT_MAX else float(value)
    if isinstance(value, dict):
        return {name: _doubles_back(part) for name, part in value.items()}
    return [_doubles_back(part) for part in value] if isinstance(value, list) else value


def revision_of(resource_id: str, row: Row, start: int) -> RevisionInfo:
    """The revision in the columns of a record from `start` on."""
    return _revision(resource_id, row[start : start + REVISION_WIDTH], None)


def meta_with_revision(row: Row) -> tuple[ResourceMeta, RevisionInfo | None]:
    """The first columns of a record of the joined tables: the meta row and, if there is one, its revision.

    NULL stands for what the row has said before: see `statements._SAID_BEFORE`.
    """
    meta = meta_of(row)
    if row[_PAYLOAD_ID] is None:
        return meta, None
    return meta, _revision(meta.resource_id, row[META_WIDTH:_JOINED_WIDTH], meta)


def meta_with_unknown_revision(row: Row) -> tuple[ResourceMeta, RevisionInfo]:
    """The same for a revision whose status or encoding this version does not know: as stable, and in JSON."""
    meta = meta_of(row)
    columns = list(row[META_WIDTH:_JOINED_WIDTH])
    columns[_STATUS_AT] = columns[_ENCODING_AT] = None
    return meta, _revision(meta.resource_id, columns, meta)


def _revision(resource_id: str, columns: Row, meta: ResourceMeta | None) -> RevisionInfo:
    (
        revision_id,
        parent_revision_id,
        payload_id,
        status,
        encoding,
        size,
        created_time,
        updated_time,
        created_by,
        updated_by,
        schema_version,
    ) = columns
    if meta is not None:
        time, user = meta.updated_time, meta.updated_by
        if revision_id is None:
            revision_id = meta.current_revision_id
        if created_time is None:
            created_time = time
        if updated_time is None:
            updated_time = time
        if created_by is None:
            created_by = user
        if updated_by is None:
            updated_by = user
    try:
        known_status, known_encoding = _STATUS[status], _ENCODING[encoding]
    except KeyError as error:
        raise DecodeError(
            f"revision {revision_id!r} of {resource_id!r} has an unknown status or encoding {error}",
            resource_id=resource_id,
            revision_id=revision_id,
        ) from error
    return RevisionInfo(
        resource_id=resource_id,
        revision_id=revision_id,
        parent_revision_id=parent_revision_id,
        payload_id=payload_id,
        status=known_status,
        encoding=known_encoding,
        size=size,
        created_time=created_time,
        updated_time=updated_time,
        created_by=created_by,
        updated_by=updated_by,
        schema_version=schema_version,
    )
