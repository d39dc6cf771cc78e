"""The blocking SpecStar. It holds an asynchronous one and blocks on its calls; models, jobs and blobs are wrapped alike."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from specstar.core import SpecStar as AsyncSpecStar
from specstar.resource_manager.codec import DEFAULT_MAX_PAYLOAD_BYTES
from specstar.sync._generated import BlobManager as GeneratedBlobManager
from specstar.sync._generated import BlobStream, ResourceManager

if TYPE_CHECKING:
    from specstar.config import BackendConfig
    from specstar.health import RoleReport
    from specstar.message_queue.factories import BoundMessageQueueFactory
    from specstar.resource_manager.factories import StorageFactory

__all__ = ["BlobManager", "SpecStar", "spec"]

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
        self.blobs = BlobManager(self._inner.blobs)

    def configure(
        self,
        backend: BackendConfig | Mapping[str, Any] | str | Path | None = None,
        *,
        storage_factory: StorageFactory | None = None,
        message_queue_factory: BoundMessageQueueFactory | None = None,
    ) -> None:
        """Bind the roles, and close what an earlier configuration had opened. Raises `ConfigError` with every mistake."""
        configuration = self._inner._resolve(backend, storage_factory, message_queue_factory)
        if self._gate.connections.opened():
            self._gate.close()
        self._inner._apply(configuration)

    def add_model(
        self,
        model: type[T],
        *,
        name: str | None = None,
        indexed_fields: Sequence[str] = (),
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

    def get_resource_manager(self, model: type[T] | str) -> ResourceManager[T]:
        """The manager of a declared model, by its class or name. Raises `NotConfiguredError` if there is none."""
        manager = self._inner.get_resource_manager(model)
        return self._managers.setdefault(id(manager), ResourceManager(manager))

    def check(self, *, timeout: float = 10.0) -> list[RoleReport]:
        """Open every bound role and report each: backend, latency, server version, problem."""
        return self._gate.call(functools.partial(self._inner.check, timeout=timeout))

    def sync(self) -> None:
        """Push what meta stores keep locally (S3 with `auto_sync` off)."""
        self._gate.call(self._inner.sync)

    def collect_garbage(self, *, older_than_seconds: float = 3600.0) -> dict[str, int]:
        """Remove what killed writers and unfinished uploads left, if older than this; the counts by model, and "blobs"."""
        return self._gate.call(functools.partial(self._inner.collect_garbage, older_than_seconds=older_than_seconds))

    def close(self) -> None:
        """Close all connections, within a time limit. The next call opens them again."""
        self._gate.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"sync {self._inner!r}"


spec = SpecStar()
"""The default instance, for scripts that need one."""
