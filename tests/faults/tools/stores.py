"""The stores that writers are killed over: how they are configured, and how their servers are seen without specstar."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import apsw
import asyncpg

from services import S3Endpoint, s3_client

__all__ = [
    "INLINE_BYTES",
    "bucket_keys",
    "disk_backend",
    "disk_is_sound",
    "leftovers",
    "payload_files",
    "postgres_backend",
    "s3_backend",
    "s3_binding",
    "sessions_end",
]

INLINE_BYTES = 4096
_DATABASE = "specstar.sqlite3"


def disk_backend(root: Path) -> dict[str, Any]:
    """All roles under one folder."""
    disk = {"type": "disk", "options": {"rootdir": str(root), "inline_payload_bytes": INLINE_BYTES}}
    return {"meta": disk, "resource": disk, "blob": disk}


def postgres_backend(dsn: str, schema: str, blobs: Path) -> dict[str, Any]:
    """Meta and resource on one connection."""
    postgres = {"type": "postgres", "options": {"dsn": dsn, "schema": schema}}
    return {"meta": postgres, "resource": postgres, "blob": disk_backend(blobs)["blob"]}


def s3_backend(server: S3Endpoint, bucket: str, prefix: str) -> dict[str, Any]:
    """All roles in one bucket."""
    s3 = s3_binding(server, bucket, prefix)
    return {"meta": s3, "resource": s3, "blob": s3}


def s3_binding(server: S3Endpoint, bucket: str, prefix: str) -> dict[str, Any]:
    """One role in a bucket, with parts as small as a server takes."""
    options = {
        "bucket": bucket,
        "prefix": prefix,
        "blob_prefix": f"{prefix}/blobs",
        "endpoint_url": server.endpoint_url,
        "access_key_id": server.access_key_id,
        "secret_access_key": server.secret_access_key,
        "auto_reload_on_conflict": True,
        "multipart_threshold_bytes": 5 << 20,
        "part_size_bytes": 5 << 20,
    }
    return {"type": "s3", "options": options}


def disk_is_sound(root: Path) -> None:
    """What SQLite itself says of the database, before anybody has mended it."""
    connection = apsw.Connection(str(root / _DATABASE))
    try:
        found = list(connection.execute("PRAGMA integrity_check"))
        assert found == [("ok",)], found
    finally:
        connection.close()


def leftovers(root: Path) -> list[str]:
    """What is neither a blob nor a payload: temporary files, and upload sessions that are not over."""
    found = [path for name in ("_tmp", "_blobs/_tmp") for path in (root / name).iterdir()]
    found += [path for path in (root / "_blobs/_uploads").iterdir() if not (path / "done.json").exists()]
    return [str(path.relative_to(root)) for path in found]


def payload_files(root: Path) -> int:
    """The number of payloads in files."""
    return sum(path.is_file() for path in (root / "_payloads").rglob("*"))


async def sessions_end(dsn: str, *, within: float = 10.0) -> None:
    """Wait until no killed process has a session in the database any more: what it sent has happened then, or never will."""
    connection = await asyncpg.connect(dsn, timeout=10, command_timeout=10)
    try:
        deadline = time.monotonic() + within
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        while await connection.fetchval(query):
            assert time.monotonic() < deadline, f"sessions of a killed process are still there after {within:g} s"
    finally:
        await connection.close()


def bucket_keys(server: S3Endpoint, bucket: str, prefix: str) -> list[str]:
    """All keys that begin with the prefix, as the server lists them."""
    keys: list[str] = []
    while True:
        query = {"list-type": "2", "prefix": prefix, "start-after": keys[-1] if keys else ""}
        root = ElementTree.fromstring(s3_client.request(server, "GET", f"/{bucket}", query))
        page = [node.text or "" for node in root.iter(f"{s3_client.NAMESPACE}Key")]
        if not page:
            return keys
        keys += page
