"""The backends that the conformance suites run over: a new one is one entry here for each role it fills.

A case makes the provider and options of one test: a fresh, empty place. It may take pytest fixtures by name with
`request.getfixturevalue`; `CASES[role]` maps the name of the case, which shows in test ids, to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from msgspec import Struct

from specstar.backends.disk import DiskOptions, DiskProvider
from specstar.backends.memory import MemoryOptions, MemoryProvider
from specstar.backends.postgres import PostgresOptions, PostgresProvider
from specstar.backends.provider import BackendProvider
from specstar.backends.s3 import S3Options, S3Provider

__all__ = ["CASES", "WITHOUT_SERVER", "Case", "Suite"]

Suite = Literal["meta", "resource", "blob", "storage"]


@dataclass(frozen=True)
class Case:
    """One backend in one role. `durable`: data outlives the connection. `resource`: the other half of a storage, if two."""

    provider: BackendProvider[Any, Any]
    options: Struct
    durable: bool = True
    resource: Case | None = None


CaseFactory = Callable[[pytest.FixtureRequest], Case]


def _memory(request: pytest.FixtureRequest) -> Case:
    return Case(MemoryProvider(), MemoryOptions(), durable=False)


def _disk(request: pytest.FixtureRequest) -> Case:
    return Case(DiskProvider(), DiskOptions(rootdir=str(request.getfixturevalue("tmp_path") / "root")))


def _disk_files(request: pytest.FixtureRequest) -> Case:
    """Every payload in a file of its own."""
    root = str(request.getfixturevalue("tmp_path") / "root")
    return Case(DiskProvider(), DiskOptions(rootdir=root, inline_payload_bytes=0))


def _disk_composed(request: pytest.FixtureRequest) -> Case:
    """Meta and resource on two folders: what any two backends are joined by."""
    folder = request.getfixturevalue("tmp_path")
    resource = Case(DiskProvider(), DiskOptions(rootdir=str(folder / "payloads"), inline_payload_bytes=64))
    return Case(DiskProvider(), DiskOptions(rootdir=str(folder / "rows")), resource=resource)


def _postgres(request: pytest.FixtureRequest) -> Case:
    return Case(PostgresProvider(), PostgresOptions(dsn=request.getfixturevalue("postgres_database")))


def _pgbouncer(request: pytest.FixtureRequest) -> Case:
    return Case(PostgresProvider(), PostgresOptions(dsn=request.getfixturevalue("pgbouncer_dsn"), pgbouncer=True))


def _postgres_composed(request: pytest.FixtureRequest) -> Case:
    """Meta and resource in two PostgreSQL schemas, by way of the stores of the single roles."""
    dsn = request.getfixturevalue("postgres_database")
    resource = Case(PostgresProvider(), PostgresOptions(dsn=dsn, schema="payloads"))
    return Case(PostgresProvider(), PostgresOptions(dsn=dsn, schema="rows"), resource=resource)


def _s3_options(request: pytest.FixtureRequest, **more: Any) -> S3Options:
    server = request.getfixturevalue("s3")
    return S3Options(
        bucket=request.getfixturevalue("s3_bucket"),
        endpoint_url=server.endpoint_url,
        access_key_id=server.access_key_id,
        secret_access_key=server.secret_access_key,
        region_name=server.region,
        **more,
    )


def _s3(request: pytest.FixtureRequest) -> Case:
    return Case(S3Provider(), _s3_options(request))


def _s3_parts(request: pytest.FixtureRequest) -> Case:
    """Large blobs in small parts, at the root of the bucket."""
    more = {"multipart_threshold_bytes": 5 << 20, "part_size_bytes": 5 << 20, "blob_prefix": ""}
    return Case(S3Provider(), _s3_options(request, **more))


def _s3_reload(request: pytest.FixtureRequest) -> Case:
    """Another way through the metadata protocol, under a prefix."""
    return Case(S3Provider(), _s3_options(request, auto_reload_on_conflict=True, prefix="some/where"))


def _s3_local(request: pytest.FixtureRequest) -> Case:
    """Metadata pushed at close only."""
    return Case(S3Provider(), _s3_options(request, auto_sync=False, check_etag_on_read=False))


CASES: dict[Suite, dict[str, CaseFactory]] = {
    "meta": {
        "memory": _memory,
        "disk": _disk,
        "postgres": _postgres,
        "pgbouncer": _pgbouncer,
        "s3": _s3,
        "s3-reload": _s3_reload,
        "s3-local": _s3_local,
    },
    "resource": {"memory": _memory, "disk": _disk, "disk-files": _disk_files, "postgres": _postgres, "s3": _s3},
    "blob": {"memory": _memory, "disk": _disk, "s3": _s3, "s3-parts": _s3_parts},
    "storage": {
        "memory": _memory,
        "disk": _disk,
        "disk-files": _disk_files,
        "disk-composed": _disk_composed,
        "postgres": _postgres,
        "pgbouncer": _pgbouncer,
        "postgres-composed": _postgres_composed,
        "s3": _s3,
    },
}

WITHOUT_SERVER = {"memory", "disk", "disk-files", "disk-composed"}
"""Cases that cost little: they are run for one more kind of caller."""
