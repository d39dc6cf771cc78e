"""Storage factories: which backend fills which role. `backend=` resolves into one; the lower level passes one in by hand."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

from specstar.config import BackendBinding, BackendConfig, ConfigSource, ResolvedBackend, ResolvedConfig, resolve_config
from specstar.config.encoding import Encoding
from specstar.config.resolved import blob_warning
from specstar.config.structs import Role
from specstar.errors import ConfigError, ConfigProblem, NotConfiguredError
from specstar.resource_manager.binding import context_of
from specstar.resource_manager.composed import ComposedStorage
from specstar.roles import BlobStore, ModelSpec, Storage
from specstar.runtime import Gate

__all__ = [
    "BoundStorageFactory",
    "DiskStorageFactory",
    "MemoryStorageFactory",
    "PostgresDiskS3StorageFactory",
    "PostgresDiskStorageFactory",
    "PostgresS3StorageFactory",
    "PostgresStorageFactory",
    "S3StorageFactory",
    "StorageFactory",
]

logger: logging.Logger = logging.getLogger("specstar")


class StorageFactory(ABC):
    """Builds the storage of each model, and the blob store. Building opens nothing; connections belong to the gate."""

    @property
    @abstractmethod
    def native(self) -> bool:
        """True if all its backends run on any event loop; False if one has an asyncio driver."""

    @property
    @abstractmethod
    def durable(self) -> bool:
        """True if resources outlive the process."""

    @property
    @abstractmethod
    def encoding(self) -> Encoding:
        """The format of new payloads."""

    @property
    @abstractmethod
    def bindings(self) -> Mapping[Role, ResolvedBackend]:
        """The backend of each role, for `check()`."""

    @abstractmethod
    def storage(self, gate: Gate, model: ModelSpec) -> Storage:
        """The storage of one model. Called on the home loop."""

    @abstractmethod
    def blob_store(self, gate: Gate) -> BlobStore:
        """The blob store. Raises `NotConfiguredError` if the factory binds none."""


class BoundStorageFactory(StorageFactory):
    """A storage factory over resolved backends, whichever they are."""

    def __init__(
        self, *, meta: ResolvedBackend, resource: ResolvedBackend, blob: ResolvedBackend | None = None
    ) -> None:
        self._bindings: dict[Role, ResolvedBackend] = {"meta": meta, "resource": resource}
        if blob is not None:
            self._bindings["blob"] = blob

    @classmethod
    def from_config(cls, backend: ConfigSource) -> BoundStorageFactory:
        """The factory of a configuration (as `configure(backend=...)` takes it): with every option of every backend type.

        For a model with a storage of its own. Raises `ConfigError` with every mistake found, and for a binding of mq.
        """
        resolved = resolve_config(backend)
        if resolved.mq is not None:
            raise ConfigError(
                ConfigProblem("mq", "a storage factory has no queue: bind it where spec.configure is called")
            )
        return BoundStorageFactory.of(resolved)

    @classmethod
    def of(cls, resolved: ResolvedConfig) -> BoundStorageFactory:
        """The factory of a configuration that is resolved already; its queue is left out."""
        return BoundStorageFactory(meta=resolved.meta, resource=resolved.resource, blob=resolved.blob)

    @property
    def native(self) -> bool:
        return all(bound.provider.native for bound in self._bindings.values())

    @property
    def durable(self) -> bool:
        return all(self._bindings[role].provider.durable for role in ("meta", "resource"))

    @property
    def encoding(self) -> Encoding:
        return Encoding(getattr(self._bindings["resource"].options, "encoding", Encoding.json))

    @property
    def bindings(self) -> Mapping[Role, ResolvedBackend]:
        return self._bindings

    def storage(self, gate: Gate, model: ModelSpec) -> Storage:
        meta, resource = self._bindings["meta"], self._bindings["resource"]
        meta_context, resource_context = context_of(gate, meta), context_of(gate, resource)
        if meta_context.connection is resource_context.connection:
            combined = meta.provider.combined_storage(meta_context, resource_context, model)
            if combined is not None:
                return combined
        return ComposedStorage(
            meta.provider.meta_store(meta_context, model),
            resource.provider.resource_store(resource_context, model),
            model=model.name,
            knows_all=meta.provider.durable or not resource.provider.durable,
        )

    def blob_store(self, gate: Gate) -> BlobStore:
        blob = self._bindings.get("blob")
        if blob is None:
            raise NotConfiguredError(
                f"{type(self).__name__} binds no blob store; use a factory that does, or backend= with a blob binding"
            )
        if warning := blob_warning(self._bindings.values()):
            logger.warning("%s", warning)
        return blob.provider.blob_store(context_of(gate, blob))

    def __repr__(self) -> str:
        roles = ", ".join(f"{role}={bound.type}" for role, bound in self._bindings.items())
        return f"{type(self).__name__}({roles})"


_Given = tuple[str, dict[str, Any]]


class _Bindings(TypedDict):
    meta: ResolvedBackend
    resource: ResolvedBackend
    blob: ResolvedBackend | None


def _bind(meta: _Given, resource: _Given, blob: _Given | None) -> _Bindings:
    """Check constructor arguments exactly as a configuration's options."""
    config = BackendConfig(meta=_binding(meta), resource=_binding(resource), blob=_binding(blob or ("memory", {})))
    resolved = resolve_config(config)
    return {"meta": resolved.meta, "resource": resolved.resource, "blob": resolved.blob if blob else None}


def _binding(given: _Given) -> BackendBinding:
    kind, options = given
    return BackendBinding(type=kind, options={name: value for name, value in options.items() if value is not None})


class MemoryStorageFactory(BoundStorageFactory):
    """Everything in the memory of this process."""

    def __init__(self, encoding: Encoding = Encoding.json) -> None:
        options = {"encoding": encoding}
        super().__init__(**_bind(("memory", options), ("memory", options), ("memory", {})))


class DiskStorageFactory(BoundStorageFactory):
    """Everything under one folder."""

    def __init__(self, rootdir: str | Path, encoding: Encoding = Encoding.json) -> None:
        options = {"rootdir": str(rootdir), "encoding": encoding}
        super().__init__(**_bind(("disk", options), ("disk", options), ("disk", {"rootdir": str(rootdir)})))


class PostgresStorageFactory(BoundStorageFactory):
    """Rows and payloads in PostgreSQL; no blobs."""

    def __init__(self, connection_string: str, encoding: Encoding = Encoding.json, table_prefix: str = "") -> None:
        options = _postgres(connection_string, encoding, table_prefix)
        super().__init__(**_bind(("postgres", options), ("postgres", options), None))


class PostgresDiskStorageFactory(BoundStorageFactory):
    """Rows in PostgreSQL, payloads and blobs under a folder."""

    def __init__(
        self, connection_string: str, rootdir: str | Path, encoding: Encoding = Encoding.json, table_prefix: str = ""
    ) -> None:
        disk = {"rootdir": str(rootdir), "encoding": encoding}
        postgres = _postgres(connection_string, encoding, table_prefix)
        super().__init__(**_bind(("postgres", postgres), ("disk", disk), ("disk", disk)))


class PostgresS3StorageFactory(BoundStorageFactory):
    """Rows in PostgreSQL, payloads and blobs in S3."""

    def __init__(
        self,
        connection_string: str,
        s3_bucket: str,
        s3_region: str | None = None,
        s3_access_key_id: str | None = None,
        s3_secret_access_key: str | None = None,
        s3_endpoint_url: str | None = None,
        s3_client_kwargs: dict[str, Any] | None = None,
        encoding: Encoding = Encoding.json,
        table_prefix: str = "",
        blob_bucket: str | None = None,
        blob_prefix: str | None = None,
        upload_method: Literal["proxy", "single_put"] | None = None,
        presigned_url_expiry: int | None = None,
    ) -> None:
        s3 = dict[str, Any](
            bucket=s3_bucket,
            region_name=s3_region,
            access_key_id=s3_access_key_id,
            secret_access_key=s3_secret_access_key,
            endpoint_url=s3_endpoint_url,
            client_kwargs=s3_client_kwargs,
            encoding=encoding,
            blob_bucket=blob_bucket,
            blob_prefix=blob_prefix,
            upload_method=upload_method,
            presigned_url_expiry=presigned_url_expiry,
        )
        postgres = _postgres(connection_string, encoding, table_prefix)
        super().__init__(**_bind(("postgres", postgres), ("s3", s3), ("s3", s3)))


class PostgresDiskS3StorageFactory(BoundStorageFactory):
    """Rows in PostgreSQL, payloads under a folder, blobs in S3."""

    def __init__(
        self,
        connection_string: str,
        rootdir: str | Path,
        s3_bucket: str,
        s3_region: str | None = None,
        s3_access_key_id: str | None = None,
        s3_secret_access_key: str | None = None,
        s3_endpoint_url: str | None = None,
        s3_client_kwargs: dict[str, Any] | None = None,
        encoding: Encoding = Encoding.json,
        table_prefix: str = "",
        blob_bucket: str | None = None,
        blob_prefix: str | None = None,
        upload_method: Literal["proxy", "single_put"] | None = None,
        presigned_url_expiry: int | None = None,
    ) -> None:
        s3 = dict[str, Any](
            bucket=s3_bucket,
            region_name=s3_region,
            access_key_id=s3_access_key_id,
            secret_access_key=s3_secret_access_key,
            endpoint_url=s3_endpoint_url,
            client_kwargs=s3_client_kwargs,
            blob_bucket=blob_bucket,
            blob_prefix=blob_prefix,
            upload_method=upload_method,
            presigned_url_expiry=presigned_url_expiry,
        )
        postgres = _postgres(connection_string, encoding, table_prefix)
        disk = {"rootdir": str(rootdir), "encoding": encoding}
        super().__init__(**_bind(("postgres", postgres), ("disk", disk), ("s3", s3)))


class S3StorageFactory(BoundStorageFactory):
    """Everything in S3: rows in SQLite databases kept as objects, payloads and blobs as objects."""

    def __init__(
        self,
        bucket: str,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        region_name: str | None = None,
        endpoint_url: str | None = None,
        prefix: str | None = None,
        encoding: Encoding = Encoding.json,
        auto_sync: bool = True,
        sync_interval: float = 0,
        enable_locking: bool = True,
        auto_reload_on_conflict: bool = False,
        check_etag_on_read: bool = True,
        client_kwargs: dict[str, Any] | None = None,
        blob_bucket: str | None = None,
        blob_prefix: str | None = None,
        upload_method: Literal["proxy", "single_put"] | None = None,
        presigned_url_expiry: int | None = None,
    ) -> None:
        s3 = dict[str, Any](
            bucket=bucket,
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            region_name=region_name,
            endpoint_url=endpoint_url,
            prefix=prefix,
            encoding=encoding,
            auto_sync=auto_sync,
            sync_interval=sync_interval,
            enable_locking=enable_locking,
            auto_reload_on_conflict=auto_reload_on_conflict,
            check_etag_on_read=check_etag_on_read,
            client_kwargs=client_kwargs,
            blob_bucket=blob_bucket,
            blob_prefix=blob_prefix,
            upload_method=upload_method,
            presigned_url_expiry=presigned_url_expiry,
        )
        super().__init__(**_bind(("s3", s3), ("s3", s3), ("s3", s3)))


def _postgres(connection_string: str, encoding: Encoding, table_prefix: str) -> dict[str, Any]:
    return {"dsn": connection_string, "encoding": encoding, "table_prefix": table_prefix}
