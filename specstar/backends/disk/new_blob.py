"""A blob on its way in: a temporary file, and the checksums of what has been written to it."""

from __future__ import annotations

import errno
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
_PIECE = 256 << 10
_COPY = 2 << 20
_NO_COPY = frozenset({errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM})


class NewBlob:
    """A blob being written to a temporary file by one thread at a time. Ends with `BlobFiles.keep`, or `drop`."""

    def __init__(self, temps: TempFolder) -> None:
        with disk_errors(temps.path):
            self.descriptor, self.path = temps.create()
        self.size = 0
        self._sums = Checksums()
        self._open = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append, and hash."""
        with disk_errors(self.path):
            write_fully(self.descriptor, data)
        self._sums.update(data)
        self.size += len(data)

    def write_all(self, data: bytes) -> None:
        """Append much at once: the hash runs beside."""
        if len(data) < PARALLEL:
            self.write(data)
            return
        with disk_errors(self.path), beside(lambda: self._sums.update(data)):
            write_fully(self.descriptor, data)
            # While the hash goes on; the fsync of the trailer then has little left to do.
            os.fsync(self.descriptor)
        self.size += len(data)

    def copy(self, sources: Sequence[int]) -> None:
        """Append the rest of open files, in the kernel where it can; the hash follows on what has been copied."""
        copied: SimpleQueue[int | None] = SimpleQueue()
        with disk_errors(self.path), beside(lambda: self._follow(copied)):
            try:
                for source in sources:
                    while count := self._copy_some(source):
                        self.size += count
                        copied.put(self.size)
            finally:
                copied.put(None)
            if self.size >= PARALLEL:
                # While the hash goes on; the fsync of the trailer then has little left to do.
                os.fsync(self.descriptor)

    def _copy_some(self, source: int) -> int:
        try:
            count = os.copy_file_range(source, self.descriptor, _COPY)
        except OSError as error:
            if error.errno not in _NO_COPY:
                raise
        else:
            if count:
                return count
        # Also where the kernel claims that there is nothing: it does so for files that are made up on reading.
        piece = os.read(source, _PIECE)
        write_fully(self.descriptor, piece)
        return len(piece)

    def _follow(self, copied: SimpleQueue[int | None]) -> None:
        buffer = memoryview(bytearray(_PIECE))
        place = 0
        while (end := copied.get()) is not None:
            while place < end:
                count = os.preadv(self.descriptor, [buffer[: min(_PIECE, end - place)]], place)
                if count == 0:
                    raise OSError(errno.EIO, "the copy became shorter while it was written", str(self.path))
                self._sums.update(buffer[:count])
                place += count

    def finish(self, content_type: str) -> BlobInfo:
        """Write the trailer and make the file durable."""
        sums = self._sums.sums()
        trailer = Trailer(size=self.size, content_type=content_type, created_time=datetime.now(UTC), xxh3=sums.xxh3)
        with disk_errors(self.path):
            write_fully(self.descriptor, packed(trailer))
            os.fsync(self.descriptor)
        return trailer.info(sums.file_id)

    def drop(self) -> None:
        """Close and remove the temporary file; once more does nothing."""
        if self._open:
            self._open = False
            with suppress(OSError):
                os.close(self.descriptor)
            with suppress(OSError):
                self.path.unlink()
