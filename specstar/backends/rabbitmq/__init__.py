"""The `rabbitmq` backend type: message queues on a RabbitMQ broker. Importing it loads no driver."""

from __future__ import annotations

from specstar.backends.rabbitmq.options import RabbitMQOptions
from specstar.backends.rabbitmq.provider import RabbitMQProvider

__all__ = ["RabbitMQOptions", "RabbitMQProvider"]
