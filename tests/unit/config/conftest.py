"""A backend type with an option of every kind, registered for the test that asks for it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Annotated, Any, ClassVar, Literal

import pytest
from msgspec import Meta, Struct

from specstar.backends import registry
from specstar.backends.provider import BackendProvider, Role
from specstar.config import BackendDefaults, Encoding
from specstar.runtime import Connection


class Corner(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    x: int
    y: float = 0.0


class TinyOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the backend type `tiny`."""

    secrets: ClassVar[frozenset[str]] = frozenset({"badge"})

    place: Annotated[str, Meta(description="Where.")]
    port: Annotated[int, Meta(description="Which port.", ge=1, le=65_535)] = 5000
    ratio: Annotated[float, Meta(ge=0, le=1)] = 0.5
    fast: bool = False
    mode: Literal["calm", "brisk"] = "calm"
    encoding: Encoding = Encoding.json
    badge: str | None = None
    limit: Annotated[int, Meta(gt=0)] | None = None
    label: Annotated[str, Meta(min_length=2, max_length=5, pattern="^[a-z]*$")] = "abc"
    extra: dict[str, Any] = {}
    sizes: list[int] = []
    corner: Corner | None = None


class TinyProvider(BackendProvider[TinyOptions, Connection]):
    type: ClassVar[str] = "tiny"
    roles: ClassVar[frozenset[Role]] = frozenset({"meta", "resource", "blob"})
    options_type = TinyOptions
    aliases: ClassVar[dict[str, str]] = {"where": "place", "speed": "mode"}

    def apply_defaults(self, options: dict[str, Any], defaults: BackendDefaults) -> dict[str, Any]:
        return {"encoding": defaults.encoding, **options}

    def validate(self, options: TinyOptions, role: Role) -> list[tuple[str, str]]:
        if role == "blob" and options.port == 13:
            return [("port", f"13 is no port for blobs of {options.badge}")]
        return []

    def connection_key(self, options: TinyOptions) -> Hashable:
        return options.place

    def connect(self, options: TinyOptions) -> Connection:
        raise AssertionError("resolving must not connect")


class TinyQueueProvider(TinyProvider):
    type: ClassVar[str] = "tinymq"
    roles: ClassVar[frozenset[Role]] = frozenset({"mq"})


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    """Registers `tiny` (meta, resource, blob) and `tinymq` (mq), and forgets them again."""
    for provider in (TinyProvider(), TinyQueueProvider()):
        registry.register_backend_provider(provider, replace=True)
    yield
    for name in ("tiny", "tinymq"):
        del registry._providers[name]
