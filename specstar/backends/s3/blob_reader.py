"""Blobs on their way out: ranged requests ahead of the reader, all of one version of the object, checked at the end."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TypeVar

from specstar.backends.checksums import Check
from specstar.backends.s3.answers import bare_etag
from specstar.backends.s3.blob_layout import BlobLayout, xxh3_of
from specstar.backends.s3.connection import S3Connection
from specstar.backends.s3.errors import ObjectMissing, PreconditionFailed, RangeRefused
from specstar.errors import BackendUnavailable, BlobIntegrityError, BlobNotFoundError
from specstar.roles import BlobInfo, BlobReader

__all__ = ["S3BlobReader", "open_blob"]

T = TypeVar("T")
_FIRST = 1 << 20
_RANGE = 8 << 20
_HASH_ON_LOOP = 64 << 10


async def open_blob(
    connection: S3Connection, layout: BlobLayout, file_id: str, *, start: int, end: int | None, at_once: int
) -> S3BlobReader:
    """Begin to read; the first megabyte comes with what is known of the blob, in one request."""
    key = layout.key(file_id)
    start = max(0, start)
    last = start + _FIRST if end is None else min(end, start + _FIRST)
    if last > start:
        try:
            answer = await connection.call(
                "get_object", pieces=True, Bucket=layout.bucket, Key=key, Range=f"bytes={start}-{last - 1}"
            )
        except ObjectMissing:
            raise BlobNotFoundError(file_id) from None
        except RangeRefused:
            answer = None
        if answer is not None:
            _, _, total = str(answer.get("ContentRange") or "").rpartition("/")
            size = int(total) if total.isdigit() else answer["ContentLength"]
            info = layout.info(file_id, answer, size=size)
            check = Check(file_id, xxh3_of(answer))
            reader = S3BlobReader(connection, layout.bucket, info, start, _clamped(end, size), check, at_once=at_once)
            reader.feed(key, answer["ETag"], answer["Body"])
            return reader
    found = await layout.find(connection, file_id)
    if found is None:
        raise BlobNotFoundError(file_id)
    nothing = Check(file_id, None)
    return S3BlobReader(connection, layout.bucket, found, found.size, found.size, nothing, at_once=at_once)


def _clamped(end: int | None, size: int) -> int:
    return size if end is None else min(end, size)


class S3BlobReader(BlobReader):
    """Keeps up to `part_concurrency` ranges of 8 MiB in flight or in hand."""

    def __init__(
        self,
        connection: S3Connection,
        bucket: str,
        info: BlobInfo,
        start: int,
        end: int,
        check: Check,
        *,
        at_once: int,
    ) -> None:
        self.info = info
        self._connection = connection
        self._bucket = bucket
        self._at_once = at_once
        self._key = ""
        self._etag = ""
        self._next = start
        self._end = end
        self._left = max(0, end - start)
        self._whole = start == 0 and end == info.size
        self.check = check
        self._ahead: deque[asyncio.Task[list[bytes]]] = deque()
        self._pieces: deque[bytes] = deque()
        self._unchecked: list[bytes] = []
        self._checking: asyncio.Task[None] | None = None
        self._over = False
        self._loop = asyncio.get_running_loop()

    def feed(self, key: str, etag: str, pieces: list[bytes]) -> None:
        """Take the first range, which came with the answer that opened the blob."""
        self._key = key
        self._etag = bare_etag(etag)
        self._unchecked = pieces
        self._next += sum(map(len, pieces))
        self._top_up()

    def _top_up(self) -> None:
        while self._next < self._end and len(self._ahead) < self._at_once:
            # Up to a multiple of the range: servers keep large objects in stripes.
            upto = min((self._next // _RANGE + 1) * _RANGE, self._end)
            self._ahead.append(self._connection.start(self._fetch(self._next, upto)))
            self._next = upto

    async def _fetch(self, start: int, end: int) -> list[bytes]:
        span = f"bytes={start}-{end - 1}"
        try:
            answer = await self._connection.call(
                "get_object", pieces=True, Bucket=self._bucket, Key=self._key, Range=span, IfMatch=self._etag
            )
        except ObjectMissing:
            raise BlobNotFoundError(self.info.file_id) from None
        except PreconditionFailed:
            raise BlobIntegrityError("the blob was replaced while it was read", file_id=self.info.file_id) from None
        pieces: list[bytes] = answer["Body"]
        size = sum(map(len, pieces))
        if size != end - start:
            raise BlobIntegrityError(f"{size} bytes came for {end - start}", file_id=self.info.file_id)
        return pieces

    async def read(self) -> bytes:
        if not self._pieces and not await self._turn():
            return b""
        if self._whole and self._left == len(self._pieces[0]):
            await self._verify()
        piece = self._pieces.popleft()
        self._left -= len(piece)
        return piece

    async def _turn(self) -> bool:
        """Take the next range; False at the end."""
        if self._over or not await self._come():
            return False
        if self._whole:
            await self._check()
        self._pieces.extend(self._unchecked)
        self._unchecked = []
        return True

    async def _come(self) -> bool:
        """Wait for the next range; False at the end."""
        if self._unchecked:
            return True
        if not self._ahead:
            if self._left:
                raise BlobIntegrityError(f"{self._left} bytes of the blob are missing", file_id=self.info.file_id)
            return False
        # Stays the first until it is there: a cancelled read loses nothing.
        pieces = await self._there(self._ahead[0])
        self._ahead.popleft()
        self._unchecked = pieces
        self._top_up()
        return True

    async def _there(self, task: asyncio.Task[T]) -> T:
        """What a task of this reader gives. Raises `BackendUnavailable` if the connection, or its loop, has ended."""
        if self._loop is asyncio.get_running_loop():
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                current = asyncio.current_task()
                if not task.cancelled() or (current is not None and current.cancelling()):
                    raise
        raise BackendUnavailable(
            f"the connection on which blob {self.info.file_id} was opened is closed: open it again", backend="s3"
        )

    async def take(self) -> list[bytes]:
        """The next range as it came, for those who check the whole by themselves, with `check`; empty at the end."""
        if not await self._come():
            return []
        pieces, self._unchecked = self._unchecked, []
        self._left -= sum(map(len, pieces))
        return pieces

    async def _check(self) -> None:
        """Hash the range that came, while its bytes are handed out."""
        await self._hashed()
        if sum(map(len, self._unchecked)) <= _HASH_ON_LOOP:
            self._update(self._unchecked)
        else:
            # A task of its own: a cancelled caller must not make the same bytes count twice.
            self._checking = self._connection.start(self._connection.in_thread(self._update, self._unchecked))

    async def _verify(self) -> None:
        """Before the last piece: see that all of them are the blob."""
        await self._hashed()
        if not self.check.passed():
            self._over = True
            self._pieces.clear()
            raise BlobIntegrityError(
                "the stored bytes do not match the checksum of the blob", file_id=self.info.file_id
            )

    async def _hashed(self) -> None:
        """Wait for the range before."""
        if self._checking is not None:
            await self._there(self._checking)
            self._checking = None

    def _update(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self.check.update(piece)

    async def aclose(self) -> None:
        self._over = True
        self._pieces.clear()
        self._unchecked = []
        tasks, self._ahead = list(self._ahead), deque()
        if self._loop is not asyncio.get_running_loop():
            return  # they ended with their loop
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
