"""The meta role: the rows that make resources visible, and the search over them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from specstar.errors import DecodeError
from specstar.query import Condition, Query
from specstar.roles.records import ResourceMeta, RevisionInfo

__all__ = ["MetaStore", "MetaWrite", "revision_gone"]


class MetaWrite(NamedTuple):
    """One change of one resource: its new row, and the revision that came or changed with it.

    `expected_version` None means that the resource must be new; a number means that the stored row must still have that
    `version`. `revision` is inserted, or replaces the one with its id (a rewritten draft); None leaves revisions alone.
    """

    meta: ResourceMeta
    revision: RevisionInfo | None
    expected_version: int | None


class MetaStore(ABC):
    """The meta rows and revision records of one model.

    Calls may come from many tasks at once and are batched inside; each caller gets its own result or its own error, and
    cancelling one caller leaves the others alone. A write returns once it is durable. All methods raise
    `BackendUnavailable` when the backend does not answer in time, and `BackendError` when it refuses.
    """

    shares_rows: ClassVar[bool] = False
    """Whether the rows that it returns are those that it keeps: whoever hands them on gives copies."""

    @abstractmethod
    async def write(self, change: MetaWrite) -> None:
        """Apply one change: the row and its revision together, or neither.

        Raises `DuplicateResourceError` if the resource must be new and is not, `ResourceNotFoundError` if it must exist and
        does not, `RevisionConflictError` (with the actual current revision) if its version is another one, and
        `OutcomeUnknownError` if the answer to the commit was lost for good.
        """

    @abstractmethod
    async def write_many(self, changes: Sequence[MetaWrite]) -> list[Exception | None]:
        """Apply changes of different resources, each by itself; one entry a change, None for those that were made."""

    @abstractmethod
    async def erase(self, resource_id: str, *, expected_version: int | None = None) -> list[RevisionInfo] | None:
        """Remove the row and all revisions for good; returns the revisions removed, None if there was no such resource.

        Raises `RevisionConflictError` if `expected_version` is given and is not the stored one.
        """

    @abstractmethod
    async def get(self, resource_id: str) -> ResourceMeta | None:
        """The row, deleted or not; None if there is none."""

    @abstractmethod
    async def get_many(self, resource_ids: Sequence[str]) -> list[ResourceMeta | None]:
        """One entry an id, in the order of the ids."""

    @abstractmethod
    async def get_with_revision(
        self, resource_id: str, revision_id: str | None = None
    ) -> tuple[ResourceMeta, RevisionInfo | None] | None:
        """The row and one revision (None: the current one) read together. None if there is no such resource."""

    @abstractmethod
    async def get_many_with_revision(
        self, resource_ids: Sequence[str]
    ) -> list[tuple[ResourceMeta, RevisionInfo] | None]:
        """The rows with their current revisions, one entry an id, in the order of the ids; None if either is gone."""

    @abstractmethod
    async def list_revisions(self, resource_id: str) -> list[RevisionInfo]:
        """All revisions, oldest first (by revision id, which is time-ordered); empty if there is no such resource."""

    @abstractmethod
    async def search(self, query: Query) -> list[tuple[ResourceMeta, RevisionInfo]]:
        """The matching rows with their current revisions, in the order of the query.

        Raises `QueryError`, and `DecodeError` for a row whose current revision is gone.
        """

    @abstractmethod
    async def count(self, condition: Condition | None = None, *, include_deleted: bool = False) -> int:
        """The number of matching rows. Raises `QueryError`."""

    @abstractmethod
    async def explain(self, query: Query) -> str:
        """The backend's own plan for this query, as text."""

    @abstractmethod
    async def referenced(self, payload_ids: Sequence[str]) -> set[str]:
        """Those of the payload ids that some revision points to, in what any process has written, for garbage collection.

        Raises what `sync` raises: local writes are pushed first.
        """

    @property
    def deferred(self) -> bool:
        """True if a write returns before it is durable, and may be lost until `sync`: what it replaces must stay till then."""
        return False

    async def sync(self) -> None:
        """Push what is only kept locally so far, and pull what others wrote. Does nothing where every write is pushed.

        Raises `RevisionConflictError` if another writer was first and the store does not merge.
        """
        return

    async def discard(self) -> None:
        """Give up what is only kept locally so far. Does nothing where every write is pushed."""
        return


def revision_gone(meta: ResourceMeta) -> DecodeError:
    """The error for a row without its current revision, which only a damaged store has."""
    return DecodeError(
        f"the current revision {meta.current_revision_id!r} of {meta.resource_id!r} is gone; restore it from a backup, or "
        "erase the resource with permanently_delete()",
        resource_id=meta.resource_id,
        revision_id=meta.current_revision_id,
    )
