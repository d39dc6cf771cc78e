"""A blob as a stream: while the caller works on one chunk, a thread reads and checks the next ones."""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import Executor
from contextlib import suppress

import anyio

from specstar.backends.checksums import Check
from specstar.backends.disk.blob_trailer import BlobFile, damaged
from specstar.backends.disk.durable import disk_errors, read_fully
from specstar.errors import SpecstarError
from specstar.roles import BlobInfo, BlobReader
from specstar.runtime import run_in_thread

__all__ = ["DiskBlobReader"]

_CHUNK = 1 << 20
# More would leave the processor's cache before they are wanted, and take fresh memory each.
_AHEAD = 2


class DiskBlobReader(BlobReader):
    """Reads a range. What is read from its first to its last byte is checked.

    `limit` is for the reads that the caller waits for, `ahead` runs the others.
    """

    def __init__(
        self, limit: anyio.CapacityLimiter, ahead: Executor, file: BlobFile, start: int, end: int | None
    ) -> None:
        self.info: BlobInfo = file.info
        self._limit = limit
        self._ahead = ahead
        self._descriptor: int | None = file.descriptor
        self._place = max(start, 0)
        self._end = self.info.size if end is None else min(end, self.info.size)
        whole = self._place == 0 and self._end == self.info.size
        self._check = Check(file.info.file_id, file.xxh3) if whole else None
        self._over = self._place >= self._end and not whole
        # Held by the thread that reads. Chunks are added at the right only under it, and taken at the left by the caller.
        self._reading = threading.Lock()
        self._ready: deque[bytes] = deque()
        self._fault: SpecstarError | None = None
        self._closing = False

    async def read(self) -> bytes:
        if not self._ready and not self._over:
            await run_in_thread(self._fill, 1, limiter=self._limit)
        if self._ready:
            chunk = self._ready.popleft()
            if not self._over and not self._reading.locked():
                with suppress(RuntimeError):  # the connection is closed, or there is no thread left: not ahead, then
                    self._ahead.submit(self._fill, _AHEAD)
            return chunk
        if self._fault is not None:
            raise self._fault
        return b""

    def _fill(self, chunks: int) -> None:
        """See that so many chunks are ready, or the end is reached."""
        with self._reading:
            while len(self._ready) < chunks and not self._over and self._descriptor is not None:
                try:
                    self._read(self._descriptor)
                except SpecstarError as error:
                    self._fault = error
                    self._over = True
        if self._closing:
            self._close()

    def _read(self, descriptor: int) -> None:
        size = min(_CHUNK, self._end - self._place)
        with disk_errors(self.info.file_id):
            chunk = read_fully(descriptor, size, self._place)
        if len(chunk) < size:
            raise damaged(self.info.file_id)
        self._place += size
        over = self._place == self._end
        if self._check is not None:
            self._check.update(chunk)
            # The last bytes are kept back, so that nobody takes a damaged blob for complete.
            if over and not self._check.passed():
                raise damaged(self.info.file_id)
        if chunk:
            self._ready.append(chunk)
        self._over |= over

    async def aclose(self) -> None:
        self._closing = self._over = True
        self._ready.clear()
        self._close()

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        """Close the file, or leave it to the thread that reads at this moment."""
        if self._reading.acquire(blocking=False):
            try:
                descriptor, self._descriptor = self._descriptor, None
                if descriptor is not None:
                    # A file opened for reading closes without waiting for the disk.
                    os.close(descriptor)
            finally:
                self._reading.release()
