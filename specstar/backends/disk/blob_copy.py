"""A blob into a local file: read and checked in one thread, written in another, through two buffers.

Both halves work on bytes that are still in the processor's cache, which makes it no slower than a copy within the kernel.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from queue import SimpleQueue

from specstar.backends.checksums import Check
from specstar.backends.disk.beside import beside
from specstar.backends.disk.blob_trailer import BlobFile, damaged
from specstar.backends.disk.durable import disk_errors, read_fully

__all__ = ["copy_out"]

_SMALL = 256 << 10
# Smaller ones cost the file system more, larger ones and more of them fresh memory.
_PIECE = 1 << 20
_BUFFERS = 2


def copy_out(file: BlobFile, write: Callable[[memoryview], None]) -> None:
    """Hand the whole content to `write`, piece by piece. Raises `BlobIntegrityError` at the end for a damaged blob."""
    check, size = Check(file.info.file_id, file.xxh3), file.info.size
    if size <= _SMALL:
        with disk_errors(file.info.file_id):
            data = read_fully(file.descriptor, size, 0)
        check.update(data)
        write(memoryview(data))
    else:
        _copy_beside(file, check, write)
    if not check.passed():
        raise damaged(file.info.file_id)


def _copy_beside(file: BlobFile, check: Check, write: Callable[[memoryview], None]) -> None:
    free: SimpleQueue[memoryview | None] = SimpleQueue()
    full: SimpleQueue[tuple[memoryview, int] | None] = SimpleQueue()
    for _ in range(_BUFFERS):
        free.put(memoryview(bytearray(_PIECE)))

    def read() -> None:
        place, size = 0, file.info.size
        try:
            while place < size and (buffer := free.get()) is not None:
                with disk_errors(file.info.file_id):
                    count = os.preadv(file.descriptor, [buffer[: size - place]], place)
                if count == 0:
                    return  # the check fails
                place += count
                check.update(buffer[:count])
                full.put((buffer, count))
        finally:
            full.put(None)

    with beside(read):
        try:
            while (entry := full.get()) is not None:
                buffer, count = entry
                write(buffer[:count])
                free.put(buffer)
        finally:
            free.put(None)  # ends the reading when the writing failed
