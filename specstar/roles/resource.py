"""The resource role: immutable payloads, kept under ids that are used once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

__all__ = ["PayloadKey", "ResourceStore", "StoredPayload"]


class PayloadKey(NamedTuple):
    """Where a payload lies: the resource it belongs to (any user's text: data, never a path) and its unique payload id."""

    resource_id: str
    payload_id: str


class StoredPayload(NamedTuple):
    """One entry of a listing: `size` in bytes, `modified_time` aware and in UTC."""

    key: PayloadKey
    size: int
    modified_time: datetime


class ResourceStore(ABC):
    """The payloads of one model. A key is written once and never rewritten, so a repeated `put` is harmless.

    Calls are batched inside, like those of `MetaStore`, and raise `BackendUnavailable` and `BackendError` like them.
    """

    @abstractmethod
    async def put(self, key: PayloadKey, payload: bytes) -> None:
        """Store a payload; returns once it is durable, name and bytes both."""

    @abstractmethod
    async def put_many(self, items: Sequence[tuple[PayloadKey, bytes]]) -> None:
        """Store several payloads; returns once all are durable. After an error any of them may be there: garbage."""

    @abstractmethod
    async def get(self, key: PayloadKey) -> bytes | None:
        """The payload, or None if there is none."""

    @abstractmethod
    async def get_many(self, keys: Sequence[PayloadKey]) -> list[bytes | None]:
        """One entry a key, in the order of the keys."""

    @abstractmethod
    async def delete_many(self, keys: Sequence[PayloadKey]) -> None:
        """Erase payloads; missing ones are ignored."""

    @abstractmethod
    def list(self) -> AsyncIterator[list[StoredPayload]]:
        """All payloads of the model, page by page, in no stated order, for garbage collection."""

    async def clock(self) -> datetime:
        """Now, aware and in UTC, by the clock that `modified_time` goes by: that of the server, where it dates payloads."""
        return datetime.now(UTC)

    async def sweep(self, *, older_than_seconds: float) -> int:
        """Remove the unfinished files of killed writers, if older than this; returns how many."""
        return 0
