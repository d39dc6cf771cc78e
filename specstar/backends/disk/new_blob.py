"""A blob on its way in: a temporary file, and the checksums of what has been written to it.

The SHA-256 takes longest, and the trailer does without it: much at once is written, sealed and fsynced beside the hash.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from queue import SimpleQueue

from specstar.backends.checksums import Checksums
from specstar.backends.disk.beside import beside
from specstar.backends.disk.blob_trailer import Trailer, packed
from specstar.backends.disk.durable import TempFolder, disk_errors, write_fully
from specstar.roles import BlobInfo

__all__ = ["PARALLEL", "NewBlob"]

PARALLEL = 1 << 20
"""Below so many bytes a second thread costs more than it saves."""
# Smaller ones cost the file system more, and two threads the interpreter.
_PIECE = 1 << 20
_FICLONE = 0x40049409


class NewBlob:
    """A blob being written to a temporary file by one thread at a time. Ends with `BlobFiles.keep`, or `drop`."""

    def __init__(self, temps: TempFolder, content_type: str) -> None:
        with disk_errors(temps.path):
            self.descriptor, self.path = temps.create()
        self.size = 0
        self._content_type = content_type
        self._sums = Checksums()
        self._trailer: Trailer | None = None
        self._open = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append, and hash."""
        with disk_errors(self.path):
            write_fully(self.descriptor, data)
        self._sums.update(data)
        self.size += len(data)

    def write_all(self, data: bytes) -> None:
        """All of the content at once."""
        if len(data) < PARALLEL:
            self.write(data)
            return
        with disk_errors(self.path), beside(lambda: self._sums.sha256.update(data)):
            write_fully(self.descriptor, data)
            self._sums.xxh3.update(data)
            self.size = len(data)
            self._seal()

    def copy(self, sources: Sequence[int]) -> None:
        """The rest of open files as the content; the hash follows on what has been copied."""
        copied: SimpleQueue[int | None] = SimpleQueue()
        with disk_errors(self.path), beside(lambda: self._follow(copied)):
            try:
                if len(sources) == 1 and self._clone(sources[0]):
                    self._append(self.descriptor, copied, cloned=True)
                else:
                    for source in sources:
                        self._append(source, copied)
            finally:
                copied.put(None)
            self._seal()

    def _clone(self, source: int) -> bool:
        """Share the blocks of another file, where the file system can."""
        try:
            fcntl.ioctl(self.descriptor, _FICLONE, source)
        except OSError:
            return False
        return True

    def _append(self, source: int, copied: SimpleQueue[int | None], *, cloned: bool = False) -> None:
        buffer = memoryview(bytearray(_PIECE))
        while count := os.readv(source, [buffer]):
            piece = buffer[:count]
            if not cloned:
                write_fully(self.descriptor, piece)
            self.size += count
            copied.put(self.size)
            self._sums.xxh3.update(piece)

    def _follow(self, copied: SimpleQueue[int | None]) -> None:
        buffer = memoryview(bytearray(_PIECE))
        place = 0
        while (end := copied.get()) is not None:
            while place < end:
                # Not of the source: it may change, and the id be that of other bytes than those that were copied.
                count = os.preadv(self.descriptor, [buffer[: end - place]], place)
                if count == 0:
                    raise OSError(errno.EIO, "the copy became shorter while it was written", str(self.path))
                self._sums.sha256.update(buffer[:count])
                place += count

    def _seal(self) -> Trailer:
        """Write the trailer and make the file durable."""
        self._trailer = Trailer(
            size=self.size,
            content_type=self._content_type,
            created_time=datetime.now(UTC),
            xxh3=self._sums.xxh3.hexdigest(),
        )
        write_fully(self.descriptor, packed(self._trailer))
        os.fsync(self.descriptor)
        return self._trailer

    def finish(self) -> BlobInfo:
        """Make the file durable as a blob, and say what it is."""
        with disk_errors(self.path):
            trailer = self._trailer or self._seal()
        return trailer.info(self._sums.sha256.hexdigest())

    def drop(self) -> None:
        """Close and remove the temporary file; once more does nothing."""
        if self._open:
            self._open = False
            with suppress(OSError):
                os.close(self.descriptor)
            with suppress(OSError):
                self.path.unlink()
