"""What each kind of change writes, decided on the state that it meets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar, cast

from specstar.errors import RevisionStateError
from specstar.resource_manager.drafting import Drafting
from specstar.resource_manager.reading import Reading, not_there
from specstar.resource_manager.slot import StorageSlot
from specstar.resource_manager.writer import Current, Plan
from specstar.roles import MetaWrite, PayloadKey, RevisionInfo, RevisionStatus, StoredRevision
from specstar.roles.storage import Storage, StorageWrite

__all__ = ["Plans"]

T = TypeVar("T")


class Plans(Generic[T]):
    """Makes plans for the `Writer` of one model, which asks one again when the state has moved on. They write nothing."""

    def __init__(self, slot: StorageSlot[T], draft: Drafting[T], reading: Reading[T]) -> None:
        self._name = slot.model.name
        self._slot = slot
        self._draft = draft
        self._reading = reading

    def update(self, data: T, payload: bytes, status: RevisionStatus) -> Plan:
        """The next revision."""

        async def plan(current: Current) -> StorageWrite:
            return self._draft.next(self._slot.codec.encoding, current.meta, data, payload, status)

        return plan

    def modify(self, data: T, payload: bytes, status: RevisionStatus, replaced: list[PayloadKey]) -> Plan:
        """The current revision once more, which must be a draft; what it replaces is put into `replaced`."""

        async def plan(current: Current) -> StorageWrite:
            revision = cast("RevisionInfo", current.revision)
            if revision.status is not RevisionStatus.draft:
                message = (
                    f"revision {revision.revision_id} of {self._name} {revision.resource_id!r} is stable: use update()"
                )
                raise RevisionStateError(revision.resource_id, revision_id=revision.revision_id, message=message)
            replaced[:] = [PayloadKey(revision.resource_id, revision.payload_id)]
            return self._draft.rewritten(self._slot.codec.encoding, current, data, payload, status)

        return plan

    def patch(self, patch: Mapping[str, Any], status: RevisionStatus) -> Plan:
        """The next revision, by a merge patch of the current one."""
        codec, storage, reading = self._slot.codec, self._slot.storage, self._reading

        async def plan(current: Current) -> StorageWrite:
            found = await self._stored(storage, current.meta.resource_id, current.meta.current_revision_id)
            before, encoding = found.payload, found.revision.encoding
            if reading.told_by_row is not None:
                before, encoding = codec.checked(reading.data(found))[0], codec.encoding
            payload, data, encoding = codec.patched(
                before,
                encoding,
                patch,
                resource_id=found.revision.resource_id,
                revision_id=found.revision.revision_id,
            )
            # Conditional on the row that the decision was made on, not on the one read with the payload.
            return self._draft.next(encoding, current.meta, data, payload, status)

        return plan

    def flag(self, *, deleted: bool) -> Plan:
        """Deleted, or not any more; nothing if that is so already."""

        async def plan(current: Current) -> StorageWrite | None:
            if current.meta.is_deleted == deleted:
                return None
            meta = self._draft.touched(current.meta, is_deleted=deleted)
            return StorageWrite(MetaWrite(meta, None, current.meta.version), None)

        return plan

    def switch(self, revision_id: str) -> Plan:
        """Another revision as the current one; nothing if it is."""
        storage = self._slot.storage

        async def plan(current: Current) -> StorageWrite | None:
            if current.meta.current_revision_id == revision_id:
                return None
            found = await self._stored(storage, current.meta.resource_id, revision_id)
            indexed = self._reading.indexed(found)
            meta = self._draft.touched(current.meta, current_revision_id=revision_id, indexed_data=indexed)
            return StorageWrite(MetaWrite(meta, None, current.meta.version), None)

        return plan

    async def _stored(self, storage: Storage, resource_id: str, revision_id: str) -> StoredRevision:
        found = await storage.read(resource_id, revision_id)
        if not isinstance(found, StoredRevision):
            raise not_there(found, resource_id, revision_id, model=self._name)
        return found
