"""How a message lies in a queue: a msgpack array with a version, the fields of `Message`, and its opaque body.

The last field, `copy`, is there if it is not empty.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from specstar.config.encoding import UNDECODABLE
from specstar.errors import DecodeError, InvalidInputError, LimitExceededError
from specstar.roles import Message

__all__ = ["HIGHEST_PRIORITY", "NO_LIMIT", "pack", "unpack"]

VERSION = 1
HIGHEST_PRIORITY = 9
# For what was in a queue before: it may have come in under a larger limit, and must find its way all the same.
NO_LIMIT = 1 << 40


class _Envelope(Struct, frozen=True, array_like=True, gc=False):
    version: int
    id: str
    attempts: int
    priority: int
    partition_key: str | None
    body: bytes
    copy: str = ""
    lineage: str | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Envelope).decode


def pack(message: Message, limit: int) -> bytes:
    """The bytes of a message.

    Raises `LimitExceededError` beyond `limit` bytes, `InvalidInputError` for text that is no UTF-8.
    """
    fields = (
        VERSION,
        message.id,
        message.attempts,
        message.priority,
        message.partition_key,
        message.body,
        message.copy,
        message.lineage,
    )
    try:
        packed = _encode(fields)
    except (UnicodeEncodeError, OverflowError, TypeError) as error:
        raise InvalidInputError(f"this message cannot be sent: {error}", field="message") from error
    if len(packed) > limit:
        raise LimitExceededError(
            f"a message of {len(packed)} bytes; the option max_message_bytes allows {limit}",
            field="body",
            limit=limit,
            actual=len(packed),
        )
    return packed


def unpack(packed: bytes) -> Message:
    """The message in these bytes. Raises `DecodeError` for bytes of another program or version.

    A priority out of range counts as the nearest: it could not be sent again, and its job would never end.
    """
    try:
        version, id_, attempts, priority, partition_key, body, copy, lineage = _fields(_decode(packed))
    except UNDECODABLE as error:
        raise DecodeError(f"not a message of specstar: {error}") from error
    if version != VERSION:
        raise DecodeError(f"a message of version {version}; this specstar reads version {VERSION}", job_id=id_)
    if not 0 <= priority <= HIGHEST_PRIORITY:
        priority = 0 if priority < 0 else HIGHEST_PRIORITY
    return Message(
        id=id_,
        body=body,
        attempts=attempts,
        priority=priority,
        partition_key=partition_key,
        copy=copy,
        lineage=lineage,
    )


def _fields(envelope: _Envelope) -> tuple[int, str, int, int, str | None, bytes, str, str | None]:
    return (
        envelope.version,
        envelope.id,
        envelope.attempts,
        envelope.priority,
        envelope.partition_key,
        envelope.body,
        envelope.copy,
        envelope.lineage,
    )
