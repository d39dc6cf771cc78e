"""Messages out of frames: method, header and body of one channel put together again."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection

from specstar.backends.rabbitmq.intake import BODY, HEADER, METHOD

__all__ = ["ACK", "CLOSE", "DELIVER", "NACK", "RETURN", "Contents", "delivery_of", "settled_by"]

# Class and method, the first four bytes of a method frame.
CLOSE = b"\x00\x14\x00\x28"
RETURN, DELIVER, ACK, NACK = b"\x00\x3c\x00\x32", b"\x00\x3c\x00\x3c", b"\x00\x3c\x00\x50", b"\x00\x3c\x00\x78"
_TAG = struct.Struct(">QB")
_METHOD_BYTES = 4
_SIZE_AT = slice(4, 12)


class Contents:
    """Takes frames of one channel that belong to messages which come by one of `methods`.

    `done` gets the payloads of the method and header frames, and the body.
    """

    __slots__ = ("_done", "_header", "_left", "_method", "_methods", "_pieces")

    def __init__(self, methods: Collection[bytes], done: Callable[[bytes, bytes, bytes], None]) -> None:
        self._methods = frozenset(methods)
        self._done = done
        self._method: bytes | None = None
        self._header = b""
        self._left = 0
        self._pieces: list[bytes] = []

    def __call__(self, kind: int, data: bytes, start: int, stop: int, /) -> bool:
        if kind == METHOD:
            if data[start : start + _METHOD_BYTES] not in self._methods:
                return False
            self._method = data[start:stop]
            return True
        method = self._method
        if method is None:
            return False
        if kind == HEADER:
            self._header = header = data[start:stop]
            self._left = int.from_bytes(header[_SIZE_AT])
            if self._left:
                return True
            body = b""
        elif kind == BODY:
            body = data[start:stop]
            self._left -= len(body)
            if self._left > 0 or self._pieces:
                self._pieces.append(body)
                if self._left > 0:
                    return True
                body = b"".join(self._pieces)
                self._pieces = []
        else:
            return False
        self._method = None
        self._done(method, self._header, body)
        return True


def delivery_of(method: bytes) -> tuple[int, bool]:
    """Delivery tag, and whether it was delivered before, of a Basic.Deliver."""
    # After the consumer's tag, with its length before it.
    tag, redelivered = _TAG.unpack_from(method, _METHOD_BYTES + 1 + method[_METHOD_BYTES])
    return tag, bool(redelivered & 1)


def settled_by(data: bytes, start: int) -> tuple[int, bool]:
    """Delivery tag, and whether it stands for all before it too, of a Basic.Ack or Basic.Nack."""
    tag, bits = _TAG.unpack_from(data, start + _METHOD_BYTES)
    return tag, bool(bits & 1)
