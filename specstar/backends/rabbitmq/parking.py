"""Messages that nobody can read: among the dead letters they harm no job. While those take none, they wait aside."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING

from specstar.errors import BackendError
from specstar.runtime import Outage

if TYPE_CHECKING:
    from specstar.backends.rabbitmq.queue import RabbitMQQueue

__all__ = ["Parking"]

logger: logging.Logger = logging.getLogger("specstar")
_FIRST_REST_SECONDS, _LONGEST_REST_SECONDS = 1.0, 60.0


class Parking:
    """Of one consumer. In hand, what cannot be parked would take the room of what can be done; given back, it comes first again.

    So it waits in a delay queue, as long as the dead letters are left alone after they took nothing.
    """

    def __init__(self, queue: RabbitMQQueue) -> None:
        self._queue = queue
        self._loop = asyncio.get_running_loop()
        self._outage = Outage()
        self._rest = 0.0
        self._rests_until = -math.inf
        self._probing = False

    async def park(self, source: str, body: bytes, reason: str) -> None:
        """Send these bytes to the dead letters, or back to the queue `source` later. Once it returns, they are confirmed.

        Raises `BackendError` if neither takes them, `LimitExceededError` if the broker takes none of this size.
        """
        # Once they took nothing, one message at a time finds out whether they do again: that may take seconds.
        if not self._rest or (self._loop.time() >= self._rests_until and not self._probing):
            self._probing = True
            try:
                await self._queue.send_dead_bytes(body, reason)
            except BackendError as error:
                self._failed(source, error, reason)
            else:
                self._rest = 0.0
                logger.warning("a message in queue %r went to the dead letters: %s", source, reason)
                if (lasted := self._outage.works()) is not None:
                    logger.warning("the dead letters of %r take messages again after %.0f s", self._queue.name, lasted)
                return
            finally:
                self._probing = False
        await self._queue.put_off_bytes(body, source, max(self._rest, _FIRST_REST_SECONDS))

    def _failed(self, source: str, error: BackendError, reason: str) -> None:
        now = self._loop.time()
        if now >= self._rests_until:  # the first of those that were tried together
            self._rest = min(_LONGEST_REST_SECONDS, max(_FIRST_REST_SECONDS, 2 * self._rest))
            self._rests_until = now + self._rest
        if (lasted := self._outage.fails()) is not None:
            logger.error(
                "messages in queue %r that nobody can read cannot go to the dead letters%s, and are tried again: %s; one of "
                "them: %s",
                source,
                f" for {lasted:.0f} s" if lasted else "",
                error,
                reason,
            )
