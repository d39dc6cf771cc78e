"""What a change writes: the new row and the new revision, as of the current author and time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar

from msgspec.structs import replace

from specstar.checks import made_of_each
from specstar.config.encoding import Encoding
from specstar.query import Projector
from specstar.resource_manager.authorship import Authorship
from specstar.resource_manager.codec import Codec
from specstar.resource_manager.ids import checked_id, id_after, new_id
from specstar.resource_manager.writer import Current
from specstar.roles import MetaWrite, ResourceMeta, RevisionInfo, RevisionStatus
from specstar.roles.storage import Advance, StorageWrite

__all__ = ["Drafting"]

T = TypeVar("T")
# Random ones of a revision's id: 40 bits, which JSON and JavaScript keep exactly.
_VERSION_DIGITS = 10


class Drafting(Generic[T]):
    """Makes the records of changes to one model. Writes nothing."""

    def __init__(self, authorship: Authorship, projector: Projector, schema_version: str | None) -> None:
        self._authorship = authorship
        self._project = projector
        self._schema_version = schema_version

    def first(self, codec: Codec[T], data: T, resource_id: str | None, status: RevisionStatus) -> StorageWrite:
        """A new resource, under a new id if none is given. Raises `InvalidInputError` for data or an id that cannot be."""
        payload, data = codec.checked(data)
        revision_id = new_id()
        version = 1
        if resource_id is None:
            resource_id = new_id()
        else:
            # Such an id may come again after it was erased: whoever still has a row of the old one must not hit the new.
            checked_id(resource_id)
            version = int(revision_id[-_VERSION_DIGITS:], 16) + 1
        author = self._authorship.current()
        now = author.now()
        meta = ResourceMeta(
            resource_id=resource_id,
            current_revision_id=revision_id,
            version=version,
            created_time=now,
            updated_time=now,
            created_by=author.user,
            updated_by=author.user,
            schema_version=self._schema_version,
            indexed_data=self._project(data),
        )
        revision = self._revision(
            codec.encoding, resource_id, revision_id, payload, parent=None, status=status, now=now, user=author.user
        )
        return StorageWrite(MetaWrite(meta, revision, None), payload)

    def first_of_many(
        self, codec: Codec[T], values: Sequence[T], resource_ids: Sequence[str | None], status: RevisionStatus
    ) -> list[StorageWrite]:
        """`first` for each of several, in order. The error says which of them it is about."""
        given = zip(values, resource_ids, strict=True)
        return made_of_each(given, lambda pair: self.first(codec, *pair, status), field="data")

    def next(
        self, encoding: Encoding, meta: ResourceMeta, data: T, payload: bytes, status: RevisionStatus
    ) -> StorageWrite:
        """The next revision of a resource."""
        revision_id = id_after(meta.current_revision_id, changed=meta.updated_time, revisions=meta.revision_count)
        after = self.touched(
            meta,
            current_revision_id=revision_id,
            revision_count=meta.revision_count + 1,
            schema_version=self._schema_version,
            indexed_data=self._project(data),
        )
        revision = self._revision(
            encoding,
            meta.resource_id,
            revision_id,
            payload,
            parent=meta.current_revision_id,
            status=status,
            now=after.updated_time,
            user=after.updated_by,
        )
        return StorageWrite(MetaWrite(after, revision, meta.version), payload)

    def onward(
        self,
        encoding: Encoding,
        resource_id: str,
        parent_revision_id: str,
        data: T,
        payload: bytes,
        status: RevisionStatus,
    ) -> Advance:
        """The revision after one that is known by its id alone."""
        author = self._authorship.current()
        revision = self._revision(
            encoding,
            resource_id,
            id_after(parent_revision_id),
            payload,
            parent=parent_revision_id,
            status=status,
            now=author.now(),
            user=author.user,
        )
        return Advance(revision, self._project(data), payload)

    def _revision(
        self,
        encoding: Encoding,
        resource_id: str,
        revision_id: str,
        payload: bytes,
        *,
        parent: str | None,
        status: RevisionStatus,
        now: datetime,
        user: str,
    ) -> RevisionInfo:
        """A new revision; its payload has its id."""
        return RevisionInfo(
            resource_id=resource_id,
            revision_id=revision_id,
            parent_revision_id=parent,
            payload_id=revision_id,
            status=status,
            encoding=encoding,
            size=len(payload),
            created_time=now,
            updated_time=now,
            created_by=user,
            updated_by=user,
            schema_version=self._schema_version,
        )

    def rewritten(
        self, encoding: Encoding, current: Current, data: T, payload: bytes, status: RevisionStatus
    ) -> StorageWrite:
        """The current revision, rewritten in place. It must be known."""
        meta, revision = current.meta, current.revision
        assert revision is not None
        after = self.touched(meta, schema_version=self._schema_version, indexed_data=self._project(data))
        changed = RevisionInfo(
            resource_id=revision.resource_id,
            revision_id=revision.revision_id,
            parent_revision_id=revision.parent_revision_id,
            payload_id=new_id(),
            status=status,
            encoding=encoding,
            size=len(payload),
            created_time=revision.created_time,
            updated_time=after.updated_time,
            created_by=revision.created_by,
            updated_by=after.updated_by,
            schema_version=self._schema_version,
        )
        return StorageWrite(MetaWrite(after, changed, meta.version), payload)

    def touched(self, meta: ResourceMeta, **changes: Any) -> ResourceMeta:
        """The row after a change: version, time and user move on with it."""
        author = self._authorship.current()
        moved = {
            "version": meta.version + 1,
            "updated_time": max(author.now(), meta.updated_time),
            "updated_by": author.user,
        }
        return replace(meta, **moved, **changes)
