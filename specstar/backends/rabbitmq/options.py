"""The options of the `rabbitmq` backend type."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct, structs

from specstar.backends.rabbitmq.url import hide_password
from specstar.config.redaction import Redacted

__all__ = ["RabbitMQOptions"]


class RabbitMQOptions(Redacted, Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to reach a RabbitMQ broker, and how its queues are named and made."""

    secrets: ClassVar[frozenset[str]] = frozenset({"amqp_url"})

    amqp_url: Annotated[
        str,
        Meta(
            description="amqp://user:password@host:5672/vhost; amqps:// for TLS, with ?cafile=/path/ca.crt. "
            "Reserved characters in user, password and vhost are percent-encoded; the vhost / is an empty path or /%2F."
        ),
    ] = "amqp://guest:guest@localhost:5672/"
    queue_prefix: Annotated[str, Meta(max_length=60, description="What the name of every queue begins with.")] = (
        "specstar:"
    )
    max_retries: Annotated[
        int, Meta(ge=0, le=1000, description="How often a failed job is tried again, unless the job says otherwise.")
    ] = 3
    retry_delay_seconds: Annotated[
        float, Meta(ge=0, le=4_000_000, description="Seconds before a failed job is tried again.")
    ] = 10.0
    amqp_heartbeat_seconds: Annotated[
        int,
        Meta(
            ge=0,
            le=65534,
            description="Heartbeat of the connection in seconds; 0: none, TCP keepalive alone finds a dead peer.",
        ),
    ] = 600
    queue_type: Annotated[
        Literal["classic", "quorum"],
        Meta(description="classic: fast, on one node; quorum: replicated over the nodes of a cluster, no priorities."),
    ] = "classic"
    delay_queue_type: Annotated[
        Literal["classic", "quorum"],
        Meta(
            description="Queues in which jobs wait. quorum: a killed broker loses none of them (RabbitMQ 3.10); "
            "classic: it may lose those whose wait is over and that no worker has taken."
        ),
    ] = "quorum"
    connect_timeout_seconds: Annotated[
        float, Meta(gt=0, le=3600, description="The longest wait for a connection, TLS and login included.")
    ] = 10.0
    operation_timeout_seconds: Annotated[
        float, Meta(gt=0, le=3600, description="The longest wait for the answer to one request, such as a declaration.")
    ] = 30.0
    publish_timeout_seconds: Annotated[
        float,
        Meta(
            gt=0,
            le=3600,
            description="The longest a publish waits for its confirm, with reconnecting and sending again.",
        ),
    ] = 30.0
    max_unconfirmed: Annotated[
        int, Meta(ge=1, le=100_000, description="Messages sent and not confirmed yet, at most; more wait their turn.")
    ] = 512
    max_message_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            le=512 << 20,
            description="Largest message; more is refused. RabbitMQ 4 itself takes 16 MiB, RabbitMQ 3 128 MiB.",
        ),
    ] = 16 << 20
    delay_queue_expiry_seconds: Annotated[
        float,
        Meta(
            ge=2,
            le=86_400,
            description="How long the queue of one delay is kept after its last use, beyond the delay itself: what is in it "
            "then, because the queue of work took nothing for so long, is lost. More than twice publish_timeout_seconds.",
        ),
    ] = 86_400.0
    partition_shards: Annotated[
        int,
        Meta(
            ge=1,
            le=256,
            description="Queues over which the partition keys of a job are spread, each with one worker at a time. "
            "The same for all programs that share a queue.",
        ),
    ] = 16
    partition_prefetch: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="Messages of each partition queue that a worker holds. More than 1 lets other keys of the queue pass "
            "a slow one; without shared job state each held one counts a lost attempt when its worker ends.",
        ),
    ] = 1
    max_priority: Annotated[
        int,
        Meta(
            ge=0,
            le=9,
            description="Priorities of classic queues, 0 to this, unless the job says otherwise; 0: none. "
            "It cannot change once a queue exists.",
        ),
    ] = 0
    quorum_delivery_limit: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Quorum queues: after this many deliveries the broker itself parks a message as a dead letter.",
        ),
    ] = 100
    consumer_timeout_seconds: (
        Annotated[
            float,
            Meta(
                ge=60,
                le=31_536_000,
                description="How long a handler may hold a message: x-consumer-timeout of new queues (RabbitMQ 3.12; from "
                "4.3 on of quorum queues). Unset: the broker's consumer_timeout, 30 minutes unless set otherwise.",
            ),
        ]
        | None
    ) = None

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        shown = structs.asdict(self)
        shown["amqp_url"] = hide_password(self.amqp_url)
        return list(shown.items())
