"""A message in the hands of one worker."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from specstar.backends.rabbitmq.envelope import NO_LIMIT, pack
from specstar.backends.rabbitmq.faults import unavailable
from specstar.backends.rabbitmq.letter_headers import reason_headers
from specstar.errors import LimitExceededError
from specstar.roles import Delivery, Message

if TYPE_CHECKING:
    from specstar.backends.rabbitmq.subscription import Subscription

__all__ = ["RabbitMQDelivery"]


class RabbitMQDelivery(Delivery):
    """AMQP does not confirm acks: an end returns once the ack is on its way, and a copy, if one is sent, is confirmed.

    If the connection breaks before the broker has read the ack, the message comes again. A second end does nothing.
    """

    __slots__ = ("_subscription", "ended", "given_back", "handed_out", "message", "redelivered", "tag")

    def __init__(self, subscription: Subscription, tag: int, message: Message, *, redelivered: bool) -> None:
        self._subscription = subscription
        self.tag: int = tag
        self.message: Message = message
        self.redelivered: bool = redelivered
        self.handed_out: bool = False
        self.ended: bool = False
        self.given_back: bool = False

    @property
    def subscription(self) -> Subscription:
        """The channel that this delivery came by."""
        return self._subscription

    @property
    def lost(self) -> bool:
        return self.given_back or self._subscription.lost

    async def ack(self) -> None:
        self._end()

    async def retry(self, message: Message, *, delay: float) -> None:
        self._check()
        if not self.ended:
            await self._send(self._subscription.consumer.queue.send_retry(message, delay))
            self._end()

    async def dead(self, message: Message, *, reason: str) -> None:
        self._check()
        if not self.ended:
            subscription = self._subscription
            packed, headers = pack(message, NO_LIMIT), reason_headers(reason)
            await self._send(subscription.consumer.parking.park(subscription.queue.name, packed, headers))
            self._end()

    async def _send(self, sending: Awaitable[object]) -> None:
        """Send the copy that replaces this message; if that fails it is delivered again, and does not stay in hand."""
        try:
            await sending
        except LimitExceededError:
            raise  # it would be refused again each time: the caller ends it otherwise
        except Exception:
            if not self.lost:
                self.given_back = True
                self._subscription.give_back(self)
            raise

    def _check(self) -> None:
        if self.given_back:
            raise unavailable("this delivery was given back: the message is delivered again")
        if self._subscription.lost:
            raise unavailable("the connection that this delivery came by is gone: the message is delivered again")

    def _end(self) -> None:
        self._check()
        if not self.ended:
            self.ended = True
            self._subscription.end(self)
