"""Where blobs lie in the bucket, and what their objects say of them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from specstar.backends.checksums import Sums
from specstar.backends.s3.connection import S3Connection
from specstar.backends.s3.errors import ObjectMissing
from specstar.backends.s3.keys import slashed
from specstar.backends.s3.options import S3Options
from specstar.errors import BlobNotFoundError
from specstar.roles import BlobInfo

__all__ = ["BlobLayout", "metadata_of", "new_info", "xxh3_of"]

_FILE_ID = re.compile(r"[0-9a-f]{64}")
_UPLOAD_ID = re.compile(r"[0-9a-f]{32}")
_XXH3 = re.compile(r"[0-9a-f]{32}")
_CREATED = "created"
_CHECKSUM = "xxh3"


class BlobLayout:
    """`{blob_prefix}{sha256}` for blobs, `{blob_prefix}_uploads/{id}/...` for what is not finished."""

    def __init__(self, options: S3Options) -> None:
        self.bucket: str = options.bucket_of_blobs
        self.root: str = slashed(options.blob_prefix)
        self.uploads: str = f"{self.root}_uploads/"

    def key(self, file_id: str) -> str:
        """The key of a blob. Raises `BlobNotFoundError` for what is no SHA-256."""
        if not isinstance(file_id, str) or _FILE_ID.fullmatch(file_id) is None:
            raise BlobNotFoundError(str(file_id))
        return self.root + file_id

    def is_blob(self, key: str) -> bool:
        """True if the key is that of a blob."""
        return key.startswith(self.root) and _FILE_ID.fullmatch(key, len(self.root)) is not None

    def session(self, upload_id: str) -> str | None:
        """What the keys of an upload session begin with; None for an id that none can have."""
        if not isinstance(upload_id, str) or _UPLOAD_ID.fullmatch(upload_id) is None:
            return None
        return f"{self.uploads}{upload_id}/"

    def session_of(self, key: str) -> str | None:
        """The upload that a key belongs to, or None."""
        upload_id, slash, _ = key.removeprefix(self.uploads).partition("/")
        return upload_id if slash and key.startswith(self.uploads) and _UPLOAD_ID.fullmatch(upload_id) else None

    async def find(self, connection: S3Connection, file_id: str) -> BlobInfo | None:
        """What is known of a blob; None if it is not there."""
        try:
            return self.info(file_id, await connection.call("head_object", Bucket=self.bucket, Key=self.key(file_id)))
        except ObjectMissing:
            return None

    def info(self, file_id: str, answer: dict[str, Any], *, size: int | None = None) -> BlobInfo:
        """A blob from the answer to GET or HEAD."""
        metadata = answer.get("Metadata", {})
        try:
            created = datetime.fromisoformat(metadata[_CREATED])
        except (KeyError, ValueError):
            created = answer["LastModified"]
        return BlobInfo(
            file_id=file_id,
            size=answer["ContentLength"] if size is None else size,
            content_type=answer.get("ContentType") or "application/octet-stream",
            created_time=created.astimezone(UTC),
        )


def new_info(file_id: str, size: int, content_type: str) -> BlobInfo:
    """A blob that is being stored now."""
    return BlobInfo(file_id=file_id, size=size, content_type=content_type, created_time=datetime.now(UTC))


def metadata_of(info: BlobInfo, sums: Sums) -> dict[str, str]:
    """What the object keeps beside S3's own fields."""
    return {_CREATED: info.created_time.isoformat(), _CHECKSUM: sums.xxh3}


def xxh3_of(answer: dict[str, Any]) -> str | None:
    """The checksum that is stored with a blob, from the answer to GET or HEAD; None if there is none."""
    found = answer.get("Metadata", {}).get(_CHECKSUM)
    return found if found is not None and _XXH3.fullmatch(found) else None
