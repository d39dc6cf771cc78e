"""The connection: one kept client, one retry layer, a bound on requests in flight, and a deadline on each."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
from asyncio import events
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Protocol, TypeVar

import anyio

from specstar.backends.s3.body import Body
from specstar.backends.s3.client import make_client
from specstar.backends.s3.errors import (
    AccessDenied,
    Failure,
    ObjectMissing,
    RequestFailed,
    classify,
    endpoint_of,
    expected_region,
    not_s3,
    translate,
)
from specstar.backends.s3.options import S3Options
from specstar.backends.s3.redirects import ask_once_for_region
from specstar.backends.s3.signing import sign_known_hashes
from specstar.backends.s3.turns import Turns
from specstar.errors import BackendError, BackendUnavailable, SpecstarError
from specstar.runtime import Connection, PoolUse, ServerInfo

__all__ = ["MetaObjectHandle", "S3Connection", "bare_etag", "server_time"]

T = TypeVar("T")
logger: logging.Logger = logging.getLogger("specstar")

_BIG_BODY = 1 << 20
_PIECE = 1 << 20
# Answers that always name the version of an object.
_WITH_ETAG = frozenset({"get_object", "head_object", "put_object", "upload_part"})
_BACKOFF = {
    Failure.throttled: 0.4,
    Failure.unsigned: 0.4,
    Failure.unsent: 0.1,
    Failure.unanswered: 0.1,
    Failure.conflict: 0.05,
}
_BACKOFF_LIMIT = 5.0
_CLEANUP_SECONDS = 10.0
_THREADS = 4
# Importing the driver and asking for credentials: no request of ours, and slow on a busy machine.
_CLIENT_SECONDS = 30.0


class MetaObjectHandle(Protocol):
    """What the connection must do for the metadata objects that were opened on it."""

    async def aclose(self) -> None:
        """Push what was not pushed, and close the local database."""

    def abandon(self) -> None:
        """Close the local database."""


def bare_etag(etag: str) -> str:
    """An ETag without its quotes: some servers compare `If-Match` literally."""
    return etag.removeprefix("W/").strip('"')


class S3Connection(Connection):
    """One S3 client for all roles that share its settings."""

    def __init__(self, options: S3Options) -> None:
        self.options = options
        self.meta_objects: dict[Hashable, MetaObjectHandle] = {}
        self.probed: set[tuple[str, str]] = set()
        self.probing: asyncio.Lock = asyncio.Lock()
        self._turns = Turns(options.max_pool_connections)
        self._context: Any = None
        self._client: Any = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._clean_ups: set[asyncio.Task[Any]] = set()
        self._threads: ThreadPoolExecutor | None = None
        self.uploads: set[tuple[str, str]] = set()
        # Keys of temporary objects that are written or copied from.
        self.moving: set[str] = set()
        self._closing = False
        self.conditional_put = True
        self.signs_known_hashes: bool = False
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def client(self) -> Any:
        """The driver's client, for what needs no request (presigning)."""
        if self._client is None:
            raise self._closed()
        return self._client

    def _closed(self) -> BackendUnavailable:
        return BackendUnavailable(f"s3 at {endpoint_of(self.options)}: the connection is closed")

    @contextmanager
    def closing_is_unavailable(self) -> Iterator[None]:
        """Around waiting for work that the connection owns: that it was ended by closing is no cancellation of who waits."""
        try:
            yield
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if not self._closing or (task is not None and task.cancelling()):
                raise
            raise self._closed() from error

    async def open(self) -> None:
        """Create the client and look at the buckets, so that a wrong setting is found at once and said clearly."""
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CLIENT_SECONDS):
                self._context = await make_client(self.options)
                self._client = await self._context.__aenter__()
                self.signs_known_hashes = sign_known_hashes(self._client)
                ask_once_for_region(self._client)
        except BaseException as error:
            await self._drop_client()
            if isinstance(error, TimeoutError):
                raise BackendUnavailable(
                    f"the S3 client was not ready within {_CLIENT_SECONDS:g} s (slow credential provider?)",
                    backend=f"s3 at {endpoint_of(self.options)}",
                ) from error
            if isinstance(error, SpecstarError) or not isinstance(error, Exception):
                raise
            # Of a file or program of this machine: nothing was sent.
            local = isinstance(error, OSError) and error.filename is not None
            failure = Failure.refused if local else classify(error)
            raise translate(
                error, failure, self.options, what="creating the client", bucket=self.options.bucket
            ) from error
        try:
            for bucket in dict.fromkeys((self.options.bucket, self.options.bucket_of_blobs)):
                await self._check_bucket(bucket)
        except BaseException:
            await self._drop_client()
            raise

    async def _check_bucket(self, bucket: str) -> dict[str, Any]:
        region = None
        try:
            answer = await self.call("head_bucket", Bucket=bucket)
        except BackendUnavailable:
            raise
        except BackendError as error:
            region = expected_region(error.__cause__)
            # The answer to HEAD has no body and so no reason: ask again with a request that has one.
            try:
                answer = await self.call("list_objects_v2", Bucket=bucket, MaxKeys=1, Prefix=self.options.prefix)
            except ObjectMissing:
                raise error from None
            except BackendUnavailable:
                raise
            except AccessDenied as told:
                # A key may lack the right to list and still do its work: let the work say.
                logger.warning("%s", told)
                return {}
        region = region or headers_of(answer).get("x-amz-bucket-region")
        if self.options.endpoint_url is None and region and region != self.options.region_name:
            raise BackendError(
                f"bucket {bucket!r} is in region {region!r}, not in {self.options.region_name!r}: set region_name",
                backend=f"s3 at {endpoint_of(self.options)}",
            )
        return answer

    async def ping(self) -> ServerInfo:
        """Look at the bucket of each role; the version is what the server calls itself."""
        answers = {
            bucket: await self._check_bucket(bucket)
            for bucket in dict.fromkeys((self.options.bucket, self.options.bucket_of_blobs))
        }
        headers = headers_of(answers[self.options.bucket])
        server = headers.get("server") or ("Ceph RGW" if "x-rgw-object-count" in headers else "S3-compatible")
        return ServerInfo(version=server, detail=f"{endpoint_of(self.options)}, bucket {', '.join(answers)}")

    def use(self) -> PoolUse:
        return self._turns.use()

    async def call(
        self,
        operation: str,
        *,
        attempts: int | None = None,
        timeout: float | None = None,
        pieces: bool = False,
        sha256: str | None = None,
        **params: Any,
    ) -> dict[str, Any]:
        """One request of the driver, with the whole body in `["Body"]` where the answer streams one (`pieces`: as a list).

        `sha256`: the hash of a `Body` to send, in hex, where it is known.

        Transient failures are repeated with backoff and jitter, at most `max_attempts` times within
        `operation_timeout_seconds`. Raises `ObjectMissing`, `PreconditionFailed`, `ConditionalConflict`, `RangeRefused`,
        other `BackendError`s, and `BackendUnavailable`. Cancelling drops the request's connection.
        """
        if self._client is None:
            raise self._closed()
        limit = attempts or self.options.max_attempts
        seconds = timeout or self.options.operation_timeout_seconds
        deadline = asyncio.get_running_loop().time() + seconds
        method = getattr(self._client, operation)
        body = params.get("Body")
        if body is not None and len(body) > _BIG_BODY:
            if sha256 is None and self.signs_known_hashes:
                sha256 = (await self.in_thread(hashlib.sha256, body)).hexdigest()
        elif isinstance(body, memoryview):
            params["Body"] = bytes(body)
        attempt = 0
        while True:
            attempt += 1
            clock = asyncio.timeout_at(deadline)
            try:
                async with clock:
                    answer = await self._send(method, params, pieces, sha256)
            except Exception as error:
                if clock.expired():
                    raise self._too_late(operation, params, seconds) from error
                if self._closing and self._client is None:
                    raise self._closed() from error
                failure = classify(error)
                what = f"{operation} {params.get('Key') or params.get('Bucket', '')}"
                pause = random.uniform(0, min(_BACKOFF_LIMIT, _BACKOFF.get(failure, 0) * 2**attempt))
                left = deadline - asyncio.get_running_loop().time()
                if not failure.transient or attempt >= limit or pause >= left:
                    bucket = str(params.get("Bucket", ""))
                    raise translate(error, failure, self.options, what=what, bucket=bucket) from error
                logger.info("s3 %s: attempt %d failed, %s; again in %.2f s", what, attempt, failure.value, pause)
            else:
                if operation in _WITH_ETAG and "ETag" not in answer:
                    raise not_s3(self.options, what=f"{operation} {params.get('Key')}")
                return answer
            await asyncio.sleep(pause)
            if self._client is None:
                raise self._closed()

    async def _send(
        self,
        method: Callable[..., Awaitable[dict[str, Any]]],
        params: dict[str, Any],
        pieces: bool,
        sha256: str | None,
    ) -> dict[str, Any]:
        async with self._turns:
            if self._client is None:  # closed while this waited for its turn
                raise self._closed()
            body = params.get("Body")
            if body is not None and len(body) > _BIG_BODY:
                params = {**params, "Body": Body(body, sha256)}
            answer = await method(**params)
            stream = answer.get("Body")
            if stream is not None:
                async with stream:
                    answer["Body"] = await _pieces(stream) if pieces else await stream.read()
            return answer

    def _too_late(self, operation: str, params: dict[str, Any], seconds: float) -> RequestFailed:
        target = params.get("Key") or params.get("Bucket", "")
        return RequestFailed(
            f"{operation} {target}: not done within {seconds:g} s (pool of {self.options.max_pool_connections} connections, "
            f"{self._turns.waiting} more requests wait); retry later",
            backend=f"s3 at {endpoint_of(self.options)}",
            sent=True,
        )

    async def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Run hashing, file or SQLite work in one of the connection's own threads. Cancelling does not stop it."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="specstar-s3")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)
        except RuntimeError as error:
            if self._closing and "shutdown" in str(error):
                raise self._closed() from error
            raise

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run work that the connection owns: closing it cancels the work and waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def clean_up(self, work: Coroutine[Any, Any, Any], what: str) -> None:
        """Undo something, also while the caller is being cancelled; at most ten seconds, errors are logged."""

        async def bounded() -> None:
            try:
                async with asyncio.timeout(_CLEANUP_SECONDS):
                    await work
            except Exception as error:
                logger.warning("s3: %s is left to garbage collection: %s", what, error)

        task = self.start(bounded())
        self._clean_ups.add(task)
        task.add_done_callback(self._clean_ups.discard)
        try:
            # Shielded twice: a cancelled scope of anyio cancels again and again.
            with anyio.CancelScope(shield=True):
                await asyncio.shield(task)
        except asyncio.CancelledError:
            # Cancelled once more: the connection still owns the clean-up.
            if task.cancelled():
                logger.warning("s3: %s is left to garbage collection: closing", what)
            raise

    async def aclose(self) -> None:
        """Push the metadata that was not pushed, end the tasks, close the client."""
        self._closing = True
        objects, self.meta_objects = self.meta_objects, {}
        results = await asyncio.gather(*(handle.aclose() for handle in objects.values()), return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                logger.error("s3: metadata was not pushed at close: %s", result)
        if self._clean_ups:
            await asyncio.wait(list(self._clean_ups), timeout=_CLEANUP_SECONDS / 2)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLEANUP_SECONDS)
        await self._drop_client()
        if self._threads is not None:
            self._threads.shutdown(wait=False)
        failed = [result for result in results if isinstance(result, Exception)]
        if failed:
            raise failed[0]

    async def _drop_client(self) -> None:
        context, self._context, client, self._client = self._context, None, self._client, None
        if context is None or client is None:
            return
        try:
            await context.__aexit__(None, None, None)
        except BaseException:
            from specstar.backends.s3.client import drop_sockets

            drop_sockets(client, on_their_loop=True)
            raise

    def abandon(self) -> None:
        """Close the sockets at once: on their loop, or without it, if it is gone or belongs to the parent process."""
        from specstar.backends.s3.client import drop_sockets

        self._closing = True
        here = os.getpid() == self._pid and events._get_running_loop() is self._loop
        if here:
            for task in list(self._tasks):
                task.cancel()
            if self._threads is not None:
                self._threads.shutdown(wait=False)
        for handle in self.meta_objects.values():
            handle.abandon()
        self.meta_objects = {}
        self._tasks.clear()
        self._threads = None
        client, self._client, self._context = self._client, None, None
        if client is None:
            return
        if not here and os.getpid() == self._pid and self._loop is not None and self._loop.is_running():
            # Found to be garbage in another thread: the loop goes on, and would take a new socket for the old one.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(partial(drop_sockets, client, on_their_loop=True))
                return
        drop_sockets(client, on_their_loop=here)


async def _pieces(stream: Any) -> list[bytes]:
    """A body as it came: putting it together and taking it apart again would copy it twice."""
    from aiobotocore.response import StreamingBody

    # The driver's way puts the pieces together that have come; a body with a checksum of the driver's must go that way.
    if type(stream) is StreamingBody:
        return [piece async for piece, _ in stream.content.iter_chunks() if piece]
    found = []
    while piece := await stream.read(_PIECE):
        found.append(piece)
    return found


def headers_of(answer: dict[str, Any]) -> dict[str, str]:
    """The HTTP headers of an answer, names in lower case."""
    headers: dict[str, str] = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return headers


def server_time(answer: dict[str, Any]) -> float:
    """The server's clock as it answered, in seconds since the epoch: file times are compared with it, not with ours."""
    import time

    date = headers_of(answer).get("date")
    return parsedate_to_datetime(date).timestamp() if date else time.time()
