"""Backend type `s3`: its roles, option checks, connection and stores."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from specstar.backends.provider import BackendContext, BackendProvider, Role
from specstar.backends.s3.options import S3Options

if TYPE_CHECKING:
    from specstar.backends.s3.connection import S3Connection
    from specstar.config import BackendDefaults
    from specstar.roles import BlobStore, MetaStore, ModelSpec, ResourceStore

__all__ = ["S3Provider"]

# What `aiobotocore.session.AioSession.create_client` takes beside the service name.
CLIENT_ARGUMENTS = (
    "api_version",
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "config",
    "endpoint_url",
    "region_name",
    "use_ssl",
    "verify",
)
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
    options_type = S3Options
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
        problems: list[tuple[str, str]] = []
        if (options.access_key_id is None) != (options.secret_access_key is None):
            missing = "access_key_id" if options.access_key_id is None else "secret_access_key"
            problems.append((missing, "access_key_id and secret_access_key go together: give both, or neither"))
        if options.endpoint_url is not None and (wrong := _endpoint_problem(options.endpoint_url)):
            problems.append(("endpoint_url", wrong))
        for name in ("prefix", "blob_prefix"):
            problem = _prefix_problem(getattr(options, name))
            if problem:
                problems.append((name, problem))
        for name in options.client_kwargs:
            if name not in CLIENT_ARGUMENTS:
                near = difflib.get_close_matches(name, CLIENT_ARGUMENTS, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else f"; known: {', '.join(CLIENT_ARGUMENTS)}"
                problems.append(("client_kwargs", f"the S3 client takes no argument {name!r}{hint}"))
        verify = options.client_kwargs.get("verify")
        if not isinstance(verify, bool | str | os.PathLike | None):
            problems.append(("client_kwargs", "verify is true, false, or the path of a file of CA certificates"))
        if options.part_size_bytes > options.multipart_threshold_bytes:
            problems.append(("part_size_bytes", "a part may not be larger than multipart_threshold_bytes"))
        return problems

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


def _prefix_problem(prefix: str) -> str | None:
    if prefix.startswith("/"):
        return "a prefix does not begin with a slash"
    if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) <= 0xDFFF for char in prefix):
        return "a prefix has no control characters"
    if len(prefix.encode()) > 400:
        return "a prefix has at most 400 bytes in UTF-8"
    return None


def _frozen(value: Any) -> Any:
    """An option value by its content; objects that are no plain data count by identity."""
    if isinstance(value, dict):
        return tuple(sorted((str(key), repr(_frozen(item))) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    if value is None or isinstance(value, str | bytes | int | float | bool):
        return value
    return type(value).__name__, id(value)


def _endpoint_problem(url: str) -> str | None:
    """What is wrong with an endpoint, or None. Shows nothing of it: whoever wrote a password into it must not read it here."""
    if "@" in url:
        return "holds no user or password: use access_key_id and secret_access_key"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  it is checked when it is asked for
    except ValueError:
        return "is no URL: write http://host:port, an IPv6 address in brackets"
    if not parts.hostname or any(char.isspace() for char in url):
        return "names no host: write http://host:port"
    if parts.query or parts.fragment:
        return "ends with the host or a path: ? and # have no meaning in it"
    return None
