"""What `configure` has bound: the two factories on which the models, jobs and blobs of one spec stand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from specstar.errors import NotConfiguredError

if TYPE_CHECKING:
    from specstar.config import ResolvedBackend
    from specstar.config.structs import Role
    from specstar.message_queue.factories import BoundMessageQueueFactory
    from specstar.resource_manager.factories import StorageFactory

__all__ = ["Bound"]


class Bound:
    """The factories of the last `configure`; None before the first, and where it binds no mq."""

    def __init__(self) -> None:
        self.storage_factory: StorageFactory | None = None
        self.message_queue_factory: BoundMessageQueueFactory | None = None

    def storage(self) -> StorageFactory:
        """The storage factory. Raises `NotConfiguredError` if nothing is configured yet."""
        if self.storage_factory is None:
            raise NotConfiguredError(
                'nothing is configured yet; call spec.configure(backend=...), for example backend={"mq": {"type": "simple"}}'
            )
        return self.storage_factory

    def messages(self) -> BoundMessageQueueFactory:
        """The message queue factory. Raises `NotConfiguredError` if nothing is configured yet, or no mq."""
        if self.message_queue_factory is None:
            self.storage()
            raise NotConfiguredError(
                'no message queue is configured; add mq to the configuration, for example "mq": {"type": "simple"}'
            )
        return self.message_queue_factory

    @property
    def native(self) -> bool:
        """True if all backends run on any event loop; False if one has an asyncio driver."""
        return all(factory is None or factory.native for factory in (self.storage_factory, self.message_queue_factory))

    def bindings(self) -> Iterator[tuple[None, Role, ResolvedBackend]]:
        """The backends, as `check_roles` takes them: of no model in particular, role, backend."""
        if self.storage_factory is not None:
            for role, bound in self.storage_factory.bindings.items():
                yield None, role, bound
        if self.message_queue_factory is not None:
            yield None, "mq", self.message_queue_factory.binding
