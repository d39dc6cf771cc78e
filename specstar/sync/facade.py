"""The blocking SpecStar. It holds an asynchronous one and blocks on its calls; models, jobs and blobs are wrapped alike."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, overload

from specstar.core import SpecStar as AsyncSpecStar
from specstar.resource_manager.codec import DEFAULT_MAX_PAYLOAD_BYTES
from specstar.runtime import interrupted
from specstar.sync._generated import BlobManager as GeneratedBlobManager
from specstar.sync._generated import BlobStream, JobQueue, ResourceManager

if TYPE_CHECKING:
    from specstar.config import BackendConfig, ConfigSource
    from specstar.copying import CopyReport
    from specstar.health import RoleReport
    from specstar.message_queue import Job, JobMiddleware, WorkerStop
    from specstar.message_queue.factories import BoundMessageQueueFactory
    from specstar.message_queue.options import JobOptions, PlainJobOptions
    from specstar.message_queue.queue import JobQueue as AsyncJobQueue
    from specstar.metrics import Metrics
    from specstar.query import IndexedField
    from specstar.resource_manager.factories import StorageFactory
    from specstar.sync.declaring import DeclareJob, DeclareJobWithResult

__all__ = ["BlobManager", "SpecStar", "spec"]

P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")


class BlobManager(GeneratedBlobManager):
    """Stores and reads blobs; the blocking twin of `spec.blobs`."""

    def open(self, file_id: str, *, start: int = 0, end: int | None = None) -> BlobStream:
        """Stream a blob, or the bytes from `start` to `end` (exclusive): `with spec.blobs.open(id) as chunks:`."""
        return BlobStream(self._inner.open(file_id, start=start, end=end))


class SpecStar:
    """One runtime for blocking callers: the same names as the asynchronous `specstar.SpecStar`, without `await`.

    Safe from many threads at once: their calls share batches. Inside a running event loop every call raises `UsageError`
    at once. Close it with `with spec:` or `spec.close()`.
    """

    def __init__(self, inner: AsyncSpecStar | None = None) -> None:
        self._inner = inner or AsyncSpecStar()
        self._gate = self._inner._gate
        self._managers: dict[int, ResourceManager[Any]] = {}
        self._queues: dict[int, JobQueue[Any]] = {}
        self.blobs: BlobManager = BlobManager(self._inner.blobs)

    def configure(
        self,
        backend: BackendConfig | Mapping[str, Any] | str | Path | None = None,
        *,
        storage_factory: StorageFactory | None = None,
        message_queue_factory: BoundMessageQueueFactory | None = None,
    ) -> None:
        """Bind the roles, and close what an earlier configuration had opened. Raises `ConfigError` with every mistake."""
        from specstar.configuration import configuration_of

        configuration = configuration_of(backend, storage_factory, message_queue_factory)
        if self._gate.connections.opened():
            self._gate.close()
        self._inner._apply(configuration)

    def add_model(
        self,
        model: type[T],
        *,
        name: str | None = None,
        indexed_fields: Sequence[str | IndexedField] = (),
        storage_factory: StorageFactory | None = None,
        schema_version: str | None = None,
        max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
    ) -> ResourceManager[T]:
        """Declare a model and return its manager; see `specstar.SpecStar.add_model`."""
        manager = self._inner.add_model(
            model,
            name=name,
            indexed_fields=indexed_fields,
            storage_factory=storage_factory,
            schema_version=schema_version,
            max_payload_bytes=max_payload_bytes,
        )
        return self._managers.setdefault(id(manager), ResourceManager(manager))

    @overload
    def get_resource_manager(self, model: type[T]) -> ResourceManager[T]: ...

    @overload
    def get_resource_manager(self, model: str) -> ResourceManager[Any]: ...

    def get_resource_manager(self, model: type[T] | str) -> ResourceManager[Any]:
        """The manager of a declared model, by its class or name. Raises `NotConfiguredError` if there is none."""
        manager = self._inner.get_resource_manager(model)
        return self._managers.setdefault(id(manager), ResourceManager(manager))

    @overload
    def job(self, handler: Callable[[Job[P]], Awaitable[R]], /) -> JobQueue[P, R]: ...

    @overload
    def job(self, handler: Callable[[Job[P]], Awaitable[R] | R], /) -> JobQueue[P, R]: ...

    @overload
    def job(self, /, **options: Unpack[PlainJobOptions]) -> DeclareJob: ...

    @overload
    def job(self, /, *, result_type: type[R], **options: Unpack[PlainJobOptions]) -> DeclareJobWithResult[R]: ...

    @overload
    def job(self, /, *, result_type: Any, **options: Unpack[PlainJobOptions]) -> DeclareJobWithResult[Any]: ...

    def job(self, handler: Callable[[Job[P]], Any] | None = None, /, **options: Unpack[JobOptions]) -> Any:
        """Declare a job by its handler: `@spec.job` or `@spec.job(max_retries=5)` over `def f(job: Job[Payload])`.

        The handler's name becomes a `JobQueue`. Handlers run in threads, and may call this SpecStar. Options: see `JobQueue`.
        """
        if handler is None:
            return self._declare(self._inner.job(**options))
        return self._queue(self._inner.job(handler))

    def _declare(
        self, declare: Callable[[Callable[[Job[P]], Any]], AsyncJobQueue[P, Any]]
    ) -> Callable[[Callable[[Job[P]], Any]], JobQueue[P, Any]]:
        return lambda handler: self._queue(declare(handler))

    @overload
    def add_job(
        self, payload_type: type[P], handler: Callable[[Job[P]], Awaitable[R]], **options: Unpack[PlainJobOptions]
    ) -> JobQueue[P, R]: ...

    @overload
    def add_job(
        self, payload_type: type[P], handler: Callable[[Job[P]], Awaitable[R] | R], **options: Unpack[PlainJobOptions]
    ) -> JobQueue[P, R]: ...

    @overload
    def add_job(
        self,
        payload_type: type[P],
        handler: Callable[[Job[P]], Any],
        *,
        result_type: type[R],
        **options: Unpack[PlainJobOptions],
    ) -> JobQueue[P, R]: ...

    @overload
    def add_job(
        self,
        payload_type: type[P],
        handler: Callable[[Job[P]], Any],
        *,
        result_type: Any,
        **options: Unpack[PlainJobOptions],
    ) -> JobQueue[P, Any]: ...

    def add_job(
        self, payload_type: type[P], handler: Callable[[Job[P]], Any], **options: Unpack[JobOptions]
    ) -> JobQueue[P, Any]:
        """Declare a job by the type of its payload and its handler. Options: see `JobQueue`.

        Raises `InvalidInputError` for a name that is taken.
        """
        return self._queue(self._inner.add_job(payload_type, handler, **options))

    def get_job_queue(self, name: str) -> JobQueue[Any]:
        """The queue of a declared job, by its name. Raises `NotConfiguredError` if there is none."""
        return self._queue(self._inner.get_job_queue(name))

    def add_job_middleware(self, middleware: JobMiddleware) -> None:
        """Have all jobs sent with the headers of `middleware`, and run inside of it; what is added first is outermost.

        Workers that run already go on without it. Raises `InvalidInputError` for what is no `JobMiddleware`.
        """
        self._inner.add_job_middleware(middleware)

    def _queue(self, inner: AsyncJobQueue[P, R]) -> JobQueue[P, R]:
        queue = self._queues.get(id(inner))
        if queue is None:
            queue = JobQueue(inner)
            functools.update_wrapper(queue, inner.handler, updated=())
            self._queues[id(inner)] = queue
        return queue

    def run_workers(
        self,
        *,
        concurrency: int = 10,
        drain_timeout: float | timedelta = 25.0,
        queues: Sequence[JobQueue[Any]] | None = None,
        stop: WorkerStop | None = None,
        handle_signals: bool = True,
        burst: bool = False,
    ) -> None:
        """Run the declared jobs (or those of `queues`), at most `concurrency` at a time; blocks until SIGTERM or Ctrl-C.

        Then it drains: running jobs have `drain_timeout` (seconds, or a `timedelta`) to end, and go back to the queue after
        that. Signals are handled in the main thread only; elsewhere `stop.set()` ends it. With `burst` it also returns once
        no job is ready or runs here: delayed ones, and those of other workers, are not waited for, and periodic ones are not
        sent. Raises `NotConfiguredError` without mq, `UsageError` without jobs.
        """
        from specstar.message_queue.run import checked_queues, run_workers_blocking

        with self._inner._jobs.running(all_jobs=queues is None):
            run_workers_blocking(
                list(self._inner._jobs.queues.values())
                if queues is None
                else [queue._inner for queue in checked_queues(queues, JobQueue)],
                concurrency=concurrency,
                drain_timeout=drain_timeout,
                stop=stop,
                handle_signals=handle_signals,
                burst=burst,
            )

    def check(self, *, timeout: float | timedelta = 10.0) -> list[RoleReport]:
        """Open every role of the configuration and report each: backend, latency, server version, problem. Models with a
        storage of their own follow: their reports name the `model`.
        """
        return self._gate.call(functools.partial(self._inner.check, timeout=timeout))

    def metrics(self) -> Metrics:
        """What this SpecStar has done in this process, in numbers for a monitoring system. No I/O; on a loop too."""
        return self._inner.metrics()

    def sync(self) -> None:
        """Push what meta stores keep locally (S3 with `auto_sync` off)."""
        self._gate.call(self._inner.sync)

    def collect_garbage(self, *, older_than_seconds: float = 3600.0) -> dict[str, int]:
        """Remove what killed writers and unfinished uploads left, if older than this; the counts by model, and "blobs"."""
        return self._gate.call(functools.partial(self._inner.collect_garbage, older_than_seconds=older_than_seconds))

    def copy_to(
        self,
        backend: ConfigSource | StorageFactory,
        *,
        models: Mapping[str, ConfigSource | StorageFactory | None] | None = None,
        progress: Callable[[CopyReport], None] | None = None,
    ) -> list[CopyReport]:
        """Copy all resources of the declared models, and all blobs, into another configuration's backends, and compare them.

        See `specstar.SpecStar.copy_to`. `progress` is called in the thread of the connections.
        """
        return self._gate.call(functools.partial(self._inner.copy_to, backend, models=models, progress=progress))

    def close(self) -> None:
        """Close all connections, within a time limit. The next call opens them again."""
        self._gate.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._gate.close(hurried=interrupted(exc_type))

    def __repr__(self) -> str:
        return f"sync {self._inner!r}"


spec: SpecStar = SpecStar()
"""The default instance, for scripts that need one."""
