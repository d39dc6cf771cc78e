"""The backend type `memory`."""

from __future__ import annotations

import builtins
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec import Struct

from specstar.backends.memory.options import MemoryOptions
from specstar.backends.provider import BackendContext, BackendProvider, Role
from specstar.roles import BlobStore, MetaStore, ModelSpec, ResourceStore, Storage

if TYPE_CHECKING:
    from specstar.backends.memory.connection import MemoryConnection
    from specstar.config import BackendDefaults

__all__ = ["MemoryProvider"]


class MemoryProvider(BackendProvider[MemoryOptions, "MemoryConnection"]):
    """Everything in this process. All roles of one spec share one memory, which lives until it is closed."""

    type: ClassVar[str] = "memory"
    roles: ClassVar[frozenset[Role]] = frozenset({"meta", "resource", "blob"})
    options_type: ClassVar[builtins.type[Struct]] = MemoryOptions
    native: ClassVar[bool] = True
    durable: ClassVar[bool] = False

    def apply_defaults(self, options: dict[str, Any], defaults: BackendDefaults) -> dict[str, Any]:
        return {"encoding": defaults.encoding, **options}

    def connection_key(self, options: MemoryOptions) -> Hashable:
        return "memory"

    def connect(self, options: MemoryOptions) -> MemoryConnection:
        from specstar.backends.memory.connection import MemoryConnection

        return MemoryConnection()

    def meta_store(self, context: BackendContext[MemoryOptions, MemoryConnection], model: ModelSpec) -> MetaStore:
        from specstar.backends.memory.meta import MemoryMetaStore

        return MemoryMetaStore(context, model)

    def resource_store(
        self, context: BackendContext[MemoryOptions, MemoryConnection], model: ModelSpec
    ) -> ResourceStore:
        from specstar.backends.memory.resource import MemoryResourceStore

        return MemoryResourceStore(context, model)

    def combined_storage(
        self,
        meta: BackendContext[MemoryOptions, MemoryConnection],
        resource: BackendContext[MemoryOptions, MemoryConnection],
        model: ModelSpec,
    ) -> Storage | None:
        from specstar.backends.memory.storage import MemoryStorage

        return MemoryStorage(meta, model) if meta.connection is resource.connection else None

    def blob_store(self, context: BackendContext[MemoryOptions, MemoryConnection]) -> BlobStore:
        from specstar.backends.memory.blob import MemoryBlobStore

        return MemoryBlobStore(context)
