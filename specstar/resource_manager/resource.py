"""What a manager hands to its callers: a resource with its data, and pages of them."""

from __future__ import annotations

from typing import ClassVar, Generic, TypeVar

from msgspec.structs import replace

from specstar.errors import DecodeError
from specstar.roles.records import ResourceMeta, RevisionInfo

__all__ = ["Page", "Resource", "own_copy"]

T = TypeVar("T")


def own_copy(meta: ResourceMeta) -> ResourceMeta:
    """The row with an `indexed_data` of its own: callers may change theirs, a store or writer may keep this one."""
    indexed = meta.indexed_data.copy()
    for path, value in indexed.items():
        if type(value) in (list, dict):
            indexed[path] = value.copy()
    return replace(meta, indexed_data=indexed)


class Resource(Generic[T]):
    """One resource at one revision: its `data`, the `info` of the revision and the `meta` row.

    In the results of a search, `data` raises `DecodeError` if this payload does not decode; the other results are unharmed.
    """

    __slots__ = ("_data", "_error", "info", "meta")

    def __init__(
        self, *, meta: ResourceMeta, info: RevisionInfo, data: T | None = None, error: DecodeError | None = None
    ) -> None:
        self.meta: ResourceMeta = meta
        self.info: RevisionInfo = info
        self._data = data
        self._error = error

    @property
    def data(self) -> T:
        """The decoded payload. Raises `DecodeError` with the resource's id if it does not decode."""
        if self._error is not None:
            raise self._error
        return self._data  # type: ignore[return-value]

    @property
    def resource_id(self) -> str:
        """The id of the resource."""
        return self.meta.resource_id

    @property
    def revision_id(self) -> str:
        """The id of this revision."""
        return self.info.revision_id

    @property
    def error(self) -> DecodeError | None:
        """Why `data` cannot be had, or None."""
        return self._error

    def __repr__(self) -> str:
        shown = self._error if self._error is not None else self._data
        return f"Resource(resource_id={self.resource_id!r}, revision_id={self.revision_id!r}, data={shown!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Resource):
            return NotImplemented
        return self.meta == other.meta and self.info == other.info and self._data == other._data

    __hash__: ClassVar[None] = None  # type: ignore[assignment]


class Page(list[Resource[T]]):
    """The results of one search. `cursor` is what to pass as `after=` for the next page; None if there are no more.

    The cursor tells, not the length: resources that others change meanwhile may leave a page shorter than `limit`, or empty,
    with more behind it; and behind a page that is just full there may be nothing.
    """

    def __init__(self, items: list[Resource[T]], cursor: str | None = None) -> None:
        super().__init__(items)
        self.cursor = cursor
