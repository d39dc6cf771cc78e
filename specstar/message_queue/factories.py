"""Message queue factories: what `message_queue_factory=` takes, and what `backend=` resolves `mq` into."""

from __future__ import annotations

from typing import Any, Literal

from specstar.config import BackendBinding, BackendConfig, ResolvedBackend, resolve_config
from specstar.errors import ConfigError
from specstar.resource_manager.binding import context_of
from specstar.roles import MessageQueueFactory
from specstar.runtime import Gate

__all__ = ["BoundMessageQueueFactory", "RabbitMQMessageQueueFactory", "SimpleMessageQueueFactory"]


class BoundMessageQueueFactory:
    """A message queue factory over a resolved backend, whichever it is. It opens nothing; connections belong to the gate."""

    def __init__(self, binding: ResolvedBackend) -> None:
        self.binding = binding

    @property
    def native(self) -> bool:
        """True if the backend runs on any event loop; False if it has an asyncio driver."""
        return self.binding.provider.native

    def open(self, gate: Gate) -> MessageQueueFactory:
        """The factory of the role, for the present connections of the gate. Called on the home loop."""
        factory: MessageQueueFactory = self.binding.provider.message_queue_factory(context_of(gate, self.binding))
        return factory

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.binding.type})"


def _bind(kind: str, options: dict[str, Any]) -> ResolvedBackend:
    """Check constructor arguments exactly as a configuration's options."""
    given = {name: value for name, value in options.items() if value is not None}
    bound = resolve_config(BackendConfig(mq=BackendBinding(type=kind, options=given))).mq
    if bound is None:
        raise ConfigError(f"the backend type {kind!r} gives no message queue")
    return bound


class SimpleMessageQueueFactory(BoundMessageQueueFactory):
    """Queues in the memory of this process."""

    def __init__(self, max_retries: int = 3, retry_delay_seconds: float | None = None) -> None:
        super().__init__(_bind("simple", {"max_retries": max_retries, "retry_delay_seconds": retry_delay_seconds}))


class RabbitMQMessageQueueFactory(BoundMessageQueueFactory):
    """Queues on a RabbitMQ broker; `options` are the further options of the `rabbitmq` backend type, by name."""

    def __init__(
        self,
        amqp_url: str = "amqp://guest:guest@localhost:5672/",
        queue_prefix: str = "specstar:",
        max_retries: int = 3,
        retry_delay_seconds: float = 10,
        amqp_heartbeat_seconds: int = 600,
        *,
        queue_type: Literal["classic", "quorum"] | None = None,
        **options: Any,
    ) -> None:
        given = {
            "amqp_url": amqp_url,
            "queue_prefix": queue_prefix,
            "max_retries": max_retries,
            "retry_delay_seconds": retry_delay_seconds,
            "amqp_heartbeat_seconds": amqp_heartbeat_seconds,
            "queue_type": queue_type,
            **options,
        }
        super().__init__(_bind("rabbitmq", given))
