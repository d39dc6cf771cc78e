"""The manager of one model: versioned, searchable, conditionally writable resources."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar, cast

import anyio
from msgspec.structs import replace

from specstar.checks import listed
from specstar.errors import (
    DuplicateResourceError,
    InvalidInputError,
    QueryError,
    ResourceDeletedError,
    ResourceNotFoundError,
    RevisionConflictError,
)
from specstar.query import Condition, Fields, IndexedField, Projector, Query, SortKey, cursor_of
from specstar.resource_manager.asking import query_of
from specstar.resource_manager.authorship import Authorship
from specstar.resource_manager.drafting import Drafting
from specstar.resource_manager.garbage import collect, drop_replaced
from specstar.resource_manager.ids import checked_age, checked_id, is_id
from specstar.resource_manager.plans import Plans
from specstar.resource_manager.reading import Reading, not_there
from specstar.resource_manager.reindexing import reindex
from specstar.resource_manager.resource import Page, Resource, own_copy
from specstar.resource_manager.slot import StorageSlot
from specstar.resource_manager.writer import BACKOFF_SECONDS, PATIENCE_SECONDS
from specstar.roles import PayloadKey, ResourceMeta, RevisionInfo, RevisionStatus, StoredRevision
from specstar.runtime import Gate, gated, portable

__all__ = ["ResourceManager", "Status"]

T = TypeVar("T")
Status = RevisionStatus | Literal["stable", "draft"]


# By the text of each: on the way of every write, where asking the enumeration takes ten times as long.
_STATUSES = {str(status): status for status in RevisionStatus}


def _status(status: Status) -> RevisionStatus:
    try:
        return _STATUSES[status]
    except (KeyError, TypeError):
        raise InvalidInputError(f"a status is 'stable' or 'draft', not {status!r:.80}", field="status") from None


class ResourceManager(Generic[T]):
    """Creates, reads, changes and finds the resources of one model. Made by `SpecStar.add_model`.

    Every coroutine may be called from asyncio, trio and any thread's loop, and from many tasks at once; calls that are
    awaited together travel together. All raise `BackendUnavailable` when a backend does not answer in time,
    `BackendError` when it refuses, and `NotConfiguredError` before `configure`.
    """

    def __init__(
        self,
        slot: StorageSlot[T],
        projector: Projector,
        *,
        model: type[T],
        schema_version: str | None = None,
    ) -> None:
        self.name: str = slot.model.name
        self.model = model
        self.indexed_fields: tuple[IndexedField, ...] = slot.model.indexed_fields
        self._slot = slot
        self._fields = Fields(slot.model.indexed_fields)
        self._gate: Gate = slot.gate
        self._authorship = Authorship(self.name)
        self._draft: Drafting[T] = Drafting(self._authorship, projector, schema_version)
        self._reading: Reading[T] = Reading(slot, projector)
        self._plans: Plans[T] = Plans(slot, self._draft, self._reading)

    def __repr__(self) -> str:
        return f"ResourceManager({self.name!r})"

    def using(
        self, *, user: str | None = None, now: datetime | Callable[[], datetime] | None = None
    ) -> AbstractContextManager[None]:
        """Record `user` and `now` (aware) with the writes made inside the `with` block."""
        return self._authorship.using(user=user, now=now)

    # Writing

    @portable
    async def create(self, data: T, *, resource_id: str | None = None, status: Status = "stable") -> RevisionInfo:
        """Store a new resource; returns its first revision once it is durable.

        Raises `DuplicateResourceError` if `resource_id` is taken, `InvalidInputError` if the data does not fit the model.
        """
        item = self._draft.first(self._slot.codec, data, resource_id, _status(status))
        writer = self._slot.writer
        await writer.storage.write(item)
        revision = cast("RevisionInfo", item.change.revision)
        writer.remember(item.change.meta, revision)
        return revision

    @gated
    async def create_many(
        self, data: Iterable[T], *, resource_ids: Iterable[str] | None = None, status: Status = "stable"
    ) -> list[RevisionInfo]:
        """Store many new resources in the fewest steps; returns their revisions in order.

        All are checked first: if one does not fit the model, none is stored. Then each is stored by itself: if one fails, the
        others are there all the same, and the first error is raised.
        """
        values = listed(data, field="data")
        ids: Sequence[str | None] = [None] * len(values)
        if resource_ids is not None:
            ids = [checked_id(resource_id) for resource_id in listed(resource_ids, field="resource_ids")]
            if len(set(ids)) != len(ids):
                raise InvalidInputError("resource_ids has an id twice", field="resource_ids")
        if len(ids) != len(values):
            raise InvalidInputError(f"{len(values)} values but {len(ids)} resource ids", field="resource_ids")
        items = self._draft.first_of_many(self._slot.codec, values, ids, _status(status))
        if not items:
            return []
        for error in await self._slot.storage.write_many(items):
            if error is not None:
                raise error
        return [cast("RevisionInfo", item.change.revision) for item in items]

    @gated
    async def update(
        self, resource_id: str, data: T, *, expected_revision_id: str | None = None, status: Status = "stable"
    ) -> RevisionInfo:
        """Store a new revision and make it the current one.

        With `expected_revision_id`, only if that is still the current revision: else `RevisionConflictError`. Raises
        `ResourceNotFoundError`, and `ResourceDeletedError` for a deleted resource.
        """
        checked_id(resource_id)
        payload, data = self._slot.codec.checked(data)
        writer, kind = self._slot.writer, _status(status)
        if writer.advances and is_id(expected_revision_id):
            # Data that cannot be indexed is refused below, after a look at what is there.
            with suppress(QueryError):
                return await writer.advance(
                    resource_id,
                    lambda: self._draft.onward(
                        self._slot.codec.encoding, resource_id, expected_revision_id, data, payload, kind
                    ),
                )
        plan = self._plans.update(data, payload, kind)
        after = await writer.change(resource_id, plan, expected_revision_id=expected_revision_id)
        return cast("RevisionInfo", after.revision)

    @gated
    async def upsert(self, resource_id: str, data: T, *, status: Status = "stable") -> RevisionInfo:
        """Store a new revision of the resource and make it current; without one of this id, create it.

        Raises `ResourceDeletedError` for a deleted resource, and `InvalidInputError` if the data does not fit the model.
        """
        deadline = anyio.current_time() + PATIENCE_SECONDS
        while True:
            try:
                return await self.update(resource_id, data, status=status)
            except ResourceDeletedError:
                raise
            except ResourceNotFoundError:
                with suppress(DuplicateResourceError):
                    return await self.create(data, resource_id=resource_id, status=status)
            # Another writer created it in between, and may erase it again, and so on.
            if anyio.current_time() >= deadline:
                raise RevisionConflictError(resource_id, expected_revision_id=None, model=self.name)
            await anyio.sleep(random.random() * BACKOFF_SECONDS)

    @gated
    async def modify(
        self,
        resource_id: str,
        data: T,
        *,
        expected_revision_id: str | None = None,
        status: Status = "draft",
    ) -> RevisionInfo:
        """Rewrite the current revision in place, if it is a draft; `status="stable"` makes it final.

        Raises `RevisionStateError` if the current revision is stable, and otherwise what `update` raises.
        """
        checked_id(resource_id)
        payload, data = self._slot.codec.checked(data)
        replaced: list[PayloadKey] = []
        plan = self._plans.modify(data, payload, _status(status), replaced)
        writer = self._slot.writer
        after = await writer.change(resource_id, plan, expected_revision_id=expected_revision_id, needs_revision=True)
        await drop_replaced(self._slot.storage, replaced, model=self.name)
        return cast("RevisionInfo", after.revision)

    @gated
    async def patch(
        self,
        resource_id: str,
        patch: Mapping[str, Any],
        *,
        expected_revision_id: str | None = None,
        status: Status = "stable",
    ) -> RevisionInfo:
        """Apply a JSON merge patch (RFC 7396) to the current data and store it as a new revision.

        Null sets a field to None where its type has that, and removes it elsewhere. Members that this program's model lacks
        stay as they are. The result must fit the model, and the patch name its fields, else `InvalidInputError`. Without
        `expected_revision_id` a patch that meets another writer is applied again to what that one wrote. Raises what `update`
        raises, and `DecodeError`.
        """
        checked_id(resource_id)
        plan = self._plans.patch(patch, _status(status))
        after = await self._slot.writer.change(resource_id, plan, expected_revision_id=expected_revision_id)
        return cast("RevisionInfo", after.revision)

    @gated
    async def delete(self, resource_id: str, *, expected_revision_id: str | None = None) -> ResourceMeta:
        """Delete softly: the resource is hidden from reads and searches until `restore`. Raises what `update` raises."""
        return await self._flag(resource_id, deleted=True, expected_revision_id=expected_revision_id)

    @gated
    async def restore(self, resource_id: str) -> ResourceMeta:
        """Bring a deleted resource back; a resource that is not deleted stays as it is. Raises `ResourceNotFoundError`."""
        return await self._flag(resource_id, deleted=False, expected_revision_id=None)

    async def _flag(self, resource_id: str, *, deleted: bool, expected_revision_id: str | None) -> ResourceMeta:
        checked_id(resource_id)
        plan = self._plans.flag(deleted=deleted)
        after = await self._slot.writer.change(
            resource_id, plan, expected_revision_id=expected_revision_id, deleted=False if deleted else None
        )
        return own_copy(after.meta)

    @gated
    async def permanently_delete(self, resource_id: str, *, expected_revision_id: str | None = None) -> None:
        """Erase a resource, deleted or not, with all its revisions and payloads. There is no way back.

        Payloads that a backend fails to remove after the resource is gone are logged and left to `collect_garbage`. Raises
        `ResourceNotFoundError`, and `RevisionConflictError` if `expected_revision_id` is not the current one.
        """
        checked_id(resource_id)
        await self._slot.writer.erase(resource_id, expected_revision_id=expected_revision_id)

    @gated
    async def switch(
        self, resource_id: str, revision_id: str, *, expected_revision_id: str | None = None
    ) -> ResourceMeta:
        """Make an earlier (or later) revision the current one. Raises `ResourceNotFoundError` if there is no such revision."""
        checked_id(resource_id)
        checked_id(revision_id, field="revision_id")
        plan = self._plans.switch(revision_id)
        after = await self._slot.writer.change(resource_id, plan, expected_revision_id=expected_revision_id)
        return own_copy(after.meta)

    # Reading

    @portable
    async def get(
        self, resource_id: str, *, revision_id: str | None = None, include_deleted: bool = False
    ) -> Resource[T]:
        """The resource at its current revision, or at `revision_id`.

        Raises `ResourceNotFoundError` for no such resource or revision, `ResourceDeletedError` for a deleted one (unless
        `include_deleted`), `DecodeError` if the payload does not fit the model.
        """
        checked_id(resource_id)
        if revision_id is not None:
            checked_id(revision_id, field="revision_id")
        found = await self._slot.storage.read(resource_id, revision_id)
        if not isinstance(found, StoredRevision):
            raise not_there(found, resource_id, revision_id, model=self.name)
        if found.meta.is_deleted and not include_deleted:
            raise ResourceDeletedError(resource_id, model=self.name)
        return Resource(meta=self._reading.meta(found.meta), info=found.revision, data=self._reading.data(found))

    @gated
    async def get_many(self, resource_ids: Iterable[str], *, include_deleted: bool = False) -> list[Resource[T] | None]:
        """The resources in the order of the ids; None for those that do not exist or are deleted."""
        ids = [checked_id(resource_id) for resource_id in listed(resource_ids, field="resource_ids")]
        if not ids:
            return []
        found = await self._slot.storage.read_many(ids)
        return [
            self._reading.resource(item) if item is not None and (include_deleted or not item.meta.is_deleted) else None
            for item in found
        ]

    @portable
    async def exists(self, resource_id: str) -> bool:
        """True if there is such a resource and it is not deleted."""
        checked_id(resource_id)
        meta = await self._slot.storage.read_meta(resource_id)
        return meta is not None and not meta.is_deleted

    @portable
    async def get_meta(self, resource_id: str) -> ResourceMeta:
        """The meta row, of a deleted resource too. Raises `ResourceNotFoundError`."""
        checked_id(resource_id)
        meta = await self._slot.storage.read_meta(resource_id)
        if meta is None:
            raise ResourceNotFoundError(resource_id, model=self.name)
        return self._reading.meta(meta)

    @gated
    async def list_revisions(self, resource_id: str) -> list[RevisionInfo]:
        """All revisions, oldest first, of a deleted resource too. Raises `ResourceNotFoundError`."""
        checked_id(resource_id)
        revisions = await self._slot.storage.list_revisions(resource_id)
        if not revisions:
            raise ResourceNotFoundError(resource_id, model=self.name)
        return revisions

    # Finding

    @gated
    async def search(
        self,
        query: Condition | Query | None = None,
        *,
        sort: Sequence[str | SortKey] = (),
        limit: int | None = None,
        offset: int = 0,
        after: str | None = None,
        include_deleted: bool = False,
    ) -> Page[T]:
        """The matching resources. `sort` names fields, "-" before a name reverses; ids break ties, in the direction
        of the last name.

        `after` is the `cursor` of the page before (keyset paging: cost does not grow with the page number). A payload that
        does not decode raises `DecodeError` when its `data` is read. A `Query` says all of this itself. Raises `QueryError`.
        """
        built = query_of(
            query, self._fields, sort=sort, limit=limit, offset=offset, after=after, include_deleted=include_deleted
        )
        found = await self._slot.storage.find(built)
        cursor = None if found.last is None else cursor_of(built, found.last)
        return Page([self._reading.resource(item) for item in found.resources], cursor)

    @gated
    async def count(self, query: Condition | Query | None = None, *, include_deleted: bool = False) -> int:
        """The number of matching resources. Raises `QueryError`, also for a `Query` with a limit, offset or cursor."""
        built = query_of(query, self._fields, include_deleted=include_deleted)
        if built.limit is not None or built.offset or built.after is not None:
            raise QueryError("count counts all that match: give it a Query without limit, offset and after")
        return await self._slot.storage.count(built.condition, include_deleted=built.include_deleted)

    async def iter(
        self,
        query: Condition | Query | None = None,
        *,
        sort: Sequence[str | SortKey] = (),
        page_size: int = 200,
        include_deleted: bool = False,
    ) -> AsyncIterator[Resource[T]]:
        """All matching resources, fetched page by page as they are consumed. What changes meanwhile may or may not show.

        The `limit` of a `Query` is how many there are at most. Raises `QueryError`.
        """
        if not isinstance(page_size, int) or page_size < 1:
            raise QueryError(f"page_size is a number from 1, got {page_size!r:.80}", path="page_size")
        whole = query_of(query, None, sort=sort, include_deleted=include_deleted)
        left = whole.limit
        while left != 0:
            page = await self.search(replace(whole, limit=page_size if left is None else min(page_size, left)))
            for resource in page:
                yield resource
            if page.cursor is None:
                return
            whole = replace(whole, after=page.cursor, offset=0)
            left = None if left is None else left - len(page)

    @gated
    async def explain(
        self,
        query: Condition | Query | None = None,
        *,
        sort: Sequence[str | SortKey] = (),
        limit: int | None = None,
    ) -> str:
        """The backend's own plan for a search, as text: shows whether an index serves it."""
        return await self._slot.storage.explain(query_of(query, self._fields, sort=sort, limit=limit))

    @gated
    async def sync(self) -> None:
        """Push what the meta store keeps locally (S3 with `auto_sync` off), and pull what others wrote.

        Does nothing on other backends. Raises `RevisionConflictError` if another writer was first: `discard` is the way out.
        """
        await self._slot.storage.sync()

    @gated
    async def discard(self) -> None:
        """Give up the writes that `sync` has not pushed yet (S3 with `auto_sync` off), and read what is in the bucket.

        Does nothing on other backends.
        """
        await self._slot.storage.discard()

    @gated
    async def reindex(self) -> int:
        """Make all resources searchable by the present `indexed_fields`; returns how many rows had to be changed.

        Needed once after a field was added or has changed its meaning, with all programs up to date: a row keeps what was
        indexed when it was written. Versions move on, revisions and times stay as they are. Others may read and write
        meanwhile. A resource that cannot be indexed stays as it is, and is logged.
        """
        return await reindex(self._slot.storage, self._slot.writer, self._reading.indexed)

    @gated
    async def collect_garbage(self, *, older_than_seconds: float = 3600.0) -> int:
        """Remove payloads that nothing points to, and unfinished files, if older than this; returns how many.

        They come from writers that were killed between the payload and the row. A writer under way is safe: one that takes more
        than five minutes between the two, stopped or suspended, writes its payload again, so `older_than_seconds` is no less
        than that where others write. With S3's `auto_sync` off the row is there with the next `sync`, and not before. Age goes
        by the clock of the server that keeps the payloads.
        Local writes are pushed first: raises what `sync` raises.
        """
        return await collect(self._slot.storage, older_than_seconds=checked_age(older_than_seconds))

    # Inside

    def _runs_anywhere(self) -> bool:
        return self._slot.portable

    def _live_by_rows(self, told_by_row: Callable[[StoredRevision, T], T]) -> None:
        """Rows of this model are rewritten all the time, and say more than the payload: `told_by_row` adds it."""
        self._reading.told_by_row = told_by_row
        self._slot.model = replace(self._slot.model, busy_rows=True)
