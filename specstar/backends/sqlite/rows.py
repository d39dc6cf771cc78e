"""Meta rows and revision records as SQLite values, and back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from specstar.config.encoding import Encoding
from specstar.errors import DecodeError, InvalidInputError
from specstar.query import micros_of, time_of
from specstar.roles import ResourceMeta, RevisionInfo, RevisionStatus
from specstar.roles.records import unreadable_revision

__all__ = [
    "META_COLUMNS",
    "decode_current",
    "decode_meta",
    "decode_revision",
    "encode_indexed",
    "encode_meta",
    "encode_revision",
]

META_COLUMNS = (
    "resource_id",
    "current_revision_id",
    "revision_count",
    "version",
    "created_time",
    "updated_time",
    "created_by",
    "updated_by",
    "is_deleted",
    "schema_version",
    "indexed",
)


class _Record(msgspec.Struct, array_like=True, gc=False):
    """What the columns of a revision do not say. None: as the field before it, or as the revision's id."""

    created_time: datetime
    updated_time: datetime | None
    size: int
    status: RevisionStatus
    encoding: Encoding
    parent_revision_id: str | None
    payload_id: str | None
    created_by: str
    updated_by: str | None
    schema_version: str | None


_encode_json = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder(dict[str, Any]).decode
_encode_revision = msgspec.msgpack.Encoder().encode
_decode_record = msgspec.msgpack.Decoder(_Record).decode
# Schema version 1 had all twelve fields by their names: a map, by its first byte.
_decode_map = msgspec.msgpack.Decoder(RevisionInfo).decode
_MAP = b"\x8c"


def encode_indexed(indexed_data: dict[str, Any]) -> str:
    """The indexed fields as JSON text. Raises `InvalidInputError` for values that have no JSON form."""
    try:
        return _encode_json(indexed_data).decode()
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise InvalidInputError(f"an indexed value cannot be stored: {error}", field="indexed_data") from error


def encode_meta(meta: ResourceMeta) -> tuple[Any, ...]:
    """The values of `META_COLUMNS`. Raises `InvalidInputError` for values that have no JSON form."""
    created, updated = meta.created_time, meta.updated_time
    created_micros = micros_of(created)
    return (
        meta.resource_id,
        meta.current_revision_id,
        meta.revision_count,
        meta.version,
        created_micros,
        created_micros if updated is created else micros_of(updated),
        meta.created_by,
        meta.updated_by,
        meta.is_deleted,
        meta.schema_version,
        encode_indexed(meta.indexed_data),
    )


def decode_meta(row: Sequence[Any]) -> ResourceMeta:
    """A row from the values of `META_COLUMNS`, which lead the sequence. Raises `DecodeError`."""
    try:
        return ResourceMeta(
            resource_id=row[0],
            current_revision_id=row[1],
            revision_count=row[2],
            version=row[3],
            created_time=time_of(row[4]),
            updated_time=time_of(row[5]),
            created_by=row[6],
            updated_by=row[7],
            is_deleted=row[8] != 0,
            schema_version=row[9],
            indexed_data=_decode_json(row[10]),
        )
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as error:
        message = (
            f"the meta row of {row[0]!r} is damaged ({error}): restore it from a backup, or erase the resource with "
            "permanently_delete()"
        )
        raise DecodeError(message, resource_id=str(row[0])) from error


def encode_revision(revision: RevisionInfo) -> bytes:
    """The record of a revision as bytes, without its two ids."""
    created, updated = revision.created_time, revision.updated_time
    by, payload_id = revision.created_by, revision.payload_id
    try:
        return _encode_revision(
            (
                created,
                None if updated == created else updated,
                revision.size,
                revision.status,
                revision.encoding,
                revision.parent_revision_id,
                None if payload_id == revision.revision_id else payload_id,
                by,
                None if revision.updated_by == by else revision.updated_by,
                revision.schema_version,
            )
        )
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise InvalidInputError(f"the revision cannot be stored: {error}", field="revision") from error


def decode_current(data: bytes, meta: ResourceMeta) -> RevisionInfo:
    """The current revision of a row of many: one that does not decode must not hide the others."""
    try:
        return decode_revision(data, meta.resource_id, meta.current_revision_id)
    except DecodeError:
        return unreadable_revision(meta)


def decode_revision(data: bytes, resource_id: str, revision_id: str) -> RevisionInfo:
    """A revision from its record and its ids. Raises `DecodeError`."""
    try:
        if data[:1] == _MAP:
            return _decode_map(data)
        record = _decode_record(data)
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        raise DecodeError(
            f"the record of revision {revision_id!r} of {resource_id!r} is damaged ({error}): restore it from a backup, or "
            "erase the resource with permanently_delete()",
            resource_id=resource_id,
            revision_id=revision_id,
        ) from error
    return RevisionInfo(
        resource_id=resource_id,
        revision_id=revision_id,
        parent_revision_id=record.parent_revision_id,
        payload_id=revision_id if record.payload_id is None else record.payload_id,
        status=record.status,
        encoding=record.encoding,
        size=record.size,
        created_time=record.created_time,
        updated_time=record.created_time if record.updated_time is None else record.updated_time,
        created_by=record.created_by,
        updated_by=record.created_by if record.updated_by is None else record.updated_by,
        schema_version=record.schema_version,
    )
