"""The seam that every backend type fills: options, the roles it has, its connection and its stores."""

from __future__ import annotations

import builtins
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from msgspec import Struct

from specstar.config.structs import Role
from specstar.errors import NotConfiguredError
from specstar.roles import BlobStore, MessageQueueFactory, MetaStore, ModelSpec, ResourceStore, Storage
from specstar.runtime import Connection, Home, LazyConnection

if TYPE_CHECKING:
    from specstar.config import BackendDefaults

__all__ = ["BackendContext", "BackendProvider", "Role"]

Options = TypeVar("Options", bound=Struct)
Conn = TypeVar("Conn", bound=Connection)


@dataclass(frozen=True, slots=True)
class BackendContext(Generic[Options, Conn]):
    """What a store is built with, on the home loop: its options, its lazily opened connection, and the home for batches."""

    home: Home
    options: Options
    connection: LazyConnection[Conn]


class BackendProvider(ABC, Generic[Options, Conn]):
    """One backend type. Its methods open nothing: they compose objects that connect on first use.

    `options_type` is a frozen, keyword-only msgspec Struct that refuses unknown fields; every field's docstring text is in
    its `Annotated[..., msgspec.Meta(description=...)]`, and documented aliases in `aliases` (alias to field name).
    `native` says that the backend runs on any event loop (trio too); False means asyncio drivers. `durable`: what it
    keeps outlives the process. `extra` names the extra
    of the package that brings the driver.
    """

    type: ClassVar[str]
    roles: ClassVar[frozenset[Role]]
    options_type: ClassVar[builtins.type[Struct]]
    aliases: ClassVar[dict[str, str]] = {}
    native: ClassVar[bool] = True
    durable: ClassVar[bool] = True
    extra: ClassVar[str | None] = None

    def apply_defaults(self, options: dict[str, Any], defaults: BackendDefaults) -> dict[str, Any]:
        """Fill in options that were not given from the shared defaults; called before options are decoded."""
        return options

    def validate(self, options: Options, role: Role) -> list[tuple[str, str]]:
        """Checks that types cannot express: pairs of (option name, what is wrong)."""
        return []

    def pinned(self, options: Options) -> Options:
        """The same options, made independent of what the process may change later, such as its working directory.

        Called once, when the configuration is resolved; stores and connections get what this returns.
        """
        return options

    @abstractmethod
    def connection_key(self, options: Options) -> Hashable:
        """Equal for options that can share one connection."""

    @abstractmethod
    def connect(self, options: Options) -> Conn:
        """A new, unopened connection."""

    def meta_store(self, context: BackendContext[Options, Conn], model: ModelSpec) -> MetaStore:
        """The meta store of one model."""
        raise self._lacks("meta")

    def resource_store(self, context: BackendContext[Options, Conn], model: ModelSpec) -> ResourceStore:
        """The resource store of one model."""
        raise self._lacks("resource")

    def combined_storage(
        self, meta: BackendContext[Options, Conn], resource: BackendContext[Options, Conn], model: ModelSpec
    ) -> Storage | None:
        """Both roles in one transaction, where they share a connection; None: compose the two stores."""
        return None

    def blob_store(self, context: BackendContext[Options, Conn]) -> BlobStore:
        """The blob store."""
        raise self._lacks("blob")

    def message_queue_factory(self, context: BackendContext[Options, Conn]) -> MessageQueueFactory:
        """The factory of the queues."""
        raise self._lacks("mq")

    def _lacks(self, role: Role) -> NotConfiguredError:
        roles = ", ".join(sorted(self.roles))
        return NotConfiguredError(f"backend type {self.type!r} has no role {role!r}; it has: {roles}")
