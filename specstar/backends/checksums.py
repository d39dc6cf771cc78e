"""The two checksums of a blob: SHA-256, which is its id, and XXH3, which finds damage on reading at a tenth of the cost."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import xxhash

__all__ = ["Check", "Checksums", "Sums"]

# What both take in turn stays in the processor's cache.
_PIECE = 256 << 10


class Sums(NamedTuple):
    """Of a whole blob, in hex. `file_id` is the SHA-256, `xxh3` the XXH3 of 128 bits."""

    file_id: str
    xxh3: str


class Checksums:
    """Of what is written: both in turn by `update`, or each by itself, in a thread of its own."""

    def __init__(self) -> None:
        self.sha256: hashlib._Hash = hashlib.sha256()
        self.xxh3: xxhash.xxh3_128 = xxhash.xxh3_128()

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Append."""
        view = memoryview(data)
        for start in range(0, len(view), _PIECE):
            piece = view[start : start + _PIECE]
            self.sha256.update(piece)
            self.xxh3.update(piece)

    def sums(self) -> Sums:
        """Of all that was appended."""
        return Sums(self.sha256.hexdigest(), self.xxh3.hexdigest())

    @classmethod
    def of(cls, data: bytes) -> Sums:
        """Of bytes at hand."""
        made = cls()
        made.update(data)
        return made.sums()


class Check:
    """Of what is read from first to last byte: by XXH3, or by SHA-256 where nothing else was stored with the blob."""

    def __init__(self, file_id: str, xxh3: str | None) -> None:
        digest = hashlib.sha256() if xxh3 is None else xxhash.xxh3_128()
        self._hexdigest = digest.hexdigest
        self._expected = file_id if xxh3 is None else xxh3
        self.update: Callable[[bytes | bytearray | memoryview], None] = digest.update

    def passed(self) -> bool:
        """True if what was read is what was stored."""
        return self._hexdigest() == self._expected
