"""Meta and resource under one root: row, revision and payload in one transaction, or the payload's file first."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

from specstar.backends.disk.connection import DiskConnection
from specstar.backends.disk.options import DiskOptions
from specstar.backends.disk.payloads import PayloadFileLane, payload_pages
from specstar.backends.provider import BackendContext
from specstar.backends.sqlite.advance_row import AdvanceRow
from specstar.backends.sqlite.lanes import Lanes
from specstar.backends.sqlite.reads import (
    CountRows,
    ExplainRows,
    FoundRow,
    GetFull,
    GetMeta,
    GetPayloads,
    GetRows,
    ListRevisions,
    SearchFull,
    SearchMeta,
    Unreferenced,
)
from specstar.backends.sqlite.tables import ModelTables
from specstar.backends.sqlite.writes import DeletePayloads, EraseResource, WriteRow
from specstar.errors import SpecstarError
from specstar.query import Condition, Query
from specstar.roles import (
    Advance,
    AdvancingStorage,
    ModelSpec,
    PayloadKey,
    ResourceMeta,
    RevisionInfo,
    StoredPayload,
    StoredRevision,
)
from specstar.roles.meta import revision_gone
from specstar.roles.storage import Found, StorageWrite, is_refusal, payload_gone
from specstar.runtime import Elapsed, left_in_order, put_again

__all__ = ["DiskStorage"]

logger: logging.Logger = logging.getLogger("specstar")
_READ_ATTEMPTS = 3


class DiskStorage(AdvancingStorage):
    """The resources of one model under a root folder, which both roles share."""

    def __init__(self, context: BackendContext[DiskOptions, DiskConnection], model: ModelSpec) -> None:
        self._context = context
        self._model = model.name
        self._tables = ModelTables(model)
        self._inline = context.options.inline_payload_bytes
        self._lanes: Lanes | None = None
        self._files: PayloadFileLane

    async def _way(self) -> Lanes:
        if self._lanes is None or self._context.connection.opened is None:
            home, connection = self._context.home, await self._context.connection.get()
            lanes = await connection.prepare(home, self._tables)
            if self._lanes is None:
                self._files = PayloadFileLane(home, connection, self._tables.suffix)
                self._lanes = lanes
        return self._lanes

    async def write(self, item: StorageWrite) -> None:
        lanes = await self._way()
        change, payload = item
        if payload is None or len(payload) <= self._inline or change.revision is None:
            await lanes.write(WriteRow(self._tables, change, payload))
            return
        key = PayloadKey(change.meta.resource_id, change.revision.payload_id)
        await self._write_apart(lanes, key, payload, WriteRow(self._tables, change))

    async def advance(self, item: Advance) -> RevisionInfo:
        lanes = await self._way()
        revision, _, payload = item
        if len(payload) <= self._inline:
            changed = await lanes.write(AdvanceRow(self._tables, item, payload))
        else:
            key = PayloadKey(revision.resource_id, revision.payload_id)
            changed = await self._write_apart(lanes, key, payload, AdvanceRow(self._tables, item, None))
        return cast("RevisionInfo | None", changed) or revision

    async def _write_apart(
        self, lanes: Lanes, key: PayloadKey, payload: bytes, operation: WriteRow | AdvanceRow
    ) -> Any:
        """A payload that is too large for the database, then the row that points to it."""
        begun = Elapsed()
        await self._files.write(key, payload)
        try:
            changed = await lanes.write(operation)
        except SpecstarError as error:
            if is_refusal(error):
                await self._discard([key])
            raise
        await put_again(begun, lambda: self._files.write(key, payload))
        return changed

    async def write_many(self, items: Sequence[StorageWrite]) -> list[Exception | None]:
        lanes = await self._way()
        operations: list[WriteRow] = []
        large: dict[int, tuple[PayloadKey, bytes]] = {}
        for place, (change, payload) in enumerate(items):
            if payload is None or len(payload) <= self._inline or change.revision is None:
                operations.append(WriteRow(self._tables, change, payload))
            else:
                large[place] = PayloadKey(change.meta.resource_id, change.revision.payload_id), payload
                operations.append(WriteRow(self._tables, change))
        begun = Elapsed()
        if large:
            await self._files.write_many(list(large.values()))
        results = await lanes.write_all(operations)
        refused = [key for place, (key, _) in large.items() if is_refusal(results[place])]
        if refused:
            await self._discard(refused)
        if large:
            await put_again(
                begun,
                lambda: self._files.write_many(
                    [item for place, item in large.items() if not is_refusal(results[place])]
                ),
            )
        return results

    async def _discard(self, keys: list[PayloadKey]) -> None:
        try:
            await self._files.delete(keys)
        except SpecstarError as error:
            logger.warning("%s: %d unused payloads stay until garbage collection: %s", self._model, len(keys), error)

    async def read(self, resource_id: str, revision_id: str | None = None) -> StoredRevision | ResourceMeta | None:
        lanes = await self._way()
        revision: RevisionInfo | None = None
        for _ in range(_READ_ATTEMPTS):
            (row,) = await lanes.read(GetFull(self._tables, (resource_id,), revision_id))
            if row is None:
                return None
            meta, revision, payload = row
            if revision is None:
                return cast("ResourceMeta", meta)
            if payload is None:
                payload = await self._outside(PayloadKey(resource_id, revision.payload_id))
            if payload is not None:
                return StoredRevision(meta, revision, payload)
            # A draft rewritten, or the resource erased, between the two reads: look again.
        raise payload_gone(cast("RevisionInfo", revision), model=self._model, where=self._context.options.rootdir)

    async def _outside(self, key: PayloadKey) -> bytes | None:
        """A payload that is not in the revision's row: in a file, or written while the roles were bound apart."""
        payload = await self._files.read(key)
        if payload is None:
            (payload,) = await (await self._way()).read(GetPayloads(self._tables, (key,)))
        return payload

    async def read_many(self, resource_ids: Sequence[str]) -> list[StoredRevision | None]:
        lanes = await self._way()
        return await self._whole(await lanes.read(GetFull(self._tables, resource_ids, each=True)))

    async def _whole(self, rows: Sequence[FoundRow | None]) -> list[StoredRevision | None]:
        """The rows with those payloads that lie in files."""
        result: list[Any] = list(rows)
        apart: list[tuple[int, PayloadKey]] = []
        for place, row in enumerate(rows):
            if row is None or row.revision is None:
                result[place] = None
            elif row.payload is None:
                apart.append((place, PayloadKey(row.meta.resource_id, row.revision.payload_id)))
            else:
                result[place] = StoredRevision(row.meta, row.revision, row.payload)
        if apart:
            payloads = await self._files.try_many([key for _, key in apart])
            for (place, _), payload in zip(apart, payloads, strict=True):
                row = result[place]
                result[place] = await self.with_payload(row.meta, row.revision, payload)
        return result

    async def read_meta(self, resource_id: str) -> ResourceMeta | None:
        lanes = await self._way()
        (meta,) = await lanes.read(GetMeta(self._tables, (resource_id,)))
        return cast("ResourceMeta | None", meta)

    async def read_revision(
        self, resource_id: str, revision_id: str | None = None
    ) -> tuple[ResourceMeta, RevisionInfo | None] | None:
        lanes = await self._way()
        (row,) = await lanes.read(GetRows(self._tables, (resource_id,), revision_id))
        return cast("tuple[ResourceMeta, RevisionInfo | None] | None", row)

    async def list_revisions(self, resource_id: str) -> list[RevisionInfo]:
        lanes = await self._way()
        return cast("list[RevisionInfo]", await lanes.read(ListRevisions(self._tables, resource_id)))

    async def erase(self, resource_id: str, *, expected_version: int | None = None) -> bool:
        lanes = await self._way()
        erased = await lanes.write(EraseResource(self._tables, resource_id, expected_version))
        if erased is None:
            return False
        await self._discard([PayloadKey(resource_id, info.payload_id) for info, elsewhere in erased if elsewhere])
        return True

    async def find(self, query: Query) -> Found:
        lanes = await self._way()
        rows = await lanes.search(SearchFull(self._tables, query))
        for row in rows:
            if row.revision is None:
                raise revision_gone(row.meta)
        return Found.of(query, [row.meta for row in rows], await self._whole(rows))

    async def search_meta(self, query: Query) -> list[ResourceMeta]:
        lanes = await self._way()
        return cast("list[ResourceMeta]", await lanes.search(SearchMeta(self._tables, query)))

    async def count(self, condition: Condition | None = None, *, include_deleted: bool = False) -> int:
        lanes = await self._way()
        return cast("int", await lanes.search(CountRows(self._tables, condition, include_deleted)))

    async def explain(self, query: Query) -> str:
        lanes = await self._way()
        return cast("str", await lanes.search(ExplainRows(self._tables, query)))

    async def list_payloads(self) -> AsyncIterator[list[StoredPayload]]:
        lanes = await self._way()
        async with left_in_order(payload_pages(lanes, self._tables, self._files)) as pages:
            async for page in pages:
                yield page

    async def unreferenced(self, keys: Sequence[PayloadKey]) -> list[PayloadKey]:
        lanes = await self._way()
        return cast("list[PayloadKey]", await lanes.search(Unreferenced(self._tables, keys)))

    async def drop_payloads(self, keys: Sequence[PayloadKey]) -> None:
        lanes = await self._way()
        if keys:
            await lanes.write(DeletePayloads(self._tables, keys))
            await self._files.delete(keys)

    async def sweep(self, *, older_than_seconds: float) -> int:
        await self._way()
        return await self._files.sweep(older_than_seconds)
