"""A small current revision once more in the row of its resource: one page to read instead of two, one index instead of two.

The row names the version that the copy was made for. One of another version is not looked at: whoever changes a row and
knows nothing of copies, an earlier specstar or an administrator, leaves none that lies.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

__all__ = ["COPY_COLUMNS", "Head", "copy_head", "split_copy"]

COPY_COLUMNS: tuple[tuple[str, str], ...] = (("revision_copy", "bytea"), ("copied_version", "bigint"))
"""Name and type. The copy is its head with two bytes of length before it, then the payload."""

# A row stays far below the 2 KB from which PostgreSQL moves its columns elsewhere, and searches read not much more.
_LARGEST_PAYLOAD = 512
_LARGEST_HEAD = 512
_LENGTH_BYTES = 2
# Nearly all of it cannot be written either: the answer to the write tells which of a batch it is.
_REFUSED = (UnicodeError, OverflowError, ValueError, TypeError)


class Head(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The columns of a revision but its id, in their order; None as `rows` says, and for the id of its payload."""

    parent_revision_id: str | None
    payload_id: str | None
    status: str | None
    encoding: str | None
    size: int
    created_time: datetime | None
    updated_time: datetime | None
    created_by: str | None
    updated_by: str | None
    schema_version: str | None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Head).decode


def copy_head(revision: tuple[Any, ...], payload: bytes | None) -> bytes | None:
    """What goes before the payload in a copy of this revision, which is current; None if it is too large to be copied.

    `revision` holds the columns as they are written, without the id.
    """
    if payload is not None and len(payload) > _LARGEST_PAYLOAD:
        return None
    try:
        head = _encode(revision)
    except _REFUSED:
        return None
    return len(head).to_bytes(_LENGTH_BYTES) + head if len(head) <= _LARGEST_HEAD else None


def split_copy(copy: bytes) -> tuple[Head, bytes]:
    """A copied revision and its payload. Raises `msgspec.MsgspecError` for bytes that are no copy."""
    start = _LENGTH_BYTES + (copy[0] << 8) + copy[1]
    return _decode(copy[_LENGTH_BYTES:start]), copy[start:]
