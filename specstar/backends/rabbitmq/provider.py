"""The provider of the `rabbitmq` backend type."""

from __future__ import annotations

import builtins
import re
from collections.abc import Hashable
from typing import TYPE_CHECKING, ClassVar

from msgspec import Struct, structs

from specstar.backends.provider import BackendContext, BackendProvider, Role
from specstar.backends.rabbitmq.options import RabbitMQOptions
from specstar.backends.rabbitmq.url import url_problem
from specstar.errors import MissingDependencyError

if TYPE_CHECKING:
    from specstar.backends.rabbitmq.connection import RabbitMQConnection
    from specstar.roles import MessageQueueFactory

__all__ = ["RabbitMQProvider"]

# What the driver allows in the name of a queue.
_PREFIX = re.compile(r"[a-zA-Z0-9\-_.:@#,/+ ]*")
# These belong to the queues; all others shape the connection itself.
_OF_QUEUES = frozenset(
    {
        "consumer_timeout_seconds",
        "delay_queue_expiry_seconds",
        "delay_queue_type",
        "max_message_bytes",
        "max_priority",
        "max_retries",
        "partition_prefetch",
        "partition_shards",
        "queue_prefix",
        "queue_type",
        "quorum_delivery_limit",
        "retry_delay_seconds",
    }
)


class RabbitMQProvider(BackendProvider[RabbitMQOptions, "RabbitMQConnection"]):
    """Message queues on RabbitMQ, through aiormq."""

    type: ClassVar[str] = "rabbitmq"
    roles: ClassVar[frozenset[Role]] = frozenset({"mq"})
    options_type: ClassVar[builtins.type[Struct]] = RabbitMQOptions
    native: ClassVar[bool] = False
    extra: ClassVar[str | None] = "rabbitmq"

    def validate(self, options: RabbitMQOptions, role: Role) -> list[tuple[str, str]]:
        problems: list[tuple[str, str]] = []
        if (problem := url_problem(options.amqp_url)) is not None:
            problems.append(("amqp_url", problem))
        prefix = options.queue_prefix
        if prefix.startswith("amq."):
            problems.append(("queue_prefix", "begins with 'amq.', which the broker keeps for itself"))
        if _PREFIX.fullmatch(prefix) is None:
            problems.append(("queue_prefix", "may hold letters, digits, spaces and -_.:@#,/+ only"))
        # A message may be confirmed this long after its delay queue was declared, and must still leave it by its TTL.
        if options.delay_queue_expiry_seconds <= 2 * options.publish_timeout_seconds:
            least = 2 * options.publish_timeout_seconds
            problems.append(
                ("delay_queue_expiry_seconds", f"must be more than twice publish_timeout_seconds ({least:g})")
            )
        if options.queue_type == "quorum" and options.max_priority:
            problems.append(("max_priority", "quorum queues have no priorities: use 0, or queue_type 'classic'"))
        return problems

    def connection_key(self, options: RabbitMQOptions) -> Hashable:
        shaping = sorted(item for item in structs.asdict(options).items() if item[0] not in _OF_QUEUES)
        return ("rabbitmq", *shaping)

    def connect(self, options: RabbitMQOptions) -> RabbitMQConnection:
        _require_driver()
        from specstar.backends.rabbitmq.connection import RabbitMQConnection

        return RabbitMQConnection(options)

    def message_queue_factory(
        self, context: BackendContext[RabbitMQOptions, RabbitMQConnection]
    ) -> MessageQueueFactory:
        _require_driver()  # the queues need it before anything connects
        from specstar.backends.rabbitmq.queue import RabbitMQQueueFactory

        return RabbitMQQueueFactory(context)


def _require_driver() -> None:
    """Raises `MissingDependencyError` if the extra is not installed."""
    try:
        import aiormq  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("aiormq", extra="rabbitmq") from error
