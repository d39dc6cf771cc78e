"""What can be set for the disk backend."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from specstar.config.encoding import Encoding

__all__ = ["DiskOptions"]


class DiskOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the backend type `disk`."""

    rootdir: Annotated[
        str,
        Meta(
            min_length=1,
            description=(
                "Folder for metadata, payloads and `_blobs/`; made on first use, with its parents. `~` is expanded; a relative "
                "path starts at the working directory. On a local file system: network file systems lose SQLite's locks."
            ),
        ),
    ]
    encoding: Annotated[
        Encoding, Meta(description="Format of new payloads, json or msgpack. Default: that of `defaults`, else json.")
    ] = Encoding.json
    inline_payload_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=16 << 20,
            description="Payloads up to this many bytes lie in the database, larger ones in files. Default 65536.",
        ),
    ] = 64 << 10
    reader_threads: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="Threads, each with its own connection, for searches: one, and more beside slow ones. Default 2.",
        ),
    ] = 2
    mmap_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 46,
            description=(
                "How much of the database file is mapped into memory for reading. It makes reads of large databases faster; "
                "but a page that the disk cannot read, or a file that something else cuts short, then ends the process "
                "(SIGBUS) where it would raise an error. Default 0: nothing."
            ),
        ),
    ] = 0
    batch_bytes: Annotated[
        int,
        Meta(
            ge=64 << 10,
            le=256 << 20,
            description=(
                "Bytes at most of the writes that share one transaction, and of the payload files that are written "
                "together; a larger one travels alone. Default 8388608."
            ),
        ),
    ] = 8 << 20
    busy_timeout_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="How long to wait for another process that writes to the same folder. Default 10.",
        ),
    ] = 10.0
