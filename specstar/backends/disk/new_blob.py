"""A blob on its way in: a temporary file, and the checksums of what has been written to it.

The SHA-256 takes longest, and the trailer does without it: much at once is written, sealed and fsynced beside the hash.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue

from specstar.backends.checksums import Checksums
from specstar.backends.disk.beside import beside
from specstar.backends.disk.blob_trailer import Trailer, packed
from specstar.backends.disk.durable import TempFolder, disk_errors, start_writing, write_fully
from specstar.roles import BlobInfo

__all__ = ["PARALLEL", "NewBlob", "UnreadableSource"]

PARALLEL = 1 << 20
"""Below so many bytes a second thread costs more than it saves."""
# Smaller ones cost the file system more, and two threads the interpreter.
_PIECE = 1 << 20
# After so many bytes the disk begins, and need not wait for fsync: it and the hash work at the same time.
_BEGUN_AT_ONCE = 8 << 20
_FICLONE = 0x40049409


class UnreadableSource(Exception):
    """What is to become a blob cannot be read; `reason` tells why. Not an `OSError`: those are of the disk of the blobs."""

    def __init__(self, reason: OSError) -> None:
        self.reason = reason
        super().__init__(str(reason))


class NewBlob:
    """A blob being written to a temporary file by one thread at a time. Ends with `BlobFiles.keep`, or `drop`."""

    def __init__(self, temps: TempFolder, content_type: str) -> None:
        with disk_errors(temps.path):
            descriptor, path = temps.create()
        self.path: Path = path
        self._temps = temps
        self._descriptor: int | None = descriptor
        self.size: int = 0
        self._begun = 0
        self._content_type = content_type
        self._sums = Checksums()
        self._trailer: Trailer | None = None
        self._open = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append, and hash."""
        with disk_errors(self.path):
            self._put(data)
        self._sums.update(data)

    def _put(self, data: bytes | bytearray | memoryview) -> None:
        write_fully(self.descriptor, data)
        self.size += len(data)
        if self.size - self._begun >= _BEGUN_AT_ONCE:
            start_writing(self.descriptor, self._begun, self.size - self._begun)
            self._begun = self.size

    def write_all(self, data: bytes) -> None:
        """All of the content at once."""
        if len(data) < PARALLEL:
            self.write(data)
            return
        with disk_errors(self.path), beside(lambda: self._sums.sha256.update(data)):
            view = memoryview(data)
            for start in range(0, len(view), _BEGUN_AT_ONCE):
                piece = view[start : start + _BEGUN_AT_ONCE]
                self._put(piece)
                self._sums.xxh3.update(piece)
            self._seal()

    def copy(self, sources: Iterable[int], *, clone: bool = False) -> None:
        """The rest of open files as the content; the hash follows on what has been copied. Raises `UnreadableSource`.

        `clone`: there is one, and its blocks may be shared.
        """
        copied: SimpleQueue[int | None] = SimpleQueue()
        with disk_errors(self.path), beside(lambda: self._follow(copied)):
            try:
                for source in sources:
                    if clone and self._clone(source):
                        self._append(self.descriptor, copied, cloned=True)
                    else:
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
        while count := _read(source, buffer):
            piece = buffer[:count]
            if cloned:
                self.size += count
            else:
                self._put(piece)
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

    def rest(self) -> None:
        """Close the file until the next `write`: very many that are written at once would use up the descriptors."""
        with disk_errors(self.path):
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)

    @property
    def descriptor(self) -> int:
        """The open file."""
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        return self._descriptor

    def finish(self) -> BlobInfo:
        """Make the file durable as a blob, and say what it is."""
        with disk_errors(self.path):
            trailer = self._trailer or self._seal()
        return trailer.info(self._sums.sha256.hexdigest())

    def drop(self) -> None:
        """Close and remove the temporary file; once more does nothing."""
        if self._open:
            self._open = False
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                with suppress(OSError):
                    os.close(descriptor)
            self._temps.drop(self.path)


def _read(source: int, buffer: memoryview) -> int:
    try:
        return os.readv(source, [buffer])
    except OSError as error:
        raise UnreadableSource(error) from error
