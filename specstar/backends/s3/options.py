"""What can be set for the S3 backend, with defaults."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct

from specstar.config.encoding import Encoding
from specstar.config.redaction import Redacted

__all__ = ["S3Options"]

MIB = 1 << 20


class S3Options(Redacted, Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of backend type `s3`. Secrets print as `***`."""

    secrets: ClassVar[frozenset[str]] = frozenset({"access_key_id", "secret_access_key", "client_kwargs"})

    bucket: Annotated[
        str,
        Meta(
            min_length=3, max_length=255, description="Main bucket, for metadata and resource payloads. It must exist."
        ),
    ]
    blob_bucket: (
        Annotated[
            str, Meta(min_length=3, max_length=255, description="Bucket for blobs; without it, blobs go to `bucket`.")
        ]
        | None
    ) = None
    prefix: Annotated[
        str,
        Meta(max_length=400, description="What metadata and resource keys begin with; a missing last slash is added."),
    ] = ""
    blob_prefix: Annotated[
        str,
        Meta(max_length=400, description="What blob keys begin with; a missing last slash is added."),
    ] = "blobs/"
    access_key_id: (
        Annotated[str, Meta(min_length=1, description="Access key; without keys, the ordinary AWS credential chain.")]
        | None
    ) = None
    secret_access_key: (
        Annotated[str, Meta(min_length=1, description="Secret key; without keys, the ordinary AWS credential chain.")]
        | None
    ) = None
    region_name: Annotated[str, Meta(min_length=1, description="Region of the buckets.")] = "us-east-1"
    endpoint_url: (
        Annotated[
            str,
            Meta(
                pattern="^https?://",
                description="Endpoint of an S3-compatible server, e.g. http://127.0.0.1:9000; without it, AWS.",
            ),
        ]
        | None
    ) = None
    client_kwargs: Annotated[
        dict[str, Any],
        Meta(
            description="More arguments for the S3 client, e.g. verify, use_ssl, aws_session_token; `config` takes a mapping "
            "of botocore Config options. They win over the other options."
        ),
    ] = {}
    encoding: Annotated[Encoding, Meta(description="Format of resource payloads.")] = Encoding.json
    auto_sync: Annotated[
        bool,
        Meta(description="Push metadata to the bucket with every batch of writes; false: only on sync() and close."),
    ] = True
    sync_interval: Annotated[
        float,
        Meta(ge=0, description="Seconds between periodic pulls and pushes of metadata in the background; 0: none."),
    ] = 0
    enable_locking: Annotated[
        bool,
        Meta(
            description="Push metadata only if the object is the one that was read (ETag), so no foreign write is lost."
        ),
    ] = True
    auto_reload_on_conflict: Annotated[
        bool,
        Meta(description="After a foreign write, reload the metadata, replay the pending writes and push again."),
    ] = False
    check_etag_on_read: Annotated[
        bool,
        Meta(description="Before reading metadata, ask whether the object changed, and reload it if so."),
    ] = True
    upload_method: Annotated[
        Literal["proxy", "single_put"],
        Meta(description="How upload sessions take bytes: through the program, or by a presigned PUT of the client."),
    ] = "proxy"
    presigned_url_expiry: Annotated[
        int, Meta(ge=1, le=604_800, description="Seconds that presigned URLs and upload sessions are valid.")
    ] = 3600
    connect_timeout_seconds: Annotated[float, Meta(gt=0, description="Longest time to connect to the server.")] = 5.0
    read_timeout_seconds: Annotated[
        float, Meta(gt=0, description="Longest silence of the server within one request.")
    ] = 20.0
    operation_timeout_seconds: Annotated[
        float,
        Meta(
            gt=0,
            description="Longest time of one operation with its retries; it begins anew with each piece of a body of over 1 MiB.",
        ),
    ] = 60.0
    max_attempts: Annotated[
        int, Meta(ge=1, le=20, description="Requests at most for one operation, the first included; 1: no retries.")
    ] = 4
    max_pool_connections: Annotated[int, Meta(ge=1, le=4096, description="Connections kept to the server at most.")] = (
        64
    )
    multipart_threshold_bytes: Annotated[
        int, Meta(ge=5 * MIB, le=5 << 30, description="Blobs from this size on are sent in parts.")
    ] = 16 * MIB
    part_size_bytes: Annotated[
        int,
        Meta(
            ge=5 * MIB, le=1 << 30, description="Size of a part; grows by itself for blobs of more than 10,000 parts."
        ),
    ] = 8 * MIB
    part_concurrency: Annotated[
        int, Meta(ge=1, le=64, description="Parts of one blob in flight; memory is part size times this plus one.")
    ] = 4
    addressing_style: Annotated[
        Literal["auto", "path", "virtual"],
        Meta(
            description="Bucket in the path or in the host name; auto: path with `endpoint_url`, else what AWS prefers."
        ),
    ] = "auto"
    max_meta_bytes: Annotated[
        int,
        Meta(
            ge=64 << 10,
            le=1 << 30,
            description="Largest metadata of a model; a write beyond is refused. Held in memory, sent whole from time to time.",
        ),
    ] = 256 * MIB
    batch_bytes: Annotated[
        int,
        Meta(
            ge=64 << 10,
            le=256 << 20,
            description="Bytes at most of the metadata rows that share one push; a larger row travels alone.",
        ),
    ] = 8 * MIB

    @property
    def bucket_of_blobs(self) -> str:
        """The bucket for blobs."""
        return self.blob_bucket or self.bucket
