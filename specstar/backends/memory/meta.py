"""The meta role in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from anyio.lowlevel import checkpoint

from specstar.backends.memory.connection import MemoryConnection
from specstar.backends.memory.model import MemoryModel
from specstar.backends.memory.options import MemoryOptions
from specstar.backends.memory.search import MemorySearch
from specstar.backends.provider import BackendContext
from specstar.errors import SpecstarError
from specstar.query import Condition, Query
from specstar.roles import MetaStore, MetaWrite, ModelSpec, ResourceMeta, RevisionInfo
from specstar.roles.meta import revision_gone

__all__ = ["MemoryMetaStore", "Opened"]


class Opened:
    """A store's view of the memory: looked up once, when first used."""

    def __init__(self, context: BackendContext[MemoryOptions, MemoryConnection], spec: ModelSpec) -> None:
        self._context = context
        self._spec = spec
        self.connection: MemoryConnection | None = None

    async def connect(self) -> MemoryConnection:
        """Find the data of the model. Raises `BackendUnavailable` after closing."""
        connection = await self._context.connection.get()
        self.model: MemoryModel = connection.model(self._spec)
        self.rows: dict[str, Any] = self.model.rows
        self.search: MemorySearch = MemorySearch(self._context.home, self.model)
        self.connection = connection
        return connection

    async def ready(self) -> MemoryConnection:
        """Before each change: connect when new."""
        if self.connection is None or self._context.connection.opened is None:
            return await self.connect()
        return self.connection

    async def turn(self) -> MemoryConnection:
        """Before each read: connect when new, and let other tasks run now and then."""
        connection = await self.ready()
        if connection.due():
            await checkpoint()
        return connection

    async def apply(self, change: MetaWrite, payload: bytes | None) -> None:
        """Make a change, then let other tasks run now and then: after it, so that calls take effect in their order."""
        connection = await self.ready()
        self.model.apply(change, payload)
        if connection.due():
            await checkpoint()

    async def apply_all(self, changes: Iterable[tuple[MetaWrite, bytes | None]]) -> list[Exception | None]:
        """Make changes, each by itself."""
        results: list[Exception | None] = []
        for change, payload in changes:
            try:
                await self.apply(change, payload)
                results.append(None)
            except SpecstarError as error:
                results.append(error)
        return results


class MemoryMetaStore(MetaStore):
    """Rows and revisions of one model in memory. Calls run at once, on the event loop."""

    shares_rows = True

    def __init__(self, context: BackendContext[MemoryOptions, MemoryConnection], model: ModelSpec) -> None:
        self._opened = Opened(context, model)

    async def write(self, change: MetaWrite) -> None:
        await self._opened.apply(change, None)

    async def write_many(self, changes: Sequence[MetaWrite]) -> list[Exception | None]:
        return await self._opened.apply_all((change, None) for change in changes)

    async def erase(self, resource_id: str, *, expected_version: int | None = None) -> list[RevisionInfo] | None:
        await self._opened.ready()
        return self._opened.model.erase(resource_id, expected_version)

    async def get(self, resource_id: str) -> ResourceMeta | None:
        await self._opened.turn()
        row = self._opened.rows.get(resource_id)
        return None if row is None else row.meta

    async def get_many(self, resource_ids: Sequence[str]) -> list[ResourceMeta | None]:
        await self._opened.turn()
        rows = [self._opened.rows.get(resource_id) for resource_id in resource_ids]
        return [None if row is None else row.meta for row in rows]

    async def get_with_revision(
        self, resource_id: str, revision_id: str | None = None
    ) -> tuple[ResourceMeta, RevisionInfo | None] | None:
        await self._opened.turn()
        return self._opened.model.with_revision(resource_id, revision_id)

    async def get_many_with_revision(
        self, resource_ids: Sequence[str]
    ) -> list[tuple[ResourceMeta, RevisionInfo] | None]:
        await self._opened.turn()
        rows = [self._opened.rows.get(resource_id) for resource_id in resource_ids]
        return [None if row is None or row.revision is None else (row.meta, row.revision) for row in rows]

    async def list_revisions(self, resource_id: str) -> list[RevisionInfo]:
        await self._opened.turn()
        return self._opened.model.revisions(resource_id)

    async def search(self, query: Query) -> list[tuple[ResourceMeta, RevisionInfo]]:
        await self._opened.turn()
        results = []
        for row in await self._opened.search.rows(query):
            if row.revision is None:
                raise revision_gone(row.meta)
            results.append((row.meta, row.revision))
        return results

    async def count(self, condition: Condition | None = None, *, include_deleted: bool = False) -> int:
        await self._opened.turn()
        return await self._opened.search.count(condition, include_deleted)

    async def explain(self, query: Query) -> str:
        await self._opened.turn()
        return await self._opened.search.explain(query)

    async def referenced(self, payload_ids: Sequence[str]) -> set[str]:
        await self._opened.turn()
        model, wanted = self._opened.model, set(payload_ids)
        found = {row.revision.payload_id for row in model.rows.values() if row.revision is not None}
        for history in model.history.values():
            found.update(revision.payload_id for revision, _ in history.values())
        return wanted & found
