"""The memory that the roles of one spec share."""

from __future__ import annotations

import anyio.lowlevel

from specstar.backends.memory.blobs import BlobTable
from specstar.backends.memory.model import MemoryModel, PayloadTable
from specstar.roles import ModelSpec
from specstar.runtime import Connection, ServerInfo

__all__ = ["MemoryConnection"]

_YIELD_EVERY = 64


class MemoryConnection(Connection):
    """All data of the memory backend, by model. It belongs to no event loop, and ends with `aclose`."""

    portable = True

    def __init__(self) -> None:
        self.blobs: BlobTable = BlobTable()
        self._models: dict[str, MemoryModel] = {}
        self._payloads: dict[str, PayloadTable] = {}
        self._calls = 0

    def model(self, spec: ModelSpec) -> MemoryModel:
        """The resources of a model; with the newest declaration of its indexed fields."""
        model = self._models.get(spec.name)
        if model is None:
            model = self._models[spec.name] = MemoryModel(spec)
        else:
            model.declare(spec)
        return model

    def payloads(self, spec: ModelSpec) -> PayloadTable:
        """The payloads of a model, where they are kept apart from its rows."""
        return self._payloads.setdefault(spec.name, PayloadTable())

    def due(self) -> bool:
        """True once in a while: the caller must then let other tasks run, since a call in memory never waits by itself."""
        self._calls += 1
        return self._calls % _YIELD_EVERY == 0

    async def open(self) -> None:
        """Nothing to open."""

    async def ping(self) -> ServerInfo:
        import apsw

        await anyio.lowlevel.checkpoint()
        resources = sum(len(model.rows) for model in self._models.values())
        return ServerInfo(
            version=f"SQLite {apsw.sqlite_lib_version()}",
            detail=f"{resources} resources of {len(self._models)} models, {len(self.blobs)} blobs",
        )

    async def aclose(self) -> None:
        """Drop all data."""
        for model in self._models.values():
            model.close()
        self._models.clear()
        self._payloads.clear()
        self.blobs = BlobTable()

    def abandon(self) -> None:
        """Nothing to drop: the data outlives its loop."""
