"""A small S3 server in this process whose faults are scripted: what a real server does once in a blue moon, on demand.

It keeps objects in memory, honours conditions on reads and writes, ranges, metadata and multipart uploads, compares bodies
with the hash that was signed or the checksum that follows them, and checks no signature. `script(method, key, number)` is
asked before each request (`number` counts from 1) and may return a `Fault`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import ssl
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["Fault", "ScriptedS3"]


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request.

    `when` "instead": the request has no effect; "after": it has its effect, and then goes wrong. The answer is `status`
    with `code`, or none at all (`status` 0): the connection is reset. `cut`: the good answer, its body cut in the middle.
    `delay` in seconds before anything is answered, or until `released`.
    """

    status: int = 0
    code: str = ""
    when: Literal["instead", "after"] = "instead"
    cut: bool = False
    delay: float = 0.0
    released: asyncio.Event | None = None
    headers: dict[str, str] = field(default_factory=dict)
    message: str = ""

    @property
    def only_late(self) -> bool:
        """True if nothing is wrong with the answer but its time."""
        return (self.delay > 0 or self.released is not None) and not self.status and self.when == "instead"


@dataclass(frozen=True)
class _Object:
    data: bytes
    etag: str
    headers: dict[str, str]


@dataclass(frozen=True)
class _Request:
    method: str
    key: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    checksum: str | None = None


@dataclass(frozen=True)
class _Answer:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


Script = Callable[[str, str, int], Fault | None]


def _nothing_wrong(method: str, key: str, number: int) -> Fault | None:
    return None


class ScriptedS3:
    """`async with ScriptedS3() as server:`, then `server.endpoint_url`; any bucket exists but `missing`."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.objects: dict[str, _Object] = {}
        self.uploads: dict[str, tuple[str, dict[int, bytes], dict[str, str]]] = {}
        self.requests: list[tuple[str, str]] = []
        # Keys of those that waited until they were asked for their body.
        self.asked_for: list[str] = []
        # When objects were written, in listings: seconds after the beginning of 2035.
        self.times: dict[str, float] = {}
        self.script: Script = _nothing_wrong
        self.honours_conditions = True
        self.compares_hashes = True
        # Of the bodies that came with a checksum behind them.
        self.checksums: list[str] = []
        # Head and body of an answer one by one, with this between them.
        self.before_body: Callable[[], Awaitable[object]] | None = None
        self.endpoint_url = ""
        self._numbers = itertools.count(1)
        self._versions = itertools.count(1)
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    def stop_listening(self) -> None:
        """Take no new connections: those that are open go on."""
        assert self._server is not None
        self._server.close()

    async def listen_again(self) -> None:
        """After `stop_listening`, on the same port."""
        await self._listen(urlsplit(self.endpoint_url).port or 0)

    async def _listen(self, port: int) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=self._tls)
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> ScriptedS3:
        self.endpoint_url = f"{'http' if self._tls is None else 'https'}://127.0.0.1:{await self._listen(0)}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.wait_for(self._server.wait_closed(), 5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while (request := await _read_request(reader, writer)) is not None:
                if not await self._one(request, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _one(self, request: _Request, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False to drop the connection."""
        self.requests.append((request.method, request.key))
        if "expect" in request.headers:
            self.asked_for.append(request.key)
        fault = self.script(request.method, request.key, next(self._numbers))
        if fault is not None and fault.delay:
            await asyncio.sleep(fault.delay)
        if fault is not None and fault.released is not None:
            await fault.released.wait()
        fails = fault is not None and not fault.cut and not fault.only_late
        answer = _Answer(500) if fault is not None and fails and fault.when == "instead" else self._handle(request)
        if fault is not None and fails:
            if fault.status == 0:
                return False
            answer = _error(fault.status, fault.code, fault.message, fault.headers)
        body = b"" if request.method == "HEAD" else answer.body
        length = answer.headers.get("Content-Length", str(len(body)))
        head = "".join(f"{name}: {value}\r\n" for name, value in {**answer.headers, "Content-Length": length}.items())
        date = "" if "Date" in answer.headers else f"Date: {formatdate(usegmt=True)}\r\n"
        if fault is not None and fault.cut:
            body = body[: len(body) // 2]
        first = f"HTTP/1.1 {answer.status} X\r\n{date}{head}\r\n".encode()
        if self.before_body is not None:
            writer.write(first)
            await self.before_body()
            writer.write(body)
        else:
            writer.write(first + body)
        await writer.drain()
        return not (fault is not None and fault.cut)

    def put(self, key: str, data: bytes, headers: dict[str, str] | None = None) -> str:
        """Store an object as another writer would; its ETag."""
        etag = f"{hashlib.md5(data).hexdigest()}{next(self._versions):04x}"
        self.objects[key] = _Object(data, etag, headers or {})
        return etag

    def _handle(self, request: _Request) -> _Answer:
        signed = request.headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
        if self.compares_hashes and len(signed) == 64 and hashlib.sha256(request.body).hexdigest() != signed:
            return _error(400, "XAmzContentSHA256Mismatch")
        if request.checksum is not None:
            self.checksums.append(request.checksum)
            if request.checksum != _crc32(request.body):
                return _error(400, "BadDigest")
        if request.key.startswith("missing"):
            return _error(404, "NoSuchBucket")
        if "/" not in request.key:
            return _Answer(200) if request.method == "HEAD" else self._list(request)
        if "uploadId" in request.query or "uploads" in request.query:
            return self._multipart(request)
        match request.method:
            case "PUT":
                return self._put(request)
            case "DELETE":
                self.objects.pop(request.key, None)
                return _Answer(204)
            case "POST":
                return _Answer(200, b"<DeleteResult/>", {"Content-Type": "application/xml"})
            case _:
                return self._get(request)

    def _put(self, request: _Request) -> _Answer:
        held = self.objects.get(request.key)
        if self.honours_conditions:
            if request.headers.get("if-none-match") == "*" and held is not None:
                return _error(412, "PreconditionFailed")
            wanted = request.headers.get("if-match")
            if wanted is not None and held is None:
                return _error(404, "NoSuchKey")
            if wanted is not None and held is not None and held.etag != wanted:
                return _error(412, "PreconditionFailed")
        source = request.headers.get("x-amz-copy-source")
        if source and unquote(source).lstrip("/") not in self.objects:
            return _error(404, "NoSuchKey")
        body = self.objects[unquote(source).lstrip("/")].data if source else request.body
        etag = self.put(request.key, body, _kept(request.headers))
        if source:
            return _Answer(
                200, f"<CopyObjectResult><ETag>{etag}</ETag></CopyObjectResult>".encode(), {"ETag": f'"{etag}"'}
            )
        return _Answer(200, b"", {"ETag": f'"{etag}"'})

    def _get(self, request: _Request) -> _Answer:
        held = self.objects.get(request.key)
        if held is None:
            return _error(404, "NoSuchKey")
        if request.headers.get("if-none-match", "").strip('"') == held.etag:
            return _Answer(304)
        if request.headers.get("if-match", held.etag).strip('"') != held.etag:
            return _error(412, "PreconditionFailed")
        headers = {"ETag": f'"{held.etag}"', "Last-Modified": "Mon, 01 Jan 2035 00:00:00 GMT", **held.headers}
        if request.method == "HEAD":
            return _Answer(200, b"", {**headers, "Content-Length": str(len(held.data))})
        span = request.headers.get("range")
        if span is None and request.headers.get("x-amz-checksum-mode") == "ENABLED":
            headers.setdefault("x-amz-checksum-crc32", _crc32(held.data))
        if span is None:
            return _Answer(200, held.data, headers)
        first, _, last = span.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last) + 1 if last else len(held.data), len(held.data))
        if start >= len(held.data):
            return _error(416, "InvalidRange")
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(held.data)}"
        return _Answer(206, held.data[start:end], headers)

    def _list(self, request: _Request) -> _Answer:
        prefix = request.query.get("prefix", [""])[0]
        rows = "".join(
            f"<Contents><Key>{key.partition('/')[2]}</Key><Size>1</Size><LastModified>{self._time(key)}</LastModified></Contents>"
            for key in sorted(self.objects)
            if key.startswith(f"{request.key}/{prefix}")
        )
        return _Answer(
            200, f"<ListBucketResult>{rows}</ListBucketResult>".encode(), {"Content-Type": "application/xml"}
        )

    def _time(self, key: str) -> str:
        return (datetime(2035, 1, 1, tzinfo=UTC) + timedelta(seconds=self.times.get(key, 0.0))).isoformat()

    def _multipart(self, request: _Request) -> _Answer:
        if "uploads" in request.query:
            upload_id = f"upload{next(self._versions)}"
            self.uploads[upload_id] = (request.key, {}, _kept(request.headers))
            body = f"<R><UploadId>{upload_id}</UploadId></R>"
            return _Answer(200, body.replace("R>", "InitiateMultipartUploadResult>").encode())
        upload_id = request.query["uploadId"][0]
        if upload_id not in self.uploads:
            return _error(404, "NoSuchUpload")
        key, parts, headers = self.uploads[upload_id]
        match request.method:
            case "PUT":
                parts[int(request.query["partNumber"][0])] = request.body
                return _Answer(200, b"", {"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})
            case "DELETE":
                del self.uploads[upload_id]
                return _Answer(204)
            case "POST":
                del self.uploads[upload_id]
                self.put(key, b"".join(data for _, data in sorted(parts.items())), headers)
                return _Answer(200, b"<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")
            case _:
                return _Answer(200, b"<ListPartsResult/>")


def _kept(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name == "content-type" or name.startswith("x-amz-meta-")}


def _crc32(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def _error(status: int, code: str, message: str = "", headers: dict[str, str] | None = None) -> _Answer:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode() if code else b""
    return _Answer(status, body, headers or {})


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Request | None:
    line = await reader.readline()
    if not line:
        return None
    method, target, _ = line.decode().split(" ")
    headers: dict[str, str] = {}
    while (raw := (await reader.readline()).decode().strip()) != "":
        name, _, value = raw.partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    checksum = None
    if headers.get("transfer-encoding") == "chunked":
        body, checksum = await _read_chunks(reader)
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    parts = urlsplit(target)
    query = parse_qs(parts.query, keep_blank_values=True)
    path = unquote(parts.path).lstrip("/")
    if parts.netloc:
        # Asked as a proxy: the bucket is the first part of the host.
        path = f"{parts.netloc.partition('.')[0]}/{path}".removesuffix("/")
    return _Request(method, path, query, headers, body, checksum)


async def _read_chunks(reader: asyncio.StreamReader) -> tuple[bytes, str]:
    """A body in chunks of HTTP, of which each is a chunk of `aws-chunked`; and the checksum behind the last one."""
    framed = b""
    while size := int(await reader.readline(), 16):
        framed += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    body = b""
    while size := int((first := framed.partition(b"\r\n"))[0], 16):
        body, framed = body + first[2][:size], first[2][size + 2 :]
    name, _, value = first[2].strip().partition(b":")
    assert name == b"x-amz-checksum-crc32"
    return body, value.decode()
