"""What is read of a model's stored revisions: data, resources, and the values to search by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from specstar.errors import DecodeError, ResourceNotFoundError
from specstar.query import Projector
from specstar.resource_manager.resource import Resource, own_copy
from specstar.resource_manager.slot import StorageSlot
from specstar.roles import ResourceMeta, StoredRevision

__all__ = ["Reading", "not_there"]

T = TypeVar("T")


class Reading(Generic[T]):
    """Makes what a manager hands out from what its storage gave. `told_by_row` adds what the row says beyond the payload."""

    def __init__(self, slot: StorageSlot[T], projector: Projector) -> None:
        self._slot = slot
        self._project = projector
        self.told_by_row: Callable[[StoredRevision, T], T] | None = None

    def data(self, found: StoredRevision) -> T:
        """The decoded payload. Raises `DecodeError`."""
        revision = found.revision
        data = self._slot.codec.decode(
            found.payload, revision.encoding, resource_id=revision.resource_id, revision_id=revision.revision_id
        )
        return data if self.told_by_row is None else self.told_by_row(found, data)

    def indexed(self, found: StoredRevision) -> dict[str, Any]:
        """The values to search by. Raises `DecodeError`, and `QueryError` for what no backend can index."""
        return self._project(self.data(found))

    def meta(self, row: ResourceMeta) -> ResourceMeta:
        """The row for a caller, who may change what it holds."""
        return own_copy(row) if self._slot.storage.shares_rows else row

    def resource(self, found: StoredRevision) -> Resource[T]:
        """One of many: a payload that does not decode is told when its `data` is read."""
        meta = self.meta(found.meta)
        try:
            data = self.data(found)
        except DecodeError as error:
            return Resource(meta=meta, info=found.revision, error=error)
        return Resource(meta=meta, info=found.revision, data=data)


def not_there(
    found: ResourceMeta | None, resource_id: str, revision_id: str | None, *, model: str
) -> ResourceNotFoundError:
    """The error where a storage has read no revision: it says what there is not, without the row no resource at all."""
    return ResourceNotFoundError(resource_id, revision_id=None if found is None else revision_id, model=model)
