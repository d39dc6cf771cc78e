"""The mq role: messages that are confirmed when sent, acknowledged when done, and parked when they keep failing.

The role moves messages; what a job is (attempts, retries, state, results) is decided once, above it, in `message_queue`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime

from msgspec import Struct

__all__ = ["Consumer", "DeadLetter", "Delivery", "Message", "MessageQueue", "MessageQueueFactory", "Prepare"]

Prepare = Callable[[Sequence[str]], Awaitable[None]]
"""What is done for messages of these ids beside their sending."""


class Message(Struct, frozen=True, kw_only=True, gc=False):
    """One message. `body` is opaque. `attempts` is what its sender wrote: the deliveries that failed so far.

    The broker never changes `attempts`: a lost delivery is counted by the worker that gets the message next, which sees
    `redelivered`. `partition_key`: messages with one key are handled one at a time over all consumers, in order of sending;
    one that is delayed or retried loses its place to those behind it. `priority` 0 to 9, high first, where the backend has
    priorities; it does not break the order of a partition. `id` is the job's id: the same for every copy of one job. `copy`
    tells apart messages of one job and as many `attempts`, of which a crash may have left several: empty for the one that
    was planned, a new name for one that was sent in case it was lost. `lineage` names the `requeue_dead` that it descends from:
    empty before the first, None if an earlier version sent it, which did not tell.
    """

    id: str
    body: bytes
    attempts: int = 0
    priority: int = 0
    partition_key: str | None = None
    copy: str = ""
    lineage: str | None = ""


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A message that was given up, with the reason and the time (aware, UTC)."""

    message: Message
    reason: str
    time: datetime


class Delivery(ABC):
    """A message in the hands of one worker, until one of its three ends is called; each end is confirmed when it returns.

    If the worker dies, or its connection, or its consumer is left before an end took effect, this very message is delivered
    again, unchanged, with `redelivered` true. The copy that `retry` sends is a new message: not redelivered. `retry` and
    `dead` send first and remove second, so that a crash between leaves two copies, never none. An end raises
    `BackendUnavailable` if it could not be confirmed; the message is then delivered again. `retry` and `dead` raise
    `LimitExceededError` if the broker takes no message of that size; the delivery is then in hand still, for another end.
    """

    message: Message
    redelivered: bool

    @abstractmethod
    async def ack(self) -> None:
        """The message is done."""

    @abstractmethod
    async def retry(self, message: Message, *, delay: float) -> None:
        """Replace the message by this one (same id), to be delivered after `delay` seconds."""

    @abstractmethod
    async def dead(self, message: Message, *, reason: str) -> None:
        """Park the message among the dead letters."""

    @property
    @abstractmethod
    def lost(self) -> bool:
        """True once the connection that this delivery came by is gone: its ends will do nothing, another worker may run it."""


class Consumer(ABC):
    """The receiving end of one worker. It reconnects by itself and goes on."""

    @abstractmethod
    async def receive(self) -> Delivery:
        """Wait for the next message; as long as it takes. May be called by many tasks at once.

        Cancelling it loses no message. Raises `BackendUnavailable` once the consumer is stopped, or for good reasons only.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Take no more messages; those received but not handed out go back, without a partition not as `redelivered` unless
        `share_partitions` was called. Deliveries in hand can still be ended.

        A `receive` that waits raises `BackendUnavailable`. Safe to call twice.
        """

    def share_partitions(self) -> None:  # noqa: B027  a backend without partitions of its own has nothing to share
        """Leave to other workers what they can take of the partitions, from now on.

        Messages that were not handed out may then be `redelivered` all the same: for those whose state tells what was done.
        """

    hold_seconds: float | None = None
    """How long the backend lets a worker hold a message without an end; None: for ever."""
    paused: bool = False
    """True after `pause`, until `resume` or a new connection."""

    async def others_may_take(self) -> bool:
        """True if what is sent now, without a partition, probably comes to another worker at once.

        Raises `BackendError` if that cannot be found out.
        """
        return False

    async def pause(self) -> None:  # noqa: B027  where others never take anything, nobody pauses
        """Take no more messages without a partition, until `resume`. Those received stay in hand. May be called twice."""

    async def resume(self, *, prefetch: int) -> None:  # noqa: B027
        """Take messages again, at most `prefetch` beside those that are in hand now."""


class MessageQueue(ABC):
    """The messages of one job type."""

    @abstractmethod
    async def publish(self, message: Message, *, delay: float = 0) -> None:
        """Send; returns once the broker has confirmed that it keeps the message. `delay` in seconds before delivery.

        Raises `BackendUnavailable` within the stated time while the broker is down, `BackendError` if it refuses.
        """

    @abstractmethod
    async def publish_many(self, messages: Sequence[Message], *, delay: float = 0) -> None:
        """Send several; returns once all are confirmed. After an error any of them may have been sent."""

    @abstractmethod
    def consume(self, *, prefetch: int) -> AbstractAsyncContextManager[Consumer]:
        """Open a consumer that holds at most `prefetch` unfinished deliveries. Leaving the context stops it.

        Deliveries without an end go back then, to be delivered again.
        """

    @abstractmethod
    async def depth(self) -> int:
        """The number of messages ready for delivery, without the delayed and the dead."""

    @abstractmethod
    async def dead_letters(self, *, limit: int = 100) -> list[DeadLetter]:
        """Look at dead letters, oldest first, without removing them. One entry an id: the latest copy."""

    @abstractmethod
    async def requeue_dead(
        self,
        ids: Sequence[str] | None = None,
        *,
        lineage: str = "",
        before: Prepare | None = None,
        stays: Prepare | None = None,
    ) -> int:
        """Send dead letters (None: all that there are now) back to work with `attempts` 0 and this `lineage`; returns how many.

        `before` is awaited with the ids of each portion before that is sent; what it raises ends the call there. If the
        backend takes some no more, for their size, `stays` is awaited with their ids, and `LimitExceededError` raised
        once all others are sent.
        """

    @abstractmethod
    async def purge_dead(self, ids: Sequence[str] | None = None) -> int:
        """Delete dead letters (None: all); returns how many."""

    @abstractmethod
    async def purge(self) -> int:
        """Delete all messages that wait, delayed ones too, not the dead ones; returns how many."""

    async def may_have_lost(self) -> bool:
        """True if delayed messages whose time had come may be gone: the broker was restarted since `mark_complete`.

        Called every few seconds by workers of jobs with shared state, which send such jobs again. Raises `BackendUnavailable`.
        """
        return False

    async def mark_complete(self) -> None:
        """All that `may_have_lost` spoke of was sent again. Raises `BackendUnavailable`."""
        return  # this queue loses nothing

    def holds(self, message_id: str) -> bool:
        """False only if the queue lives in this process and surely has no message of this id, waiting or in hand."""
        return True


class MessageQueueFactory(ABC):
    """Makes the queue of each job type; what `mq` resolves to, and what `message_queue_factory=` takes."""

    max_retries: int
    retry_delay_seconds: float

    @property
    @abstractmethod
    def durable(self) -> bool:
        """True if messages outlive the process."""

    @abstractmethod
    def build(self, name: str, *, max_priority: int | None = None) -> MessageQueue:
        """The queue of the job type `name` (any text: encoded for the broker). Opens nothing."""
