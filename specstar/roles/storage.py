"""Meta and resource together, for one model: the seam where both set-up levels meet."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, NamedTuple

from msgspec import Struct

from specstar.errors import BackendUnavailable, DecodeError, OutcomeUnknownError, SpecstarError
from specstar.query import META_FIELDS, Condition, IndexedField, Query, matches
from specstar.roles.meta import MetaWrite
from specstar.roles.records import ResourceMeta, RevisionInfo, StoredRevision
from specstar.roles.resource import PayloadKey, StoredPayload

__all__ = ["Advance", "AdvancingStorage", "Found", "ModelSpec", "Storage", "StorageWrite", "is_refusal", "payload_gone"]

logger: logging.Logger = logging.getLogger("specstar")


class ModelSpec(Struct, frozen=True, kw_only=True):
    """What a store needs to know of a model: its name (any text, encoded by each backend) and the fields it can search.

    `busy_rows`: each row is rewritten soon and often, so that writes matter more than searches by these fields alone. A store
    whose indexes make every write dearer may leave them out, and keep one of `revision_count`.
    """

    name: str
    indexed_fields: tuple[IndexedField, ...] = ()
    busy_rows: bool = False


class StorageWrite(NamedTuple):
    """One change with the payload of its revision; None where the change brings no new payload."""

    change: MetaWrite
    payload: bytes | None


class Advance(NamedTuple):
    """A new current revision of a resource whose row the caller has not read.

    `revision.parent_revision_id` is the revision that must be the current one; `revision.revision_id` is new. Both its times
    are the time of the change. `indexed_data` is the projection of the new payload.
    """

    revision: RevisionInfo
    indexed_data: dict[str, Any]
    payload: bytes


class Found(NamedTuple):
    """What a search found, with the last row that it saw: where the next page begins.

    That one may have been erased or changed before its payload was read. None: there are no more.
    """

    resources: list[StoredRevision]
    last: ResourceMeta | None

    @classmethod
    def of(cls, query: Query, rows: Sequence[ResourceMeta], read: Sequence[StoredRevision | None]) -> Found:
        """From the rows that met the query and what was read of each after that: None if it was erased meanwhile."""
        resources = [
            now
            for row, now in zip(rows, read, strict=True)
            if now is not None and (now.meta.version == row.version or _meets(query, now.meta))
        ]
        return cls(resources, rows[-1] if query.limit and len(rows) >= query.limit else None)


def _meets(query: Query, row: ResourceMeta) -> bool:
    if row.is_deleted and not query.include_deleted:
        return False
    meta = {name: getattr(row, name) for name in META_FIELDS}
    return query.condition is None or matches(query.condition, row.indexed_data, meta)


class Storage(ABC):
    """The resources of one model: rows, revisions and payloads.

    A write returns once all of it is durable, and is visible whole or not at all. Errors are those of `MetaStore`.
    """

    portable: ClassVar[bool] = False
    """Whether `write`, `read` and `read_meta` may be called on any loop and thread: where they await batchers alone."""

    shares_rows: bool = False
    """As for `MetaStore`."""

    @abstractmethod
    async def write(self, item: StorageWrite) -> None:
        """Apply one change. Raises what `MetaStore.write` raises."""

    @abstractmethod
    async def write_many(self, items: Sequence[StorageWrite]) -> list[Exception | None]:
        """Apply changes of different resources, each by itself; one entry a change, None for those that were made."""

    @abstractmethod
    async def read(self, resource_id: str, revision_id: str | None = None) -> StoredRevision | ResourceMeta | None:
        """A resource with one revision (None: the current one), deleted or not.

        The bare meta row if the resource has no such revision; None if there is no such resource. Raises `DecodeError` if
        the payload that the revision points to is gone.
        """

    @abstractmethod
    async def read_many(self, resource_ids: Sequence[str]) -> list[StoredRevision | None]:
        """The current revisions, one entry an id, in the order of the ids."""

    async def with_payload(
        self, meta: ResourceMeta, revision: RevisionInfo, payload: bytes | DecodeError | None
    ) -> StoredRevision | None:
        """A row of many, with the payload that was read after it: None if there is none any more, or why it is damaged.

        One that is lost or damaged must not hide the others: it is logged, and gets empty bytes. They are no payload, so
        whoever reads its data has the error. None if the resource was erased meanwhile.
        """
        try:
            if payload is None:
                again = await self.read(meta.resource_id)
                return again if isinstance(again, StoredRevision) else None
        except DecodeError as lost:
            payload = lost
        if isinstance(payload, DecodeError):
            logger.error("%s", payload)
            payload = b""
        return StoredRevision(meta, revision, payload)

    @abstractmethod
    async def read_meta(self, resource_id: str) -> ResourceMeta | None:
        """The row, deleted or not."""

    @abstractmethod
    async def read_revision(
        self, resource_id: str, revision_id: str | None = None
    ) -> tuple[ResourceMeta, RevisionInfo | None] | None:
        """The row and the record of one revision, without its payload."""

    @abstractmethod
    async def list_revisions(self, resource_id: str) -> list[RevisionInfo]:
        """All revisions, oldest first."""

    @abstractmethod
    async def erase(self, resource_id: str, *, expected_version: int | None = None) -> bool:
        """Remove a resource for good, with all its revisions and payloads. False if there was none."""

    @abstractmethod
    async def find(self, query: Query) -> Found:
        """The matching resources in the order of the query, without those that were erased meanwhile. Raises `QueryError`."""

    async def search(self, query: Query) -> list[StoredRevision]:
        """The resources that `find` finds."""
        return (await self.find(query)).resources

    @abstractmethod
    async def search_meta(self, query: Query) -> list[ResourceMeta]:
        """The matching rows alone."""

    @abstractmethod
    async def count(self, condition: Condition | None = None, *, include_deleted: bool = False) -> int:
        """The number of matching resources."""

    @abstractmethod
    async def explain(self, query: Query) -> str:
        """The backend's own plan for this query, as text."""

    @abstractmethod
    def list_payloads(self) -> AsyncIterator[list[StoredPayload]]:
        """All payloads that lie outside the meta store's own transactions, for garbage collection."""

    async def clock(self) -> datetime:
        """What `ResourceStore.clock` says."""
        return datetime.now(UTC)

    @abstractmethod
    async def unreferenced(self, keys: Sequence[PayloadKey]) -> list[PayloadKey]:
        """Those of the keys that no revision points to."""

    @abstractmethod
    async def drop_payloads(self, keys: Sequence[PayloadKey]) -> None:
        """Erase payloads found to be garbage."""

    async def sweep(self, *, older_than_seconds: float) -> int:
        """Remove the unfinished files of killed writers, if older than this; returns how many."""
        return 0

    @property
    def deferred(self) -> bool:
        """What `MetaStore.deferred` says."""
        return False

    async def sync(self) -> None:
        """What `MetaStore.sync` does."""
        return

    async def discard(self) -> None:
        """What `MetaStore.discard` does."""
        return


def is_refusal(error: Exception | None) -> bool:
    """True if nothing was written for sure. Else a payload that was written must stay: its row may be there."""
    return isinstance(error, SpecstarError) and not isinstance(error, BackendUnavailable | OutcomeUnknownError)


def payload_gone(revision: RevisionInfo, *, model: str, where: str) -> DecodeError:
    """The error for a revision without its payload, which only a damaged store has."""
    return DecodeError(
        f"the payload of revision {revision.revision_id} of {model} {revision.resource_id!r} is gone from {where}; restore it "
        "from a backup, or erase the resource with permanently_delete()",
        resource_id=revision.resource_id,
        revision_id=revision.revision_id,
        model=model,
    )


class AdvancingStorage(Storage):
    """A storage that can check the current revision and write the next one in one step, without a read before it."""

    @abstractmethod
    async def advance(self, item: Advance) -> RevisionInfo:
        """Make the revision the current one; returns it, with the time of the row if that was later.

        Raises `ResourceNotFoundError`, `ResourceDeletedError`, `RevisionConflictError` (with the actual current revision),
        and else what `write` raises.
        """
