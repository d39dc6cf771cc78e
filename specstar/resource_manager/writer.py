"""How one resource is changed: read, decide, write conditionally, and look again if someone else was faster."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import anyio

from specstar.errors import (
    InvalidInputError,
    ResourceDeletedError,
    ResourceNotFoundError,
    RevisionConflictError,
    SpecstarError,
)
from specstar.resource_manager.key_lock import KeyLock
from specstar.roles import Advance, AdvancingStorage, ResourceMeta, RevisionInfo, Storage, StorageWrite
from specstar.runtime import Home

__all__ = ["BACKOFF_SECONDS", "PATIENCE_SECONDS", "Current", "Plan", "Writer"]

T = TypeVar("T")
_ATTEMPTS = 16
# Writers without a condition go on for so long: other processes may be faster many times.
PATIENCE_SECONDS = 10.0
BACKOFF_SECONDS = 0.005
_REMEMBERED = 4096
# Of indexed fields in a row that is remembered: 4,096 of them take 64 MiB at most.
_REMEMBERED_CHARACTERS = 4096
# What an item of a list counts as at least.
_ITEM_CHARACTERS = 16


class Current:
    """The state that a change is decided on. `revision` is the current revision's record, where the change needs it."""

    __slots__ = ("meta", "revision")

    def __init__(self, meta: ResourceMeta, revision: RevisionInfo | None) -> None:
        self.meta: ResourceMeta = meta
        self.revision: RevisionInfo | None = revision


Plan = Callable[[Current], Awaitable[StorageWrite | None]]
"""Decides a write on the state that it meets; None: nothing is to be done."""


class Writer(Generic[T]):
    """Applies changes to the resources of one model, on the home loop.

    Rows that this process wrote last are remembered and used as a guess that saves the read: the write is conditional on
    the row's version, so a stale guess costs a second look and can never overwrite anything.
    """

    def __init__(self, home: Home, storage: Storage, *, model: str) -> None:
        self.storage = storage
        self._advancing = storage if isinstance(storage, AdvancingStorage) else None
        self._model = model
        self._locks = KeyLock(home, name=model)
        # Not a dict: there, finding the oldest entry walks over all that were removed before it.
        self._recent: OrderedDict[str, Current] = OrderedDict()

    def remember(self, meta: ResourceMeta, revision: RevisionInfo | None) -> None:
        """Keep a row that was just written, unless it is a large one: that is read again when it is next changed."""
        if not _is_small(meta.indexed_data):
            self.forget(meta.resource_id)
            return
        recent = self._recent
        recent[meta.resource_id] = Current(meta, revision)
        if len(recent) > _REMEMBERED:
            recent.popitem(last=False)

    def forget(self, resource_id: str) -> None:
        """Drop what is remembered of a resource."""
        self._recent.pop(resource_id, None)

    async def change(
        self,
        resource_id: str,
        plan: Plan,
        *,
        expected_revision_id: str | None = None,
        needs_revision: bool = False,
        deleted: bool | None = False,
    ) -> Current:
        """Apply `plan` to the current state; it returns the write, or None for nothing to do. Returns the state after it.

        `deleted` is what the row's flag must be, None for either. Raises `ResourceNotFoundError`, `ResourceDeletedError`,
        `RevisionConflictError`, and what the plan and the storage raise.
        """
        await self._locks.acquire(resource_id)
        try:
            return await self._change(resource_id, plan, expected_revision_id, needs_revision, deleted)
        finally:
            self._locks.release(resource_id)

    @property
    def advances(self) -> bool:
        """True if the storage has an `advance`."""
        return self._advancing is not None

    async def advance(self, resource_id: str, draft: Callable[[], Advance]) -> RevisionInfo:
        """Write the next revision without looking first, where it `advances`. Raises what `AdvancingStorage.advance` raises.

        `draft` is called when it is this one's turn: the ids of revisions, and their times, are in the order of the writes.
        """
        assert self._advancing is not None
        await self._locks.acquire(resource_id)
        try:
            self.forget(resource_id)
            return await self._advancing.advance(draft())
        finally:
            self._locks.release(resource_id)

    async def erase(self, resource_id: str, *, expected_revision_id: str | None = None) -> None:
        """Erase the resource, deleted or not. Raises `ResourceNotFoundError`, `RevisionConflictError`."""
        await self._locks.acquire(resource_id)
        try:
            self.forget(resource_id)
            if not await self._erase(resource_id, expected_revision_id):
                raise ResourceNotFoundError(resource_id, model=self._model)
        finally:
            self._locks.release(resource_id)

    async def _erase(self, resource_id: str, expected: str | None) -> bool:
        if expected is None:
            return await self.storage.erase(resource_id)
        deadline = anyio.current_time() + PATIENCE_SECONDS
        while True:
            current = await self._read(resource_id, needs_revision=False)
            self._check(current.meta, expected, deleted=None)
            try:
                return await self.storage.erase(resource_id, expected_version=current.meta.version)
            except RevisionConflictError:
                # The row moved on, maybe not its revision: look again.
                if anyio.current_time() >= deadline:
                    raise

    async def _change(
        self, resource_id: str, plan: Plan, expected: str | None, needs_revision: bool, deleted: bool | None
    ) -> Current:
        guess = self._recent.pop(resource_id, None)
        if guess is not None and needs_revision and guess.revision is None:
            guess = None
        conflict: RevisionConflictError | None = None
        tried_version = attempt = 0
        deadline = anyio.current_time() + PATIENCE_SECONDS
        while attempt < _ATTEMPTS or anyio.current_time() < deadline:
            attempt += 1
            guessed = guess is not None
            current = guess or await self._read(resource_id, needs_revision)
            guess = None
            if conflict is not None and current.meta.version == tried_version:
                raise conflict  # not about this row: it stands as we saw it
            try:
                self._check(current.meta, expected, deleted)
                item = await plan(current)
            except SpecstarError:
                if guessed:
                    continue  # decided on what may be stale: look, then decide again
                raise
            if item is None:
                if guessed:
                    continue
                return current
            try:
                await self.storage.write(item)
            except (RevisionConflictError, ResourceNotFoundError) as error:
                if guessed:
                    continue
                if isinstance(error, ResourceNotFoundError):
                    raise
                conflict, tried_version = error, current.meta.version
                await anyio.sleep(random.random() * BACKOFF_SECONDS * min(attempt - 1, _ATTEMPTS))
                continue
            after = _after(current, item)
            self.remember(after.meta, after.revision)
            return after
        raise conflict or RevisionConflictError(resource_id, expected_revision_id=expected, model=self._model)

    async def _read(self, resource_id: str, needs_revision: bool) -> Current:
        if needs_revision:
            found = await self.storage.read_revision(resource_id)
            if found is not None:
                return Current(*found)
        else:
            meta = await self.storage.read_meta(resource_id)
            if meta is not None:
                return Current(meta, None)
        raise ResourceNotFoundError(resource_id, model=self._model)

    def _check(self, meta: ResourceMeta, expected: str | None, deleted: bool | None) -> None:
        if deleted is False and meta.is_deleted:
            raise ResourceDeletedError(meta.resource_id, model=self._model)
        if expected is not None and meta.current_revision_id != expected:
            if not isinstance(expected, str):
                # A conflict would be tried again, for ever.
                message = f"expected_revision_id must be a str, not {type(expected).__name__}"
                raise InvalidInputError(message, field="expected_revision_id")
            raise RevisionConflictError(
                meta.resource_id,
                expected_revision_id=expected,
                actual_revision_id=meta.current_revision_id,
                model=self._model,
            )


def _after(before: Current, item: StorageWrite) -> Current:
    meta, revision, _ = item.change
    if revision is None and meta.current_revision_id == before.meta.current_revision_id:
        revision = before.revision
    return Current(meta, revision)


def _is_small(indexed: dict[str, Any]) -> bool:
    size = 0
    for value in indexed.values():
        if type(value) is str:
            size += len(value)
        elif type(value) is list:
            size += sum(_ITEM_CHARACTERS + (len(item) if type(item) is str else 0) for item in value)
    return size <= _REMEMBERED_CHARACTERS
