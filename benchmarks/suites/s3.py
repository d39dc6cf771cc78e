"""Resources and blobs on S3."""

from __future__ import annotations

from typing import Any

from benchmarks.case import Case, Entry, Scale, Suite, Target

__all__ = ["s3"]

_BLOB_BYTES = 64 << 20
_BLOB_MEMORY_MIB = 64


def s3(scale: Scale) -> Suite:
    """Each role by itself: payloads, meta, blobs."""
    options: dict[str, Any] = {
        "bucket": "{S3_BUCKET}",
        "endpoint_url": "{S3_ENDPOINT_URL}",
        "access_key_id": "{S3_ACCESS_KEY_ID}",
        "secret_access_key": "{S3_SECRET_ACCESS_KEY}",
        "region_name": "{S3_REGION}",
        "prefix": "ours/",
    }
    bound, memory = {"type": "s3", "options": options}, {"type": "memory"}
    common = {"blob_bytes": _BLOB_BYTES}

    def ours(name: str, cls: str, **roles: Any) -> Entry:
        backend = {"meta": memory, "resource": memory, "blob": memory, **roles}
        return Entry(
            name=name, cls=cls, setting={**common, "backend": backend, "distributions": ("aioboto3",)}, ours=True
        )

    def against(entry: str, at_least: float) -> Target:
        return Target(entry=entry, against="aioboto3", at_least=at_least)

    blob_memory = Target(entry="specstar, blobs", at_most=_BLOB_MEMORY_MIB, of="memory")
    return Suite(
        name="s3",
        servers=("s3",),
        entries=(
            ours("specstar, payloads", "s3_specstar:S3Resources", resource=bound),
            ours("specstar, meta", "s3_specstar:S3Resources", meta=bound),
            ours("specstar, blobs", "blobs:Blobs", blob=bound),
            Entry(name="aioboto3", cls="s3_raw:RawAioboto3", setting=common),
        ),
        cases=(
            Case(
                operation="put",
                title="resource put",
                callers=32,
                entries=("specstar, payloads", "aioboto3"),
                targets=(against("specstar, payloads", 0.95),),
            ),
            Case(
                operation="get",
                title="resource get",
                callers=32,
                entries=("specstar, payloads", "aioboto3"),
                targets=(against("specstar, payloads", 0.95),),
            ),
            Case(
                operation="meta_write",
                title="meta write",
                callers=32,
                entries=("specstar, meta", "aioboto3"),
                targets=(against("specstar, meta", 10),),
            ),
            Case(
                operation="blob_put",
                title="blob of 64 MiB, put",
                callers=1,
                unit="MiB/s",
                entries=("specstar, blobs", "aioboto3"),
                targets=(against("specstar, blobs", 1), blob_memory),
            ),
            Case(
                operation="blob_get",
                title="blob of 64 MiB, get",
                callers=1,
                unit="MiB/s",
                entries=("specstar, blobs", "aioboto3"),
                targets=(against("specstar, blobs", 1), blob_memory),
            ),
        ),
        notes=(
            (
                "One Ceph RADOS gateway, data in memory; one kept client with 64 connections for each contestant. The role that "
                "is not measured is in memory."
            ),
            (
                "Meta write by hand: a row into a SQLite database, then one conditional put (`If-Match`) of the database a call, "
                "in turn. specstar puts the rows of all callers that wait with one conditional put, which carries what changed "
                "since a base; now and then a new base."
            ),
            (
                "specstar also hashes blobs (SHA-256) on the way in and stores them by that, and checks what it reads "
                "by an XXH3; aioboto3 checks nothing of what it reads in ranges."
            ),
        ),
    )
