"""Any two stores as one storage: payload first, meta (the pointer) last."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from specstar.errors import DecodeError, SpecstarError
from specstar.query import Condition, Query
from specstar.roles import (
    MetaStore,
    PayloadKey,
    ResourceMeta,
    ResourceStore,
    RevisionInfo,
    Storage,
    StoredPayload,
    StoredRevision,
)
from specstar.roles.storage import Found, StorageWrite, is_refusal, payload_gone
from specstar.runtime import Elapsed, left_in_order, put_again

__all__ = ["ComposedStorage"]

logger: logging.Logger = logging.getLogger("specstar")
_READ_ATTEMPTS = 3


def _key(revision: RevisionInfo) -> PayloadKey:
    return PayloadKey(revision.resource_id, revision.payload_id)


class ComposedStorage(Storage):
    """A meta store and a resource store on different backends.

    A crash between the two writes leaves a payload that nothing points to (garbage), never a row without its payload.
    `knows_all` False: what this process' own meta does not know of may be somebody else's, so no payload is garbage.
    """

    def __init__(self, meta: MetaStore, resource: ResourceStore, *, model: str, knows_all: bool = True) -> None:
        self._knows_all = knows_all
        self._meta = meta
        self.shares_rows: bool = meta.shares_rows
        self._resource = resource
        self._model = model

    async def write(self, item: StorageWrite) -> None:
        change, payload = item
        revision = change.revision
        if payload is None or revision is None:
            await self._meta.write(change)
            return
        key, begun = _key(revision), Elapsed()
        await self._resource.put(key, payload)
        try:
            await self._meta.write(change)
        except SpecstarError as error:
            if is_refusal(error):
                await self._discard([key])
            raise
        await put_again(begun, lambda: self._resource.put(key, payload))

    async def write_many(self, items: Sequence[StorageWrite]) -> list[Exception | None]:
        puts = [
            (_key(item.change.revision), item.payload)
            for item in items
            if item.change.revision and item.payload is not None
        ]
        begun = Elapsed()
        await self._resource.put_many(puts)
        results = await self._meta.write_many([item.change for item in items])
        refused = [
            _key(item.change.revision)
            for item, result in zip(items, results, strict=True)
            if item.change.revision and is_refusal(result)
        ]
        if refused:
            await self._discard(refused)
        gone = frozenset(refused)
        await put_again(begun, lambda: self._resource.put_many([put for put in puts if put[0] not in gone]))
        return results

    async def _discard(self, keys: list[PayloadKey]) -> None:
        try:
            await self._resource.delete_many(keys)
        except SpecstarError as error:
            logger.warning("%s: %d unused payloads stay until garbage collection: %s", self._model, len(keys), error)

    async def read(self, resource_id: str, revision_id: str | None = None) -> StoredRevision | ResourceMeta | None:
        lost: RevisionInfo | None = None
        for _ in range(_READ_ATTEMPTS):
            found = await self._meta.get_with_revision(resource_id, revision_id)
            if found is None:
                return None
            meta, revision = found
            if revision is None:
                return meta
            payload = await self._resource.get(_key(revision))
            if payload is not None:
                return StoredRevision(meta, revision, payload)
            lost = revision
            # A draft rewritten, or a resource erased, between the two reads: look again.
        assert lost is not None
        raise payload_gone(lost, model=self._model, where="the resource store")

    async def read_many(self, resource_ids: Sequence[str]) -> list[StoredRevision | None]:
        rows = await self._meta.get_many_with_revision(resource_ids)
        return await self._with_payloads(rows)

    async def _with_payloads(
        self, rows: Sequence[tuple[ResourceMeta, RevisionInfo] | None]
    ) -> list[StoredRevision | None]:
        payloads = iter(await self._payloads([_key(row[1]) for row in rows if row is not None]))
        results: list[StoredRevision | None] = []
        for row in rows:
            payload = None if row is None else next(payloads)
            if row is None:
                results.append(None)
            elif isinstance(payload, bytes):
                results.append(StoredRevision(row[0], row[1], payload))
            else:
                results.append(await self.with_payload(row[0], row[1], payload))
        return results

    async def _payloads(self, keys: list[PayloadKey]) -> Sequence[bytes | DecodeError | None]:
        try:
            return await self._resource.get_many(keys)
        except DecodeError:
            # One of them is damaged: which?
            return [await self._payload(key) for key in keys]

    async def _payload(self, key: PayloadKey) -> bytes | DecodeError | None:
        try:
            return await self._resource.get(key)
        except DecodeError as error:
            return error

    async def read_meta(self, resource_id: str) -> ResourceMeta | None:
        return await self._meta.get(resource_id)

    async def read_revision(
        self, resource_id: str, revision_id: str | None = None
    ) -> tuple[ResourceMeta, RevisionInfo | None] | None:
        return await self._meta.get_with_revision(resource_id, revision_id)

    async def list_revisions(self, resource_id: str) -> list[RevisionInfo]:
        return await self._meta.list_revisions(resource_id)

    async def erase(self, resource_id: str, *, expected_version: int | None = None) -> bool:
        revisions = await self._meta.erase(resource_id, expected_version=expected_version)
        if revisions and not self._meta.deferred:
            await self._discard([_key(revision) for revision in revisions])
        return revisions is not None

    async def find(self, query: Query) -> Found:
        rows = await self._meta.search(query)
        return Found.of(query, [meta for meta, _ in rows], await self._with_payloads(rows))

    async def search_meta(self, query: Query) -> list[ResourceMeta]:
        return [meta for meta, _ in await self._meta.search(query)]

    async def count(self, condition: Condition | None = None, *, include_deleted: bool = False) -> int:
        return await self._meta.count(condition, include_deleted=include_deleted)

    async def sync(self) -> None:
        await self._meta.sync()

    async def discard(self) -> None:
        await self._meta.discard()

    async def explain(self, query: Query) -> str:
        return await self._meta.explain(query)

    async def list_payloads(self) -> AsyncIterator[list[StoredPayload]]:
        if not self._knows_all:
            logger.warning(
                "%s: no payloads are collected: meta is in the memory of this process, and cannot tell whose they are",
                self._model,
            )
            return
        async with left_in_order(self._resource.list()) as pages:
            async for page in pages:
                yield page

    async def clock(self) -> datetime:
        return await self._resource.clock()

    async def unreferenced(self, keys: Sequence[PayloadKey]) -> list[PayloadKey]:
        known = await self._meta.referenced([key.payload_id for key in keys])
        return [key for key in keys if key.payload_id not in known]

    async def drop_payloads(self, keys: Sequence[PayloadKey]) -> None:
        await self._resource.delete_many(keys)

    async def sweep(self, *, older_than_seconds: float) -> int:
        return await self._resource.sweep(older_than_seconds=older_than_seconds)

    @property
    def deferred(self) -> bool:
        return self._meta.deferred
