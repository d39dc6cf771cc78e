"""What stores keep: the meta row of a resource, its revisions, blobs and messages."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Any

from msgspec import Struct, field

from specstar.config.encoding import Encoding

__all__ = ["BlobInfo", "ResourceMeta", "RevisionInfo", "RevisionStatus", "StoredRevision", "unreadable_revision"]


class RevisionStatus(enum.StrEnum):
    """`stable` revisions never change; a `draft` may be rewritten in place by `modify`."""

    stable = "stable"
    draft = "draft"


class ResourceMeta(Struct, frozen=True, kw_only=True, gc=False):
    """The one mutable row of a resource. Times are aware and in UTC.

    `version` grows by one with every change of the row (also with delete, restore and switch) and is what conditional
    writes compare; under an id that a caller gave it begins at a random number, so that a resource which is erased and made
    anew does not pass for the old one. `indexed_data` is the flat projection of the current payload: declared field path to
    plain value.
    """

    resource_id: str
    current_revision_id: str
    revision_count: int = 1
    version: int = 1
    created_time: datetime
    updated_time: datetime
    created_by: str = ""
    updated_by: str = ""
    is_deleted: bool = False
    schema_version: str | None = None
    indexed_data: dict[str, Any] = field(default_factory=dict)


class RevisionInfo(Struct, frozen=True, kw_only=True, gc=False):
    """One revision of a resource, without its payload.

    `payload_id` is the key of the payload in the resource store: new for every write, so that rewriting a draft is a new
    payload plus a changed pointer, never a write over bytes that something points to. `size` is in bytes.
    """

    resource_id: str
    revision_id: str
    parent_revision_id: str | None = None
    payload_id: str
    status: RevisionStatus = RevisionStatus.stable
    encoding: Encoding = Encoding.json
    size: int = 0
    created_time: datetime
    updated_time: datetime
    created_by: str = ""
    updated_by: str = ""
    schema_version: str | None = None


# The id of no payload: ids that are made are UUIDs.
_NOWHERE = "-"


def unreadable_revision(meta: ResourceMeta) -> RevisionInfo:
    """In a row of many: the current revision, if this version does not understand its record.

    It has no payload. Who looks for one reads the row again by itself, and has the error: see `Storage.with_payload`.
    """
    return RevisionInfo(
        resource_id=meta.resource_id,
        revision_id=meta.current_revision_id,
        payload_id=_NOWHERE,
        created_time=meta.updated_time,
        updated_time=meta.updated_time,
        created_by=meta.updated_by,
        updated_by=meta.updated_by,
    )


class StoredRevision(Struct, frozen=True, gc=False):
    """A resource as a store hands it over: its meta row, one revision, and the payload as encoded bytes."""

    meta: ResourceMeta
    revision: RevisionInfo
    payload: bytes


class BlobInfo(Struct, frozen=True, kw_only=True):
    """A stored blob. `file_id` is the lower-case hexadecimal SHA-256 of its bytes; `size` is in bytes."""

    file_id: str
    size: int
    content_type: str = "application/octet-stream"
    created_time: datetime

    @property
    def sha256(self) -> str:
        """The lower-case hexadecimal SHA-256 of the content, which is also its id."""
        return self.file_id
