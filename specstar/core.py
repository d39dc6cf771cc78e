"""SpecStar: declare models and jobs, configure backends, use, check, close."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, overload

import anyio

from specstar.blobs import BlobManager
from specstar.bound import Bound
from specstar.declared_jobs import DeclaredJobs
from specstar.declared_models import DeclaredModels
from specstar.errors import UsageError
from specstar.query import IndexedField
from specstar.resource_manager.codec import DEFAULT_MAX_PAYLOAD_BYTES
from specstar.resource_manager.manager import ResourceManager
from specstar.roles import BlobStore
from specstar.runtime import Gate, gated, interrupted
from specstar.runtime.blocking import on_a_loop

if TYPE_CHECKING:
    from specstar.config import BackendConfig, ConfigSource
    from specstar.configuration import Configuration
    from specstar.copying import CopyReport
    from specstar.health import RoleReport
    from specstar.message_queue.declaring import DeclareJob, DeclareJobWithResult
    from specstar.message_queue.factories import BoundMessageQueueFactory
    from specstar.message_queue.job import Job
    from specstar.message_queue.middleware import JobMiddleware
    from specstar.message_queue.options import JobOptions, PlainJobOptions
    from specstar.message_queue.queue import JobQueue
    from specstar.message_queue.run import WorkerStop
    from specstar.metrics import Metrics
    from specstar.resource_manager.factories import StorageFactory

__all__ = ["Configured", "SpecStar", "spec"]

T = TypeVar("T")
P = TypeVar("P")
R = TypeVar("R")


class SpecStar:
    """One runtime: models, jobs and blobs over one configuration.

    Models and jobs may be declared before or after `configure`. Nothing is opened before it is needed. Close it with
    `async with spec:` or `await spec.aclose()`; one that was used and is dropped unclosed gives a `ResourceWarning`.
    """

    def __init__(self) -> None:
        self._gate = Gate()
        self._bound = Bound()
        self._models = DeclaredModels(self._gate, self._bound)
        self._jobs = DeclaredJobs(self._gate, self._bound, self._models)
        self.blobs: BlobManager = BlobManager(self._gate, self._blob_store)

    # Configuring

    def configure(
        self,
        backend: BackendConfig | Mapping[str, Any] | str | Path | None = None,
        *,
        storage_factory: StorageFactory | None = None,
        message_queue_factory: BoundMessageQueueFactory | None = None,
    ) -> Configured:
        """Bind the roles: by `backend` (a `BackendConfig`, a mapping, or the path of a JSON file), or by factories.

        Everything is resolved and checked at once, without I/O beyond reading the file. Works as a plain statement and
        awaited; awaited it also closes what an earlier configuration opened. Over open connections a plain statement is
        refused with `UsageError`. Raises `ConfigError` with every mistake found.
        """
        from specstar.configuration import configuration_of

        configuration = configuration_of(backend, storage_factory, message_queue_factory)
        if not self._gate.connections.opened():
            self._apply(configuration)
            return Configured(self, None)
        if not on_a_loop():
            raise UsageError("connections are open: use `await spec.configure(...)`, which closes them first")
        # Applied by the await; until then every use is refused, so that a forgotten await cannot go unnoticed.
        self._gate.refuse(
            "spec.configure() was called over open connections and not awaited: `await spec.configure(...)`"
        )
        return Configured(self, configuration)

    def _apply(self, configuration: Configuration) -> None:
        self._bound.storage_factory = configuration.storage_factory
        self._bound.message_queue_factory = configuration.message_queue_factory
        self._gate.renew(native=self._bound.native and self._models.native)

    async def _reconfigure(self, configuration: Configuration) -> None:
        self._gate.admit()
        await self.aclose()
        self._apply(configuration)

    # Declaring

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
        """Declare a model (a msgspec Struct, dataclass or other type that msgspec encodes) and return its manager.

        `name` (by default the class name) is where the data lies: keep it. `indexed_fields` (dotted paths, or
        `IndexedField`) can be searched. `storage_factory` binds this model alone. Raises `InvalidInputError` for a name
        that is taken, `QueryError` for a field that the model lacks.
        """
        return self._models.declare(
            model,
            name=name,
            indexed_fields=indexed_fields,
            storage_factory=storage_factory,
            schema_version=schema_version,
            max_payload_bytes=max_payload_bytes,
        )

    @overload
    def get_resource_manager(self, model: type[T]) -> ResourceManager[T]: ...

    @overload
    def get_resource_manager(self, model: str) -> ResourceManager[Any]: ...

    def get_resource_manager(self, model: type[T] | str) -> ResourceManager[Any]:
        """The manager of a declared model, by its class or name. Raises `NotConfiguredError` if there is none."""
        return self._models.find(model)

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

    def job(
        self,
        handler: Callable[[Job[P]], Any] | None = None,
        /,
        **options: Unpack[JobOptions],
    ) -> Any:
        """Declare a job by its handler: `@spec.job` or `@spec.job(max_retries=5)` over `async def f(job: Job[Payload])`.

        The handler's name becomes a `JobQueue`. Plain functions run in threads. Options: see `JobQueue`.
        """
        if handler is None:
            return functools.partial(self._jobs.declare, options)
        return self._jobs.declare(options, handler)

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
        self,
        payload_type: type[P],
        handler: Callable[[Job[P]], Any],
        **options: Unpack[JobOptions],
    ) -> JobQueue[P, Any]:
        """Declare a job by the type of its payload and its handler. Options: see `JobQueue`.

        Raises `InvalidInputError` for a name that is taken.
        """
        return self._jobs.declare({**options, "payload_type": payload_type}, handler)

    def get_job_queue(self, name: str) -> JobQueue[Any]:
        """The queue of a declared job, by its name. Raises `NotConfiguredError` if there is none."""
        return self._jobs.find(name)

    def add_job_middleware(self, middleware: JobMiddleware) -> None:
        """Have all jobs sent with the headers of `middleware`, and run inside of it; what is added first is outermost.

        Workers that run already go on without it. Raises `InvalidInputError` for what is no `JobMiddleware`.
        """
        self._jobs.add_middleware(middleware)

    # Running

    async def run_workers(
        self,
        *,
        concurrency: int = 10,
        drain_timeout: float | timedelta = 25.0,
        queues: Sequence[JobQueue[Any]] | None = None,
        stop: WorkerStop | None = None,
        handle_signals: bool = True,
        burst: bool = False,
    ) -> None:
        """Run the declared jobs (or those of `queues`), at most `concurrency` at a time, until cancelled or SIGTERM.

        Then it drains: running jobs have `drain_timeout` (seconds, or a `timedelta`) to end, and go back to the queue after
        that. Async handlers run on this event loop, plain ones in threads. With `burst` it also returns once no job is ready
        or runs here: delayed ones, and those of other workers, are not waited for, and periodic ones are not sent. Raises
        `NotConfiguredError` without mq, `UsageError` without jobs.
        """
        from specstar.message_queue.queue import JobQueue
        from specstar.message_queue.run import checked_queues, run_workers

        with self._jobs.running(all_jobs=queues is None):
            await run_workers(
                list(self._jobs.queues.values()) if queues is None else checked_queues(queues, JobQueue),
                concurrency=concurrency,
                drain_timeout=drain_timeout,
                stop=stop,
                handle_signals=handle_signals,
                burst=burst,
            )

    @gated
    async def check(self, *, timeout: float | timedelta = 10.0) -> list[RoleReport]:
        """Open every role of the configuration and report each: backend, latency, server version, problem. `timeout` of
        each role in seconds, or a `timedelta`. Models with a storage of their own follow: their reports name the `model`.
        """
        from specstar.health import check_roles
        from specstar.message_queue.retry import checked_seconds

        seconds = checked_seconds(timeout, field="timeout")
        self._models.common_factory()  # raises if nothing is configured
        bindings = [*self._bound.bindings(), *self._models.own_bindings()]
        return await check_roles(self._gate, bindings, timeout=seconds)

    def metrics(self) -> Metrics:
        """What this SpecStar has done in this process, in numbers for a monitoring system. No I/O; from any thread."""
        from specstar.metrics import metrics_of

        return metrics_of(self._gate, list(self._jobs.queues.values()))

    async def sync(self) -> None:
        """Push what meta stores keep locally (S3 with `auto_sync` off). Raises what `ResourceManager.sync` raises."""
        for manager in list(self._models.managers.values()):
            await manager.sync()

    async def collect_garbage(self, *, older_than_seconds: float = 3600.0) -> dict[str, int]:
        """Remove what killed writers and unfinished uploads left, if older than this; the counts by model, and "blobs"."""
        removed: dict[str, int] = {}
        for name, manager in list(self._models.managers.items()):
            removed[name] = await manager.collect_garbage(older_than_seconds=older_than_seconds)
        factory = self._models.common_factory()
        if factory is not None and "blob" in factory.bindings:
            blobs = await self.blobs.collect_garbage(older_than_seconds=older_than_seconds)
            removed["blobs"] = removed.get("blobs", 0) + blobs
        return removed

    async def copy_to(
        self,
        backend: ConfigSource | StorageFactory,
        *,
        models: Mapping[str, ConfigSource | StorageFactory | None] | None = None,
        progress: Callable[[CopyReport], None] | None = None,
    ) -> list[CopyReport]:
        """Copy all resources of the declared models, and all blobs, into another configuration's backends, and compare them.

        With ids, revisions, times and users; deleted ones too. What is there and equal stays, so that it can be repeated
        until nothing is left; what the target has of its own is never touched. Let nothing write meanwhile. Messages of jobs
        are left out. `models`: by name, the models that go elsewhere, or, with None, stay where they are. One with a storage
        of its own that is not named there is not copied, and reported as failed. `progress` hears of each page. Raises
        `ConfigError`, `UsageError` if the target is where all lies already, `NotConfiguredError` for an unknown model,
        `BackendError` and `BackendUnavailable`; what fails alone is in the reports: one for each model, and one for "blobs".
        """
        from specstar.copying import copies_of, copy_all, refuse_itself, target_of

        source = self._models.common_factory()
        for name in models or {}:
            self._models.find(name)
        target = target_of(backend)
        if source is not None and not any((models or {}).values()):
            refuse_itself(source, target)
        copies = copies_of(self._models.managers, self._models.own_factories, target, models or {})
        if not all(each.native for each in (target, *(copy.target for copy in copies)) if each is not None):
            self._gate.require_asyncio()
        return await self._gate.run(
            functools.partial(copy_all, self._gate, copies, source, target, progress or (lambda _: None))
        )

    async def aclose(self) -> None:
        """Close all connections, within a time limit, whatever is in flight. The next call opens them again."""
        await self._gate.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Not in a handler, which closing ends, and waits for.
        with anyio.CancelScope(shield=not self._gate.in_worker):
            await self._gate.aclose(hurried=interrupted(exc_type))

    def __repr__(self) -> str:
        return f"SpecStar(models={sorted(self._models.managers)}, storage={self._bound.storage_factory!r})"

    def _blob_store(self) -> BlobStore:
        return self._bound.storage().blob_store(self._gate)


class Configured(Awaitable[None]):
    """What `configure` returns: awaiting it closes what an earlier configuration had opened."""

    def __init__(self, owner: SpecStar, configuration: Configuration | None) -> None:
        self._owner = owner
        self._configuration = configuration

    def __await__(self) -> Generator[Any, Any, None]:
        configuration, self._configuration = self._configuration, None
        if configuration is not None:
            yield from self._owner._reconfigure(configuration).__await__()


spec: SpecStar = SpecStar()
"""The default instance, for programs that need one."""
