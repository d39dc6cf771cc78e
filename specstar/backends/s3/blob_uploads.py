"""Upload sessions: a record in the bucket, so that any process can go on with them and finish them.

`{blob_prefix}_uploads/{id}/session` says what was announced and, later, which blob it became; the bytes lie beside it, as
`data` (a client's PUT) or as numbered chunks (through us).
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

import msgspec

from specstar.backends.checksums import Checksums, Sums
from specstar.backends.s3.answers import bare_etag
from specstar.backends.s3.blob_layout import BlobLayout, metadata_of, new_info
from specstar.backends.s3.blob_writer import S3BlobWriter
from specstar.backends.s3.connection import S3Connection
from specstar.backends.s3.errors import ObjectMissing, PreconditionFailed, RequestFailed
from specstar.backends.s3.multipart import copy_object
from specstar.backends.s3.options import S3Options
from specstar.backends.s3.resource_store import delete_page, object_pages
from specstar.config.encoding import UNDECODABLE
from specstar.errors import (
    BlobIntegrityError,
    BlobNotFoundError,
    InvalidInputError,
    OutcomeUnknownError,
    SpecstarError,
)
from specstar.roles import BlobInfo, UploadSession
from specstar.roles.uploads import being_finalized, finalized_already, no_session, not_announced, nothing_uploaded

__all__ = ["Uploads"]

_RANGE = 4 << 20
_AHEAD_BYTES, _MOST_AHEAD = 3 * _RANGE, 16
# What is forgotten is found again in the bucket.
_SESSIONS_KEPT = 1000


class _Span(NamedTuple):
    """A part of an object."""

    key: str
    start: int
    end: int


def _spans_of(key: str, size: int) -> list[_Span]:
    return [_Span(key, start, min(start + _RANGE, size)) for start in range(0, size, _RANGE)]


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    method: Literal["proxy", "single_put"]
    content_type: str
    size: int | None = None
    file_id: str | None = None
    expires_time: datetime | None = None
    aborted: bool = False


class Uploads:
    """The upload sessions of one blob store."""

    def __init__(self, options: S3Options, layout: BlobLayout) -> None:
        self._options = options
        self._layout = layout
        self._bucket = layout.bucket
        # The next chunk of the sessions that this process has in hand, and who appends at the moment.
        self._appending: dict[str, asyncio.Lock] = {}
        self._next: dict[str, int] = {}
        self._finalizing: Counter[str] = Counter()

    async def create(self, connection: S3Connection, *, content_type: str, size: int | None) -> UploadSession:
        """Reserve a session; the URL of a "single_put" one takes exactly the announced size and type."""
        upload_id = secrets.token_hex(16)
        method = self._options.upload_method
        expiry = self._options.presigned_url_expiry
        expires = datetime.now(UTC) + timedelta(seconds=expiry) if method == "single_put" else None
        record = _Record(method=method, content_type=content_type, size=size, expires_time=expires)
        await self._save(connection, upload_id, record)
        if method == "proxy":
            return UploadSession(upload_id=upload_id, method=method, content_type=content_type)
        headers = {"Content-Type": content_type}
        params: dict[str, Any] = {"Bucket": self._bucket, "Key": self._data(upload_id), "ContentType": content_type}
        if size is not None:
            params["ContentLength"] = size
            headers["Content-Length"] = str(size)
        url = await connection.client.generate_presigned_url("put_object", Params=params, ExpiresIn=expiry)
        return UploadSession(
            upload_id=upload_id,
            method=method,
            content_type=content_type,
            url=url,
            headers=headers,
            expires_time=expires,
        )

    def _folder(self, upload_id: str) -> str:
        folder = self._layout.session(upload_id)
        if folder is None:
            raise no_session(upload_id)
        return folder

    def _data(self, upload_id: str) -> str:
        return f"{self._folder(upload_id)}data"

    async def _save(self, connection: S3Connection, upload_id: str, record: _Record) -> None:
        await connection.call(
            "put_object", Bucket=self._bucket, Key=f"{self._folder(upload_id)}session", Body=msgspec.json.encode(record)
        )

    async def _load(self, connection: S3Connection, upload_id: str) -> _Record:
        try:
            answer = await connection.call("get_object", Bucket=self._bucket, Key=f"{self._folder(upload_id)}session")
            record = msgspec.json.decode(answer["Body"], type=_Record)
        except ObjectMissing:
            raise no_session(upload_id) from None
        except UNDECODABLE as error:
            raise BlobIntegrityError(
                f"the record of upload {upload_id} is damaged: {error}", file_id=upload_id
            ) from error
        if record.aborted:
            raise no_session(upload_id)
        return record

    async def may_come(self, connection: S3Connection, upload_id: str, now: float) -> bool:
        """True while the client of a session may still begin to send: `now` by the clock of the server, who decides that."""
        try:
            record = await self._load(connection, upload_id)
        except (BlobNotFoundError, BlobIntegrityError):
            return False
        return record.file_id is None and record.expires_time is not None and record.expires_time.timestamp() > now

    async def append(self, connection: S3Connection, upload_id: str, data: bytes) -> None:
        """Add the next chunk. Several processes may add to one session, each chunk whole, in the order of their requests."""
        folder = self._folder(upload_id)
        lock = self._appending.setdefault(upload_id, asyncio.Lock())
        try:
            async with lock:
                if upload_id in self._finalizing:
                    raise being_finalized(upload_id)
                number = self._next.get(upload_id)
                known = number is not None
                if number is None:
                    record = await self._load(connection, upload_id)
                    if record.method != "proxy":
                        raise InvalidInputError("this session takes its bytes by a PUT to its url", field="upload_id")
                    if record.file_id is not None:
                        raise finalized_already(upload_id)
                    number = 1 + max((number for number, _ in await self._chunks(connection, folder)), default=0)
                number = await self._put_chunk(connection, folder, number, data)
                if known:
                    await self._still_there(connection, upload_id)
                self._next[upload_id] = number + 1
        finally:
            if not lock.locked() and upload_id not in self._next:
                self._appending.pop(upload_id, None)
        if len(self._next) > _SESSIONS_KEPT:
            oldest = next(iter(self._next))
            held = self._appending.get(oldest)
            if held is None or not held.locked():
                self._forget(oldest)

    async def _still_there(self, connection: S3Connection, upload_id: str) -> None:
        """Another process may have aborted the session since this one looked: nothing it takes then is ever a blob."""
        try:
            await self._load(connection, upload_id)
        except BlobNotFoundError:
            self._forget(upload_id)
            await self._drop(connection, upload_id, but="session")
            raise

    async def _put_chunk(self, connection: S3Connection, folder: str, number: int, data: bytes) -> int:
        """Store a chunk under the next free number; returns the number."""
        token = secrets.token_hex(8)
        while True:
            key = f"{folder}chunk-{number:010d}"
            try:
                await connection.call(
                    "put_object", Bucket=self._bucket, Key=key, Body=data, Metadata={"token": token}, IfNoneMatch="*"
                )
                return number
            except PreconditionFailed:
                if await self._is_ours(connection, key, token):
                    return number  # our own attempt, whose answer was lost
                number += 1
            except RequestFailed as error:
                if not error.sent:
                    raise
                with suppress(SpecstarError):
                    if await self._is_ours(connection, key, token):
                        return number
                # Sent again, they might be there twice.
                upload_id = self._layout.session_of(key)
                message = f"whether the bytes belong to upload {upload_id} is not known: {error}; abort it"
                raise OutcomeUnknownError(message, role="blob", backend="s3") from error

    async def _is_ours(self, connection: S3Connection, key: str, token: str) -> bool:
        held = await connection.call("head_object", Bucket=self._bucket, Key=key)
        return bool(held.get("Metadata", {}).get("token") == token)

    async def _chunks(self, connection: S3Connection, folder: str) -> list[tuple[int, dict[str, Any]]]:
        entries = [entry async for page in object_pages(connection, self._bucket, f"{folder}chunk-") for entry in page]
        return sorted((int(entry["Key"].rpartition("-")[2]), entry) for entry in entries)

    @property
    def in_hand(self) -> frozenset[str]:
        """The sessions that this process finalizes."""
        return frozenset(self._finalizing)

    async def finalize(self, connection: S3Connection, upload_id: str) -> BlobInfo:
        """Make the blob, once; later calls find the record of it."""
        self._folder(upload_id)  # refuses what is no id
        async with self._appending.setdefault(upload_id, asyncio.Lock()):
            # Counted: one caller may give up while another goes on.
            self._finalizing[upload_id] += 1
        try:
            return await self._finalize(connection, upload_id)
        finally:
            self._finalizing[upload_id] -= 1
            if not self._finalizing[upload_id]:
                del self._finalizing[upload_id]
                self._forget(upload_id)

    async def _finalize(self, connection: S3Connection, upload_id: str) -> BlobInfo:
        record = await self._load(connection, upload_id)
        try:
            if record.file_id is None:
                info = await (self._from_put if record.method == "single_put" else self._from_chunks)(
                    connection, upload_id, record
                )
                await self._save(connection, upload_id, msgspec.structs.replace(record, file_id=info.file_id))
                await self._drop(connection, upload_id, but="session")
                return info
        except (BlobNotFoundError, ObjectMissing):
            # Another process may have finalized, and removed the bytes that we were reading.
            record = await self._load(connection, upload_id)
            if record.file_id is None:
                raise nothing_uploaded(upload_id) from None
        found = await self._layout.find(connection, str(record.file_id))
        if found is None:
            raise BlobNotFoundError(str(record.file_id))
        return found

    async def _from_put(self, connection: S3Connection, upload_id: str, record: _Record) -> BlobInfo:
        key = self._data(upload_id)
        try:
            held = await connection.call("head_object", Bucket=self._bucket, Key=key)
        except ObjectMissing:
            if record.size == 0:
                return await self._from_chunks(connection, upload_id, record)  # of which there are none
            raise
        size, etag = held["ContentLength"], held["ETag"]
        _check_size(upload_id, record, size)
        try:
            sums = await self._hash(connection, key, size, etag)
            file_id = sums.file_id
            info = await self._layout.find(connection, file_id)
            if info is not None:
                return info
            info = new_info(file_id, size, record.content_type)
            await copy_object(
                connection,
                bucket=self._bucket,
                source=key,
                key=self._layout.key(file_id),
                etag=etag,
                size=size,
                content_type=record.content_type,
                metadata=metadata_of(info, sums),
                at_once=self._options.part_concurrency,
            )
        except PreconditionFailed:
            raise BlobIntegrityError(
                "the client uploaded again meanwhile; finalize once more", file_id=upload_id
            ) from None
        return info

    async def _hash(self, connection: S3Connection, key: str, size: int, etag: str) -> Sums:
        """The checksums of an object, by reading it with a few ranges ahead."""
        found = Checksums()
        seen = 0

        async def take(data: bytes) -> None:
            nonlocal seen
            seen += len(data)
            await connection.in_thread(found.update, data)

        await self._read_ahead(connection, _spans_of(key, size), take, IfMatch=bare_etag(etag))
        if seen != size:
            raise BlobIntegrityError(f"{seen} bytes came for {size}")
        return found.sums()

    async def _read_ahead(
        self,
        connection: S3Connection,
        spans: Sequence[_Span],
        take: Callable[[bytes], Awaitable[None]],
        **conditions: Any,
    ) -> None:
        """Read parts of objects, a few at the same time, and hand them on in order."""

        async def fetch(span: _Span) -> bytes:
            part = f"bytes={span.start}-{span.end - 1}"
            answer = await connection.call("get_object", Bucket=self._bucket, Key=span.key, Range=part, **conditions)
            body: bytes = answer["Body"]
            return body

        ahead: deque[tuple[int, asyncio.Task[bytes]]] = deque()
        held = 0
        try:
            for span in [*spans, None]:
                if span is not None:
                    ahead.append((span.end - span.start, connection.start(fetch(span))))
                    held += span.end - span.start
                while ahead and (span is None or held > _AHEAD_BYTES or len(ahead) > _MOST_AHEAD):
                    with connection.closing_is_unavailable():
                        data = await ahead[0][1]
                    held -= ahead.popleft()[0]
                    await take(data)
        finally:
            tasks = [task for _, task in ahead]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _from_chunks(self, connection: S3Connection, upload_id: str, record: _Record) -> BlobInfo:
        chunks = await self._chunks(connection, self._folder(upload_id))
        # An `abort` may have removed a part of them before it was interrupted.
        if (not chunks and record.size != 0) or [number for number, _ in chunks] != list(range(1, len(chunks) + 1)):
            raise BlobNotFoundError(upload_id)
        size = sum(entry["Size"] for _, entry in chunks)
        _check_size(upload_id, record, size)
        writer = S3BlobWriter(connection, self._options, self._layout, content_type=record.content_type, size_hint=size)
        try:
            spans = [span for _, entry in chunks for span in _spans_of(entry["Key"], entry["Size"])]
            await self._read_ahead(connection, spans, writer.write)
            info = await writer.commit()
        finally:
            await writer.abort()
        if info.size != size:
            raise BlobIntegrityError(f"{info.size} bytes were read of {size}", file_id=info.file_id)
        return info

    async def abort(self, connection: S3Connection, upload_id: str) -> None:
        """Drop a session with all that it uploaded; its record last, so that what is left can be found."""
        if self._layout.session(upload_id) is None:
            return
        self._forget(upload_id)
        with suppress(BlobNotFoundError, BlobIntegrityError):
            # Said first: what is left if this is interrupted must not become a blob.
            record = await self._load(connection, upload_id)
            await self._save(connection, upload_id, msgspec.structs.replace(record, aborted=True))
        await self._drop(connection, upload_id, but="session")
        await connection.call("delete_object", Bucket=self._bucket, Key=f"{self._folder(upload_id)}session")

    async def _drop(self, connection: S3Connection, upload_id: str, *, but: str) -> None:
        folder = self._folder(upload_id)
        async for page in object_pages(connection, self._bucket, folder):
            await delete_page(
                connection, self._bucket, [entry["Key"] for entry in page if entry["Key"] != folder + but]
            )

    def _forget(self, upload_id: str) -> None:
        self._next.pop(upload_id, None)
        self._appending.pop(upload_id, None)


def _check_size(upload_id: str, record: _Record, size: int) -> None:
    if record.size is not None and size != record.size:
        raise not_announced(upload_id, announced=record.size, received=size)
