"""Records of the driver into structs; on the hot path, so by position. `columns` has the other way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from specstar.backends.postgres.copies import Head, split_copy
from specstar.backends.postgres.statements import META_COLUMNS, REVISION_COLUMNS
from specstar.config.encoding import UNDECODABLE, Encoding
from specstar.errors import DecodeError
from specstar.query.values import INT_MAX, INT_MIN
from specstar.roles.records import ResourceMeta, RevisionInfo, RevisionStatus

if TYPE_CHECKING:
    from specstar.backends.postgres.connection import Row

__all__ = ["erased_revision_of", "full_parts", "meta_of", "meta_with_revision", "revision_of"]

META_WIDTH = len(META_COLUMNS)
REVISION_WIDTH = len(REVISION_COLUMNS)
_JOINED_WIDTH = META_WIDTH + REVISION_WIDTH
_REVISION_NAMES = [name for name, _ in REVISION_COLUMNS]
_PAYLOAD_ID = META_WIDTH + _REVISION_NAMES.index("payload_id")
_STATUS_AT, _ENCODING_AT = (_REVISION_NAMES.index(name) for name in ("status", "encoding"))

_decode = msgspec.json.Decoder(dict[str, Any]).decode
# None: what goes without saying, see `statements`.
_STATUS: dict[str | None, RevisionStatus] = {
    None: RevisionStatus.stable,
    **{status.value: status for status in RevisionStatus},
}
_ENCODING: dict[str | None, Encoding] = {None: Encoding.json, **{encoding.value: encoding for encoding in Encoding}}


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
        message = (
            f"the indexed fields of {resource_id!r} are damaged ({error}): restore them from a backup, or erase the resource "
            "with permanently_delete()"
        )
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


def erased_revision_of(resource_id: str, row: Row, start: int) -> RevisionInfo:
    """The same of a revision that is gone: what this version does not know of it keeps nobody from its payload."""
    try:
        return revision_of(resource_id, row, start)
    except DecodeError:
        columns = list(row[start : start + REVISION_WIDTH])
        columns[_STATUS_AT] = columns[_ENCODING_AT] = None
        return _revision(resource_id, columns, None)


def meta_with_revision(row: Row) -> tuple[ResourceMeta, RevisionInfo | None]:
    """A record of the joined tables: the meta row and, if there is one, its revision.

    NULL stands for what the row has said before: see `statements._SAID_BEFORE`.
    """
    meta, revision, _ = full_parts(row)
    return meta, revision


def full_parts(row: Row) -> tuple[ResourceMeta, RevisionInfo | None, bytes | None]:
    """The same with the payload, None if it did not come along.

    A record of a row that holds a copy of the revision has that in the place of the payload, and no revision beside it.
    """
    meta = meta_of(row)
    payload: bytes | None = row[_JOINED_WIDTH]
    if row[_PAYLOAD_ID] is not None:
        return meta, _revision(meta.resource_id, row[META_WIDTH:_JOINED_WIDTH], meta), payload
    if payload is None:
        return meta, None, None
    head, payload = _split(meta, payload)
    return meta, _copied(meta, head), payload


def _split(meta: ResourceMeta, copy: bytes) -> tuple[Head, bytes]:
    try:
        return split_copy(copy)
    except (*UNDECODABLE, IndexError) as error:
        resource_id, revision_id = meta.resource_id, meta.current_revision_id
        message = (
            f"the copy of revision {revision_id!r} in the row of {resource_id!r} is damaged ({error}): "
            "set copied_version to NULL in that row, and the revision itself is read"
        )
        raise DecodeError(message, resource_id=resource_id, revision_id=revision_id) from error


def _copied(meta: ResourceMeta, head: Head) -> RevisionInfo:
    resource_id, revision_id = meta.resource_id, meta.current_revision_id
    time, user = meta.updated_time, meta.updated_by
    try:
        status, encoding = _STATUS[head.status], _ENCODING[head.encoding]
    except KeyError as error:
        raise _unknown(resource_id, revision_id, error) from error
    return RevisionInfo(
        resource_id=resource_id,
        revision_id=revision_id,
        parent_revision_id=head.parent_revision_id,
        payload_id=head.payload_id or revision_id,
        status=status,
        encoding=encoding,
        size=head.size,
        created_time=head.created_time or time,
        updated_time=head.updated_time or time,
        created_by=user if head.created_by is None else head.created_by,
        updated_by=user if head.updated_by is None else head.updated_by,
        schema_version=head.schema_version,
    )


def _unknown(resource_id: str, revision_id: str, error: KeyError) -> DecodeError:
    return DecodeError(
        f"revision {revision_id!r} of {resource_id!r} has an unknown status or encoding {error}: if a later version wrote it, "
        "upgrade this program; else restore it from a backup, or erase the resource with permanently_delete()",
        resource_id=resource_id,
        revision_id=revision_id,
    )


def _revision(resource_id: str, columns: Row | list[Any], meta: ResourceMeta | None) -> RevisionInfo:
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
        raise _unknown(resource_id, revision_id, error) from error
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
