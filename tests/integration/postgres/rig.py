"""Stores on a real server, as a runtime would build them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec

from specstar.backends.postgres import PostgresOptions, PostgresProvider
from specstar.backends.postgres.connection import PostgresConnection
from specstar.backends.provider import BackendContext
from specstar.query import IndexedField
from specstar.roles import (
    Advance,
    MetaStore,
    MetaWrite,
    ModelSpec,
    ResourceMeta,
    ResourceStore,
    RevisionInfo,
    Storage,
    StorageWrite,
    StoredRevision,
)
from specstar.runtime import LazyConnection
from specstar.runtime.home import AsyncioHome

__all__ = ["Rig", "admin", "advance_of", "change_of", "ids", "new", "open_rig", "touched"]

TIME = datetime(2024, 5, 1, 10, 0, 0, 123456, tzinfo=UTC)
_numbers = itertools.count(1)


class Rig:
    """One process's view of a database: a home, one connection, and stores on it."""

    def __init__(self, options: PostgresOptions) -> None:
        self.options = options
        self.provider = PostgresProvider()
        self.home = AsyncioHome(asyncio.get_running_loop())
        self.lazy: LazyConnection[PostgresConnection] = LazyConnection(
            lambda: self.provider.connect(options), "postgres"
        )
        self.context = BackendContext(home=self.home, options=options, connection=self.lazy)

    def storage(self, model: str = "User", fields: tuple[IndexedField, ...] = ()) -> Storage:
        storage = self.provider.combined_storage(
            self.context, self.context, ModelSpec(name=model, indexed_fields=fields)
        )
        assert storage is not None
        return storage

    def meta(self, model: str = "User", fields: tuple[IndexedField, ...] = ()) -> MetaStore:
        return self.provider.meta_store(self.context, ModelSpec(name=model, indexed_fields=fields))

    def resource(self, model: str = "User") -> ResourceStore:
        return self.provider.resource_store(self.context, ModelSpec(name=model))

    async def connection(self) -> PostgresConnection:
        return await self.lazy.get()

    async def aclose(self) -> None:
        self.home.closing = True
        await self.lazy.aclose(5)
        await self.home.cancel_tasks(5)


@contextlib.asynccontextmanager
async def open_rig(dsn: str, **options: Any) -> AsyncIterator[Rig]:
    rig = Rig(PostgresOptions(dsn=dsn, **options))
    try:
        yield rig
    finally:
        await rig.aclose()


@contextlib.asynccontextmanager
async def admin(dsn: str) -> AsyncIterator[Any]:
    """A plain connection beside the pool, to look and to meddle."""
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        yield connection
    finally:
        await connection.close()


def new(resource_id: str, payload: bytes = b"{}", **indexed: Any) -> StorageWrite:
    """The creation of a resource."""
    return _write(resource_id, None, payload, indexed)


def change_of(before: StorageWrite, payload: bytes = b"{}", **indexed: Any) -> StorageWrite:
    """The next revision of a resource, on condition that it is as `before` left it."""
    return _write(before.change.meta.resource_id, before.change.meta, payload, indexed)


def advance_of(
    before: StorageWrite | StoredRevision, payload: bytes = b"{}", *, behind: timedelta = timedelta(), **indexed: Any
) -> Advance:
    """The next revision of a resource of which only the id of its current revision is known, by a clock `behind` ours."""
    meta = before.change.meta if isinstance(before, StorageWrite) else before.meta
    revision = _write(meta.resource_id, meta, payload, indexed).change.revision
    assert revision is not None
    time = revision.updated_time - behind
    return Advance(msgspec.structs.replace(revision, created_time=time, updated_time=time), indexed, payload)


def touched(before: StorageWrite, **changes: Any) -> StorageWrite:
    """A change of the row alone, as deleting makes."""
    meta = before.change.meta
    row = msgspec.structs.replace(meta, version=meta.version + 1, updated_time=_time(), **changes)
    return StorageWrite(MetaWrite(row, None, meta.version), None)


def _time() -> datetime:
    return TIME + timedelta(microseconds=next(_numbers))


def _write(resource_id: str, before: ResourceMeta | None, payload: bytes, indexed: dict[str, Any]) -> StorageWrite:
    now = _time()
    version = before.version + 1 if before else 1
    revision_id = f"{resource_id[:32]}:{next(_numbers):08d}"
    meta = ResourceMeta(
        resource_id=resource_id,
        current_revision_id=revision_id,
        revision_count=version,
        version=version,
        created_time=before.created_time if before else now,
        updated_time=now,
        created_by="ann",
        updated_by="bob",
        schema_version="v1",
        indexed_data=indexed,
    )
    revision = RevisionInfo(
        resource_id=resource_id,
        revision_id=revision_id,
        parent_revision_id=before.current_revision_id if before else None,
        payload_id=revision_id,
        size=len(payload),
        created_time=now,
        updated_time=now,
        created_by="bob",
        updated_by="bob",
    )
    return StorageWrite(MetaWrite(meta, revision, before.version if before else None), payload)


def ids(prefix: str, count: int) -> Iterator[str]:
    return (f"{prefix}{number:05d}" for number in range(count))
