"""The queues of a job: what they look like."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from specstar.backends.rabbitmq.names import QueueNames, delay_steps

if TYPE_CHECKING:
    from specstar.backends.rabbitmq.options import RabbitMQOptions

__all__ = ["CONSUMER_TIMEOUT", "MODE", "OVERFLOW", "TYPE", "JobQueues", "QueueSpec"]

TYPE = "x-queue-type"
MODE = "x-queue-mode"
OVERFLOW = "x-overflow"
CONSUMER_TIMEOUT = "x-consumer-timeout"
# RabbitMQ 4 gives quorum queues a limit of 20 deliveries; looking at dead letters counts as one. No limit works on all.
_NO_DELIVERY_LIMIT = 2**31 - 1
# The default of earlier versions, whose queues keep their names.
_UNNAMED_EXPIRY = 300.0
# An expiry begins anew with each declaration: what is sent to a queue has all but this of it before it.
_LONGEST_RENEWAL = 300.0
# Before RabbitMQ 3.12 a classic queue keeps all its messages in memory, and every collection of garbage there goes through
# them, unless this is set; since then it does nothing (https://www.rabbitmq.com/docs/lazy-queues).
_LAZY = {MODE: "lazy"}
# A queue that a policy bounds refuses what is beyond; unless this is set it would drop the oldest message without a word.
_FULL = {OVERFLOW: "reject-publish"}


class QueueSpec(Struct, frozen=True, kw_only=True):
    """A queue as it is declared. `renew_seconds`: it expires when unused, and is declared again after this time.

    `unless`: it is not declared while there is a message in that queue.
    `any_type`: one that is there with another type will do.
    """

    name: str
    arguments: dict[str, Any]
    renew_seconds: float | None = None
    unless: QueueSpec | None = None
    any_type: bool = False

    def without(self, left_out: Collection[str]) -> QueueSpec:
        """The same queue without these arguments."""
        arguments = {name: value for name, value in self.arguments.items() if name not in left_out}
        return msgspec.structs.replace(self, arguments=arguments)


class JobQueues:
    """The specs of all queues of one job."""

    def __init__(self, job: str, options: RabbitMQOptions, max_priority: int | None) -> None:
        self.names: QueueNames = self._names(options, job, options.delay_queue_type)
        # Of a program with the other option, or of this one before the option was changed.
        self._other = self._names(options, job, "classic" if options.delay_queue_type == "quorum" else "quorum")
        self.shards: int = options.partition_shards
        self._options = options
        quorum = options.queue_type == "quorum"
        priorities = options.max_priority if max_priority is None else max_priority
        # What counts above it is for the broker to say, where queues are quorum queues.
        self.top_priority: Any | int | None = None if quorum else priorities
        self._work: dict[str, Any] = {
            TYPE: options.queue_type,
            **({} if quorum else _LAZY),
            **_FULL,
        }
        if options.consumer_timeout_seconds is not None:
            self._work[CONSUMER_TIMEOUT] = round(options.consumer_timeout_seconds * 1000)
        if quorum:
            self._work |= {
                "x-delivery-limit": options.quorum_delivery_limit,
                **_dead_lettering("quorum", self.names.dead),
            }
        main = self._work | ({"x-max-priority": priorities} if priorities and not quorum else {})
        self.main: QueueSpec = QueueSpec(name=self.names.main, arguments=main)
        dead = {"x-delivery-limit": _NO_DELIVERY_LIMIT} if quorum else _LAZY
        self.dead: QueueSpec = QueueSpec(name=self.names.dead, arguments={TYPE: options.queue_type, **dead, **_FULL})
        # A message in it says that a purge deletes queues in which messages wait.
        self.purging: QueueSpec = QueueSpec(
            name=self.names.purging, arguments={TYPE: options.queue_type, "x-max-length": 1, "x-expires": 86_400_000}
        )
        self.retry: QueueSpec = self._delayed(
            self.names.retry, self.names.main, round(options.retry_delay_seconds * 1000)
        )
        # A message in it says that partition keys are in use. All must agree on its length limit: the broker checks it. Away
        # with a node, it would stop all jobs.
        self.partitions: QueueSpec = QueueSpec(
            name=self.names.partitions,
            arguments={TYPE: options.queue_type, "x-max-length": options.partition_shards},
            any_type=True,
        )
        # Its one message is not durable: it is gone once the broker was restarted.
        self.uptime: QueueSpec = QueueSpec(name=self.names.uptime, arguments={TYPE: "classic", "x-max-length": 1})

    @staticmethod
    def _names(options: RabbitMQOptions, job: str, delay_type: str) -> QueueNames:
        return QueueNames(options.queue_prefix, job, work_type=options.queue_type, delay_type=delay_type)

    def shard(self, number: int) -> QueueSpec:
        """The queue of one part of the partition keys: one consumer at a time."""
        return QueueSpec(name=self.names.shard(number), arguments=self._work | {"x-single-active-consumer": True})

    def delay(self, target: str, step: int) -> QueueSpec:
        """The queue in which messages for `target` wait for `step` milliseconds."""
        name = self.names.delay(target, step, self._options.delay_queue_expiry_seconds, _UNNAMED_EXPIRY)
        return self._expiring(name, target, step)

    def aside(self, step: int) -> QueueSpec:
        """The queue in which dead letters wait that those take not yet: another one, so that no purge deletes them."""
        name = self.names.aside(step, self._options.delay_queue_expiry_seconds, _UNNAMED_EXPIRY)
        return self._expiring(name, self.names.main, step)

    def _expiring(self, name: str, target: str, step: int) -> QueueSpec:
        expiry = self._options.delay_queue_expiry_seconds
        waits = self._delayed(name, target, step)
        # A queue expires with what is in it. A message may be confirmed up to publish_timeout_seconds after this check.
        renew = min((expiry - self._options.publish_timeout_seconds) / 2, _LONGEST_RENEWAL)
        arguments = waits.arguments | {"x-expires": step + round(expiry * 1000)}
        return msgspec.structs.replace(waits, arguments=arguments, renew_seconds=renew)

    def waits(self, target: str) -> list[str]:
        """The names of all queues, of both types, in which messages for `target` may wait, but for `retry`.

        Of both expiries too: that of the option, and the default of earlier versions.
        """
        expiries = {self._options.delay_queue_expiry_seconds, _UNNAMED_EXPIRY}
        delays = [
            names.delay(target, step, expiry, _UNNAMED_EXPIRY)
            for names in (self.names, self._other)
            for expiry in sorted(expiries)
            for step in delay_steps()
        ]
        return [*delays, self._other.retry] if target == self.names.main else delays

    def _delayed(self, name: str, target: str, milliseconds: int) -> QueueSpec:
        arguments = {
            TYPE: self._options.delay_queue_type,
            "x-message-ttl": milliseconds,
            **_dead_lettering(self._options.delay_queue_type, target),
        }
        return QueueSpec(name=name, arguments=arguments, unless=self.purging)


def _dead_lettering(queue_type: str, target: str) -> dict[str, Any]:
    arguments: dict[str, Any] = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": target}
    if queue_type == "quorum":
        arguments |= {"x-dead-letter-strategy": "at-least-once", **_FULL}
    return arguments
