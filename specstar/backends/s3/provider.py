"""Backend type `s3`: its roles, option checks, connection and stores."""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec import Struct

from specstar.backends.provider import BackendContext, BackendProvider, Role
from specstar.backends.s3.option_checks import problems_of
from specstar.backends.s3.options import S3Options

if TYPE_CHECKING:
    from specstar.backends.s3.connection import S3Connection
    from specstar.config import BackendDefaults
    from specstar.roles import BlobStore, MetaStore, ModelSpec, ResourceStore

__all__ = ["S3Provider"]

_OF_THE_CLIENT = (
    "access_key_id",
    "secret_access_key",
    "region_name",
    "endpoint_url",
    "client_kwargs",
    "connect_timeout_seconds",
    "read_timeout_seconds",
    "operation_timeout_seconds",
    "max_attempts",
    "max_pool_connections",
    "addressing_style",
)


class S3Provider(BackendProvider[S3Options, "S3Connection"]):
    """AWS S3 and servers that speak its protocol."""

    type: ClassVar[str] = "s3"
    roles: ClassVar[frozenset[Role]] = frozenset({"meta", "resource", "blob"})
    options_type: ClassVar[builtins.type[Struct]] = S3Options
    native: ClassVar[bool] = False
    extra: ClassVar[str | None] = "s3"
    aliases: ClassVar[dict[str, str]] = {
        "s3_access_key_id": "access_key_id",
        "s3_secret_access_key": "secret_access_key",
        "s3_region": "region_name",
        "s3_endpoint_url": "endpoint_url",
        "s3_client_kwargs": "client_kwargs",
    }

    def apply_defaults(self, options: dict[str, Any], defaults: BackendDefaults) -> dict[str, Any]:
        shared = {
            "encoding": defaults.encoding,
            "blob_prefix": defaults.blob_prefix,
            "upload_method": defaults.upload_method,
            "presigned_url_expiry": defaults.presigned_url_expiry,
        }
        return {**shared, **options}

    def validate(self, options: S3Options, role: Role) -> list[tuple[str, str]]:
        return problems_of(options)

    def connection_key(self, options: S3Options) -> Hashable:
        client = tuple((name, _frozen(getattr(options, name))) for name in _OF_THE_CLIENT)
        # The key may be shown while debugging: it holds a digest of the settings, not the secrets.
        return "s3", options.bucket, options.bucket_of_blobs, hashlib.sha256(repr(client).encode()).hexdigest()

    def connect(self, options: S3Options) -> S3Connection:
        from specstar.backends.s3.connection import S3Connection

        return S3Connection(options)

    def meta_store(self, context: BackendContext[S3Options, S3Connection], model: ModelSpec) -> MetaStore:
        from specstar.backends.s3.meta_store import S3MetaStore

        return S3MetaStore(context, model)

    def resource_store(self, context: BackendContext[S3Options, S3Connection], model: ModelSpec) -> ResourceStore:
        from specstar.backends.s3.resource_store import S3ResourceStore

        return S3ResourceStore(context, model)

    def blob_store(self, context: BackendContext[S3Options, S3Connection]) -> BlobStore:
        from specstar.backends.s3.blob_store import S3BlobStore

        return S3BlobStore(context)


def _frozen(value: Any) -> Any:
    """An option value by its content; objects that are no plain data count by identity."""
    if isinstance(value, dict):
        return tuple(sorted((str(key), repr(_frozen(item))) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    if value is None or isinstance(value, str | bytes | int | float | bool):
        return value
    return type(value).__name__, id(value)
