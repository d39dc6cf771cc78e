"""Payload files from the event loop: calls that are awaited together share a thread job and the fsync of their folders."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import cast

from specstar.backends.disk.connection import DiskConnection
from specstar.backends.disk.payload_files import PayloadFiles
from specstar.backends.sqlite.lanes import Lanes
from specstar.backends.sqlite.reads import ListPayloads
from specstar.backends.sqlite.tables import ModelTables
from specstar.errors import DecodeError
from specstar.roles import PayloadKey, StoredPayload
from specstar.runtime import Batcher, Home, left_in_order, portions, run_in_thread

__all__ = ["PayloadFileLane", "payload_pages"]

_Write = tuple[PayloadKey, bytes]
_MAX_FILES = 32
_PAGE = 1000
_IN_FLIGHT = 3


def _size_of(write: _Write) -> int:
    return len(write[1])


class PayloadFileLane:
    """The payload files of one model, from one home."""

    def __init__(self, home: Home, connection: DiskConnection, suffix: str) -> None:
        self._files = PayloadFiles(connection.root, suffix, connection.temps)
        self._limit = connection.file_limit
        self._batch_bytes = connection.batch_bytes
        name = f"{connection.root}: payload files"
        self._writes: Batcher[_Write, None] = Batcher(
            home,
            self._flush_writes,
            name=name,
            max_items=_MAX_FILES,
            max_bytes=connection.batch_bytes,
            max_in_flight=_IN_FLIGHT,
            size_of=_size_of,
            key_of=lambda item: item[0],
        )
        self._reads: Batcher[PayloadKey, bytes | None] = Batcher(
            home, self._flush_reads, name=name, max_items=_MAX_FILES, max_in_flight=_IN_FLIGHT
        )

    async def write(self, key: PayloadKey, payload: bytes) -> None:
        """Store one payload, durably."""
        await self._writes.submit((key, payload))

    async def write_many(self, items: Sequence[_Write]) -> None:
        """Store several payloads, durably."""
        for portion in portions(items, _size_of, max_bytes=self._batch_bytes, max_items=_MAX_FILES):
            await self._run_writes(portion)

    async def read(self, key: PayloadKey) -> bytes | None:
        """A payload, or None. Raises `DecodeError` for a damaged file."""
        return await self._reads.submit(key)

    async def read_many(self, keys: Sequence[PayloadKey]) -> list[bytes | None]:
        """Several payloads. Raises `DecodeError` for a damaged file."""
        found: list[bytes | None] = []
        for payload in await self.try_many(keys):
            if isinstance(payload, DecodeError):
                raise payload
            found.append(payload)
        return found

    async def try_many(self, keys: Sequence[PayloadKey]) -> list[bytes | DecodeError | None]:
        """Several payloads, each by itself: an error in the place of a damaged one."""
        found: list[bytes | DecodeError | None] = []
        for start in range(0, len(keys), _MAX_FILES):
            found += await self._run_reads(keys[start : start + _MAX_FILES])
        return found

    async def delete(self, keys: Sequence[PayloadKey]) -> None:
        """Erase payloads."""
        if keys:
            await run_in_thread(self._files.delete, keys, limiter=self._limit)

    async def sweep(self, older_than_seconds: float) -> int:
        """Remove temporary files of this root that are older; returns how many."""
        return await run_in_thread(self._files.sweep, older_than_seconds, limiter=self._limit)

    async def pages(self) -> AsyncIterator[list[StoredPayload]]:
        """All payload files."""
        for folder in await run_in_thread(self._files.outer_folders, limiter=self._limit):
            page = await run_in_thread(self._files.scan, folder, limiter=self._limit)
            if page:
                yield page

    async def _run_writes(self, items: list[_Write]) -> None:
        await run_in_thread(self._files.write, items, limiter=self._limit)

    async def _run_reads(self, keys: Sequence[PayloadKey]) -> list[bytes | DecodeError | None]:
        return await run_in_thread(self._files.read, keys, limiter=self._limit)

    async def _flush_writes(self, items: list[_Write]) -> list[None]:
        await self._run_writes(items)
        return [None] * len(items)

    async def _flush_reads(self, keys: list[PayloadKey]) -> list[bytes | Exception | None]:
        return cast("list[bytes | Exception | None]", await self._run_reads(keys))


async def payload_pages(
    lanes: Lanes, tables: ModelTables, files: PayloadFileLane
) -> AsyncIterator[list[StoredPayload]]:
    """All payloads of a model, page by page: those in the database, then those in files."""
    after = 0
    while True:
        after, page = await lanes.search(ListPayloads(tables, after, _PAGE))
        if not page:
            break
        yield page
    async with left_in_order(files.pages()) as pages:
        async for page in pages:
            yield page
