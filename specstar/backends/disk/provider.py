"""The backend type `disk`."""

from __future__ import annotations

import builtins
import os
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec import Struct, structs

from specstar.backends.disk.options import DiskOptions
from specstar.backends.provider import BackendContext, BackendProvider, Role
from specstar.roles import BlobStore, MetaStore, ModelSpec, ResourceStore, Storage

if TYPE_CHECKING:
    from specstar.backends.disk.connection import DiskConnection
    from specstar.config import BackendDefaults

__all__ = ["DiskProvider", "root_path"]


class DiskProvider(BackendProvider[DiskOptions, "DiskConnection"]):
    """Everything under one root folder, which several processes of one machine may share."""

    type: ClassVar[str] = "disk"
    roles: ClassVar[frozenset[Role]] = frozenset({"meta", "resource", "blob"})
    options_type: ClassVar[builtins.type[Struct]] = DiskOptions
    native: ClassVar[bool] = True

    def apply_defaults(self, options: dict[str, Any], defaults: BackendDefaults) -> dict[str, Any]:
        options = {"encoding": defaults.encoding, **options}
        if isinstance(options.get("rootdir"), os.PathLike):
            options["rootdir"] = os.fspath(options["rootdir"])
        return options

    def validate(self, options: DiskOptions, role: Role) -> list[tuple[str, str]]:
        if not options.rootdir.strip():
            return [("rootdir", "is blank; name the folder that holds the data")]
        if "\0" in options.rootdir:
            return [("rootdir", "contains a NUL character")]
        if _expanded(options.rootdir).startswith("~"):
            return [("rootdir", "begins with a ~ for which there is no home folder; write the path out")]
        try:
            root_path(options.rootdir)
        except OSError as error:
            reason = f"is relative, and the working directory cannot be found ({error.strerror}); write the path out"
            return [("rootdir", reason)]
        return []

    def pinned(self, options: DiskOptions) -> DiskOptions:
        return structs.replace(options, rootdir=root_path(options.rootdir))

    def connection_key(self, options: DiskOptions) -> Hashable:
        return (
            "disk",
            root_path(options.rootdir),
            options.reader_threads,
            options.mmap_bytes,
            options.busy_timeout_seconds,
            options.batch_bytes,
        )

    def connect(self, options: DiskOptions) -> DiskConnection:
        from specstar.backends.disk.connection import DiskConnection

        return DiskConnection(
            root_path(options.rootdir),
            reader_threads=options.reader_threads,
            mmap_bytes=options.mmap_bytes,
            busy_timeout=options.busy_timeout_seconds,
            batch_bytes=options.batch_bytes,
        )

    def meta_store(self, context: BackendContext[DiskOptions, DiskConnection], model: ModelSpec) -> MetaStore:
        from specstar.backends.disk.meta import DiskMetaStore

        return DiskMetaStore(context, model)

    def resource_store(self, context: BackendContext[DiskOptions, DiskConnection], model: ModelSpec) -> ResourceStore:
        from specstar.backends.disk.resource import DiskResourceStore

        return DiskResourceStore(context, model)

    def combined_storage(
        self,
        meta: BackendContext[DiskOptions, DiskConnection],
        resource: BackendContext[DiskOptions, DiskConnection],
        model: ModelSpec,
    ) -> Storage | None:
        from specstar.backends.disk.storage import DiskStorage

        if meta.connection is not resource.connection:
            return None
        return DiskStorage(resource, model)

    def blob_store(self, context: BackendContext[DiskOptions, DiskConnection]) -> BlobStore:
        from specstar.backends.disk.blob import DiskBlobStore

        return DiskBlobStore(context)


def root_path(rootdir: str) -> str:
    """The absolute path of the root folder; `~` is expanded."""
    # Not resolve(): this runs while a configuration is resolved, which touches no disk.
    return os.path.abspath(_expanded(rootdir))  # noqa: PTH100


def _expanded(rootdir: str) -> str:
    # Path.expanduser raises where there is no such home folder.
    return os.path.expanduser(rootdir)  # noqa: PTH111
