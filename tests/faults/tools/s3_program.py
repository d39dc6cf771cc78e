"""A program whose metadata and payloads are in S3, with short limits, and what they promise together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from services import S3Endpoint
from specstar import SpecStar
from specstar.blobs import BlobManager
from specstar.resource_manager import ResourceManager
from tests.faults.tools.managed_load import Entry

__all__ = ["CALL_LIMIT", "Program", "program", "s3_backend"]

OPERATION = 4.0
# A call puts its payload, waits for one push before its own, and for its own: each may be sent, and looked for, for as
# long as an operation may take.
CALL_LIMIT = OPERATION * 7


class Program(NamedTuple):
    spec: SpecStar
    users: ResourceManager[Entry]
    blobs: BlobManager


def s3_backend(endpoint_url: str, bucket: str, keys: S3Endpoint | None = None, **options: Any) -> dict[str, Any]:
    """The binding of a role. Without `keys`, a server that takes any."""
    limits = {
        "operation_timeout_seconds": OPERATION,
        "read_timeout_seconds": 1.5,
        "connect_timeout_seconds": 1.0,
        "auto_reload_on_conflict": True,
        **options,
    }
    login = {
        "access_key_id": keys.access_key_id if keys else "key",
        "secret_access_key": keys.secret_access_key if keys else "secret",
        "region_name": keys.region if keys else "us-east-1",
    }
    return {"type": "s3", "options": {"endpoint_url": endpoint_url, "bucket": bucket, **login, **limits}}


@asynccontextmanager
async def program(resource: dict[str, Any], *, meta: dict[str, Any] | None = None) -> AsyncIterator[Program]:
    """A program; `meta` if its metadata lies elsewhere."""
    spec = SpecStar()
    spec.configure(backend={"meta": meta or resource, "resource": resource, "blob": resource})
    users = spec.add_model(Entry, indexed_fields=["caller"])
    async with spec:
        yield Program(spec, users, spec.blobs)
