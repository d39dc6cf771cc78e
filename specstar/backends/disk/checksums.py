"""The two checksums of a blob: SHA-256, which is its id, and XXH3, which finds damage on reading at a tenth of the cost."""

from __future__ import annotations

import hashlib

import xxhash

from specstar.backends.disk.blob_trailer import BlobFile

__all__ = ["Check", "Checksums"]

# What both take in turn stays in the processor's cache.
_PIECE = 256 << 10


class Checksums:
    """Of what is written."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._xxh3 = xxhash.xxh3_128()

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Append."""
        view = memoryview(data)
        for start in range(0, len(view), _PIECE):
            piece = view[start : start + _PIECE]
            self._sha256.update(piece)
            self._xxh3.update(piece)

    @property
    def file_id(self) -> str:
        """The id of a blob with this content."""
        return self._sha256.hexdigest()

    @property
    def xxh3(self) -> str:
        """In hex, for its trailer."""
        return self._xxh3.hexdigest()


class Check:
    """Of what is read from first to last byte: by XXH3, or by SHA-256 where the blob has nothing else."""

    def __init__(self, file: BlobFile) -> None:
        digest = hashlib.sha256() if file.xxh3 is None else xxhash.xxh3_128()
        self._hexdigest = digest.hexdigest
        self._expected = file.info.file_id if file.xxh3 is None else file.xxh3
        self.update = digest.update

    def passed(self) -> bool:
        """True if what was read is what was stored."""
        return self._hexdigest() == self._expected
