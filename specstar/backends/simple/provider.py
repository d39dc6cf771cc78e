"""The provider of the `simple` backend type."""

from __future__ import annotations

import builtins
from collections.abc import Hashable
from typing import TYPE_CHECKING, ClassVar

from msgspec import Struct

from specstar.backends.provider import BackendContext, BackendProvider, Role
from specstar.backends.simple.options import SimpleOptions

if TYPE_CHECKING:
    from specstar.backends.simple.broker import SimpleBroker
    from specstar.roles import MessageQueueFactory

__all__ = ["SimpleProvider"]


class SimpleProvider(BackendProvider[SimpleOptions, "SimpleBroker"]):
    """Queues in the memory of this process, on asyncio and trio."""

    type: ClassVar[str] = "simple"
    roles: ClassVar[frozenset[Role]] = frozenset({"mq"})
    options_type: ClassVar[builtins.type[Struct]] = SimpleOptions
    durable: ClassVar[bool] = False

    def connection_key(self, options: SimpleOptions) -> Hashable:
        return ("simple",)

    def connect(self, options: SimpleOptions) -> SimpleBroker:
        from specstar.backends.simple.broker import SimpleBroker

        return SimpleBroker()

    def message_queue_factory(self, context: BackendContext[SimpleOptions, SimpleBroker]) -> MessageQueueFactory:
        from specstar.backends.simple.queue import SimpleQueueFactory

        return SimpleQueueFactory(context)
