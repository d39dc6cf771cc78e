"""What a blob's file says behind the content: metadata as JSON, its length in four bytes, eight bytes of magic."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from datetime import datetime

import msgspec

from specstar.backends.disk.durable import read_fully
from specstar.config.encoding import UNDECODABLE
from specstar.errors import BlobIntegrityError
from specstar.roles import BlobInfo

__all__ = ["BlobFile", "Trailer", "damaged", "packed", "read_trailer"]

_MAGIC = b"SPCBLOB1"
_LENGTH = struct.Struct(">I")
_FOOTER = _LENGTH.size + len(_MAGIC)
_TAIL = 512
_MAX_TRAILER = 4096


class Trailer(msgspec.Struct):
    """`xxh3` is the XXH3 (128 bits) of the content in hex; blobs of early versions have none."""

    size: int
    content_type: str
    created_time: datetime
    xxh3: str | None = None

    def info(self, file_id: str) -> BlobInfo:
        """What users see of it."""
        return BlobInfo(file_id=file_id, size=self.size, content_type=self.content_type, created_time=self.created_time)


_decode_trailer = msgspec.json.Decoder(Trailer).decode


class BlobFile:
    """An open blob: close its descriptor."""

    __slots__ = ("descriptor", "info", "xxh3")

    def __init__(self, descriptor: int, info: BlobInfo, xxh3: str | None) -> None:
        self.descriptor: int = descriptor
        self.info: BlobInfo = info
        self.xxh3: str | None = xxh3


def packed(trailer: Trailer) -> bytes:
    """The bytes to append to the content."""
    data = msgspec.json.encode(trailer)
    return b"".join((data, _LENGTH.pack(len(data)), _MAGIC))


def read_trailer(descriptor: int, file_id: str) -> BlobFile:
    """An open file as a blob. Raises `BlobIntegrityError` for a damaged one, which stays open."""
    whole = os.fstat(descriptor).st_size
    tail = read_fully(descriptor, min(_TAIL, whole), max(whole - _TAIL, 0))
    if len(tail) >= _FOOTER and tail.endswith(_MAGIC):
        (length,) = _LENGTH.unpack_from(tail, len(tail) - _FOOTER)
        start = whole - _FOOTER - length
        if length <= _MAX_TRAILER and start >= 0:
            with suppress(*UNDECODABLE):
                trailer = _decode_trailer(read_fully(descriptor, length, start))
                if trailer.size == start:
                    return BlobFile(descriptor, trailer.info(file_id), trailer.xxh3)
    raise damaged(file_id)


def damaged(file_id: str) -> BlobIntegrityError:
    """The error for a blob whose file is not what was written."""
    return BlobIntegrityError(f"blob {file_id} is damaged; delete it, and put its content again", file_id=file_id)
