"""The meta role: one SQLite database a model, kept as one object. One object a model keeps writers of different models apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from specstar.backends.provider import BackendContext
from specstar.backends.s3.connection import S3Connection
from specstar.backends.s3.keys import meta_key
from specstar.backends.s3.meta_database import Change
from specstar.backends.s3.meta_object import MetaObject
from specstar.backends.s3.meta_sync import MetaSync
from specstar.backends.s3.options import S3Options
from specstar.backends.sqlite.reads import GetMeta, GetRows, ListRevisions, Referenced
from specstar.backends.sqlite.search import CountRows, ExplainRows, SearchRows
from specstar.backends.sqlite.tables import ModelTables
from specstar.backends.sqlite.writes import EnsureModel, EraseRow, WriteRow
from specstar.errors import SpecstarError
from specstar.query import Condition, Query
from specstar.roles import MetaStore, MetaWrite, ModelSpec, ResourceMeta, RevisionInfo
from specstar.runtime import portions

__all__ = ["S3MetaStore"]


def _size_of(operation: WriteRow) -> int:
    return operation.size


class S3MetaStore(MetaStore):
    """The rows of one model in `{prefix}meta/{model}.sqlite`.

    The local copy lives with the connection, so stores of one model share it. `docs/s3.md` says what the options do.
    """

    def __init__(self, context: BackendContext[S3Options, S3Connection], model: ModelSpec) -> None:
        self._context = context
        self._lazy = context.connection
        self._model = model
        self._tables = ModelTables(model)
        self._sync: MetaSync | None = None

    async def _opened(self) -> MetaSync:
        connection = self._lazy.opened or await self._lazy.get()
        options = self._context.options
        key = meta_key(options.prefix, self._model.name)
        # Stores that treat the object differently must not share a local copy; the protocol keeps them apart safely.
        share = (
            options.bucket,
            key,
            options.auto_sync,
            options.sync_interval,
            options.enable_locking,
            options.auto_reload_on_conflict,
            options.check_etag_on_read,
            options.max_meta_bytes,
            options.batch_bytes,
        )
        found = cast("MetaSync | None", connection.meta_objects.get(share))
        if found is None:
            stored = MetaObject(connection, options.bucket, options.prefix, self._model.name)
            found = MetaSync(self._context.home, connection, stored, options, self._model.name)
            connection.meta_objects[share] = found
        if self._sync is not found:
            found.require(self._model.indexed_fields, EnsureModel(self._tables))
            self._sync = found
        return found

    @property
    def deferred(self) -> bool:
        return not self._context.options.auto_sync

    async def sync(self) -> None:
        """Push local writes, or pull foreign ones; see `MetaSync.sync` for its errors."""
        await (await self._opened()).sync()

    async def discard(self) -> None:
        """Give up local writes that are not pushed, and load what is in the bucket."""
        await (await self._opened()).discard()

    async def write(self, change: MetaWrite) -> None:
        operation = WriteRow(self._tables, change)
        await self._write([Change(change.meta.resource_id, operation)], operation.size, raise_it=True)

    async def write_many(self, changes: Sequence[MetaWrite]) -> list[Exception | None]:
        # All are encoded first: what cannot be is refused before anything is pushed.
        operations = [WriteRow(self._tables, change) for change in changes]
        results: list[Exception | None] = []
        for portion in portions(operations, _size_of, max_bytes=self._context.options.batch_bytes):
            try:
                written = await self._write(
                    [Change(operation.row[0], operation) for operation in portion], sum(map(_size_of, portion))
                )
            except SpecstarError as error:
                if len(portion) == len(changes):
                    raise
                # Others are in the bucket by now: they stay acknowledged.
                written = [error] * len(portion)
            results += [result if isinstance(result, Exception) else None for result in written]
        return results

    async def erase(self, resource_id: str, *, expected_version: int | None = None) -> list[RevisionInfo] | None:
        operation = EraseRow(self._tables, resource_id, expected_version)
        (found,) = await self._write([Change(resource_id, operation)], operation.size, raise_it=True)
        erased: list[RevisionInfo] | None = found
        return erased

    async def _write(self, changes: list[Change], size: int, *, raise_it: bool = False) -> list[Any]:
        results = await (await self._opened()).write(changes, size)
        if raise_it and isinstance(results[0], Exception):
            raise results[0]
        return results

    async def get(self, resource_id: str) -> ResourceMeta | None:
        return (await self.get_many([resource_id]))[0]

    async def get_many(self, resource_ids: Sequence[str]) -> list[ResourceMeta | None]:
        found: list[ResourceMeta | None] = await (await self._opened()).read(GetMeta(self._tables, resource_ids))
        return found

    async def get_with_revision(
        self, resource_id: str, revision_id: str | None = None
    ) -> tuple[ResourceMeta, RevisionInfo | None] | None:
        (row,) = await (await self._opened()).read(GetRows(self._tables, [resource_id], revision_id))
        found: tuple[ResourceMeta, RevisionInfo | None] | None = row
        return found

    async def get_many_with_revision(
        self, resource_ids: Sequence[str]
    ) -> list[tuple[ResourceMeta, RevisionInfo] | None]:
        rows = await (await self._opened()).read(GetRows(self._tables, resource_ids, each=True))
        return [None if row is None or row[1] is None else row for row in rows]

    async def list_revisions(self, resource_id: str) -> list[RevisionInfo]:
        found: list[RevisionInfo] = await (await self._opened()).read(ListRevisions(self._tables, resource_id))
        return found

    async def search(self, query: Query) -> list[tuple[ResourceMeta, RevisionInfo]]:
        operation = SearchRows(self._tables, query)
        found: list[tuple[ResourceMeta, RevisionInfo]] = await (await self._opened()).search(operation)
        return found

    async def count(self, condition: Condition | None = None, *, include_deleted: bool = False) -> int:
        operation = CountRows(self._tables, condition, include_deleted)
        found: int = await (await self._opened()).search(operation)
        return found

    async def explain(self, query: Query) -> str:
        found: str = await (await self._opened()).search(ExplainRows(self._tables, query))
        return found

    async def referenced(self, payload_ids: Sequence[str]) -> set[str]:
        sync = await self._opened()
        # Whatever `check_etag_on_read` says: what others wrote since must not be taken for garbage, nor what the bucket still
        # points to while our own writes are not pushed.
        await sync.sync()
        found: set[str] = await sync.read(Referenced(self._tables, payload_ids))
        return found
