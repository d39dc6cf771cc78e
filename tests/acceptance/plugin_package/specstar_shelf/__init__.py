"""The backend type `shelf`: payloads of resources on a shelf of limited length, in the process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from msgspec import Meta, Struct

from specstar import BackendProvider
from specstar.backends.provider import BackendContext, Role
from specstar.config import BackendDefaults, Encoding
from specstar.errors import BackendError
from specstar.roles import ModelSpec, PayloadKey, ResourceStore, StoredPayload
from specstar.runtime import Connection, ServerInfo

__all__ = ["ShelfOptions", "ShelfProvider"]


class ShelfOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the backend type `shelf`."""

    secrets: ClassVar[frozenset[str]] = frozenset({"lock"})

    label: Annotated[str, Meta(description="Name of the shelf.")]
    places: Annotated[int, Meta(ge=1, description="Payloads that fit on it.")] = 1000
    lock: Annotated[str | None, Meta(description="What opens it.")] = None
    encoding: Annotated[Encoding, Meta(description="Format of payloads.")] = Encoding.json


class Shelf(Connection):
    """What the models share."""

    def __init__(self) -> None:
        self.payloads: dict[tuple[str, PayloadKey], tuple[bytes, datetime]] = {}

    async def open(self) -> None:
        """Nothing to open."""

    async def ping(self) -> ServerInfo:
        return ServerInfo(version="shelf 1.0", detail=f"{len(self.payloads)} payloads")

    async def aclose(self) -> None:
        self.payloads.clear()

    def abandon(self) -> None:
        """Nothing to drop."""


class ShelfStore(ResourceStore):
    """The payloads of one model."""

    def __init__(self, context: BackendContext[ShelfOptions, Shelf], model: ModelSpec) -> None:
        self._context = context
        self._model = model.name

    async def put(self, key: PayloadKey, payload: bytes) -> None:
        await self.put_many([(key, payload)])

    async def put_many(self, items: Sequence[tuple[PayloadKey, bytes]]) -> None:
        shelf = await self._context.connection.get()
        if len(shelf.payloads) + len(items) > self._context.options.places:
            raise BackendError("the shelf is full", role="resource", backend="shelf")
        now = datetime.now(UTC)
        shelf.payloads |= {(self._model, key): (payload, now) for key, payload in items}

    async def get(self, key: PayloadKey) -> bytes | None:
        return (await self.get_many([key]))[0]

    async def get_many(self, keys: Sequence[PayloadKey]) -> list[bytes | None]:
        shelf = await self._context.connection.get()
        return [shelf.payloads.get((self._model, key), (None, None))[0] for key in keys]

    async def delete_many(self, keys: Sequence[PayloadKey]) -> None:
        shelf = await self._context.connection.get()
        for key in keys:
            shelf.payloads.pop((self._model, key), None)

    async def list(self) -> AsyncIterator[list[StoredPayload]]:  # type: ignore[override, unused-ignore]
        shelf = await self._context.connection.get()
        yield [
            StoredPayload(key, len(payload), time)
            for (model, key), (payload, time) in shelf.payloads.items()
            if model == self._model
        ]


class ShelfProvider(BackendProvider[ShelfOptions, Shelf]):
    """One role, typed options, an alias; native, so it runs on any event loop."""

    type: ClassVar[str] = "shelf"
    roles: ClassVar[frozenset[Role]] = frozenset({"resource"})
    options_type = ShelfOptions
    aliases: ClassVar[dict[str, str]] = {"shelf_label": "label"}

    def apply_defaults(self, options: dict[str, Any], defaults: BackendDefaults) -> dict[str, Any]:
        return {"encoding": defaults.encoding, **options}

    def connection_key(self, options: ShelfOptions) -> Hashable:
        return options.label

    def connect(self, options: ShelfOptions) -> Shelf:
        return Shelf()

    def resource_store(self, context: BackendContext[ShelfOptions, Shelf], model: ModelSpec) -> ResourceStore:
        return ShelfStore(context, model)
