"""The connection: one kept client, and the tasks, threads and metadata objects that end with it."""

from __future__ import annotations

import asyncio
import logging
import os
from asyncio import events
from collections.abc import Callable, Coroutine, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Protocol, TypeVar

import anyio

from specstar.backends.s3.buckets import look_at_buckets
from specstar.backends.s3.client import drop_sockets, make_client
from specstar.backends.s3.errors import Failure, classify, endpoint_of, translate
from specstar.backends.s3.options import S3Options
from specstar.backends.s3.requests import Requests
from specstar.errors import BackendUnavailable, SpecstarError
from specstar.runtime import Connection, PoolUse, ServerInfo

__all__ = ["MetaObjectHandle", "S3Connection"]

T = TypeVar("T")
logger: logging.Logger = logging.getLogger("specstar")

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


class S3Connection(Connection):
    """One S3 client for all roles that share its settings."""

    def __init__(self, options: S3Options) -> None:
        self.options = options
        self.meta_objects: dict[Hashable, MetaObjectHandle] = {}
        self.probed: set[tuple[str, str]] = set()
        self.probing: asyncio.Lock = asyncio.Lock()
        self._requests = Requests(options, self.in_thread)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._clean_ups: set[asyncio.Task[Any]] = set()
        self._threads: ThreadPoolExecutor | None = None
        self.uploads: set[tuple[str, str]] = set()
        # Keys of temporary objects that are written or copied from.
        self.moving: set[str] = set()
        self._closing = False
        self.conditional_put = True
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def client(self) -> Any:
        """The driver's client, for what needs no request (presigning)."""
        return self._requests.client

    @property
    def signs_known_hashes(self) -> bool:
        """True if the driver signs a hash that it is told instead of reading the body."""
        return self._requests.signs_known_hashes

    @contextmanager
    def closing_is_unavailable(self) -> Iterator[None]:
        """Around waiting for work that the connection owns: that it was ended by closing is no cancellation of who waits."""
        try:
            yield
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if not self._closing or (task is not None and task.cancelling()):
                raise
            raise self._requests.closed() from error

    async def open(self) -> None:
        """Create the client and look at the buckets, so that a wrong setting is found at once and said clearly."""
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CLIENT_SECONDS):
                client = await make_client(self.options)
                self._requests.serve(await client.__aenter__())
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
            await self.ping()
        except BaseException:
            await self._drop_client()
            raise

    async def ping(self) -> ServerInfo:
        """Look at the bucket of each role; the version is what the server calls itself."""
        return await look_at_buckets(self._requests, self.options)

    def use(self) -> PoolUse:
        return self._requests.turns.use()

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
        `operation_timeout_seconds`, which begin anew with each piece of a large body. Raises `ObjectMissing`,
        `PreconditionFailed`, `ConditionalConflict`, `RangeRefused`, other `BackendError`s, and `BackendUnavailable`. Cancelling
        drops the request's connection.
        """
        return await self._requests.call(
            operation, attempts=attempts, timeout=timeout, pieces=pieces, sha256=sha256, **params
        )

    async def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Run hashing, file or SQLite work in one of the connection's own threads. Cancelling does not stop it."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="specstar-s3")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)
        except RuntimeError as error:
            if self._closing and "shutdown" in str(error):
                raise self._requests.closed() from error
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
        client = self._requests.stop()
        if client is None:
            return
        try:
            await client.__aexit__(None, None, None)
        except BaseException:
            drop_sockets(client, on_their_loop=True)
            raise

    def abandon(self) -> None:
        """Close the sockets at once: on their loop, or without it, if it is gone or belongs to the parent process."""
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
        client = self._requests.stop()
        if client is None:
            return
        if not here and os.getpid() == self._pid and self._loop is not None and self._loop.is_running():
            # Found to be garbage in another thread: the loop goes on, and would take a new socket for the old one.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(partial(drop_sockets, client, on_their_loop=True))
                return
        drop_sockets(client, on_their_loop=here)
