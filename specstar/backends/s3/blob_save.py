"""A blob into a local file: a range a thread job, hashed and written while the next ones come in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from specstar.backends.s3.blob_reader import S3BlobReader
from specstar.errors import BlobIntegrityError
from specstar.roles import BlobInfo
from specstar.runtime import NewFile, clean_up, run_in_thread

__all__ = ["save_blob"]

_CLEANUP_SECONDS = 30.0


async def save_blob(reader: S3BlobReader, path: Path) -> BlobInfo:
    """Copy the whole blob of a new reader, which is closed. Raises like a reader, and `InvalidInputError` like `NewFile`."""
    check = reader.check
    begun: list[NewFile] = []

    def append(pieces: Sequence[bytes]) -> None:
        for piece in pieces:
            check.update(piece)
            begun[0].write(piece)

    def end() -> None:
        if not check.passed():
            raise BlobIntegrityError(
                "the stored bytes do not match the checksum of the blob", file_id=reader.info.file_id
            )
        begun[0].keep()

    async def leave() -> None:
        await reader.aclose()
        for new in begun:
            await run_in_thread(new.drop)

    try:
        # These threads are waited for also when cancelled: the file stays open while one writes.
        await run_in_thread(lambda: begun.append(NewFile(path)))
        while pieces := await reader.take():
            await run_in_thread(append, pieces)
        await run_in_thread(end)
    finally:
        await clean_up(leave, seconds=_CLEANUP_SECONDS)
    return reader.info
