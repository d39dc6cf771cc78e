"""The way to the dead letters, of jobs that failed and of what nobody can read. While those take nothing, they wait aside."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Any

from specstar.backends.rabbitmq.letter_headers import REASON_HEADER
from specstar.errors import BackendError
from specstar.escaping import escaped
from specstar.runtime import Outage

if TYPE_CHECKING:
    from specstar.backends.rabbitmq.queue import RabbitMQQueue

__all__ = ["Parking"]

logger: logging.Logger = logging.getLogger("specstar")
_FIRST_REST_SECONDS, _LONGEST_REST_SECONDS = 1.0, 60.0
_LONGEST_TOLD = 200


class Parking:
    """Of one consumer. In hand, what cannot be parked would take the room of what can be done; given back, it comes first again.

    So it waits in a queue, as long as the dead letters are left alone after they took nothing; marked, so that whichever
    consumer gets it then sends it on, and takes it for no job.
    """

    def __init__(self, queue: RabbitMQQueue) -> None:
        self._queue = queue
        self._loop = asyncio.get_running_loop()
        self._outage = Outage()
        self._rest = 0.0
        self._rests_until = -math.inf
        self._probing = False

    async def park(self, source: str, body: bytes, letter: dict[str, Any]) -> None:
        """Send a dead letter, with its headers, from the queue `source` on its way. Once it returns, that is confirmed.

        Raises `BackendError` if it can go nowhere, `LimitExceededError` if the broker takes none of this size.
        """
        # Once they took nothing, one message at a time finds out whether they do again: that may take seconds.
        if not self._rest or (self._loop.time() >= self._rests_until and not self._probing):
            self._probing = True
            try:
                await self._queue.send_dead(body, letter)
            except BackendError as error:
                self._failed(source, error, letter)
            else:
                self._rest = 0.0
                if (lasted := self._outage.works()) is not None:
                    logger.warning("the dead letters of %r take messages again after %.0f s", self._queue.name, lasted)
                return
            finally:
                self._probing = False
        await self._queue.put_aside(body, letter, max(self._rest, _FIRST_REST_SECONDS))

    def _failed(self, source: str, error: BackendError, letter: dict[str, Any]) -> None:
        now = self._loop.time()
        if now >= self._rests_until:  # the first of those that were tried together
            self._rest = min(_LONGEST_REST_SECONDS, max(_FIRST_REST_SECONDS, 2 * self._rest))
            self._rests_until = now + self._rest
        if (lasted := self._outage.fails()) is not None:
            logger.error(
                "messages of queue %r cannot go to the dead letters%s, and are tried again: %s; one of them: %s",
                source,
                f" for {lasted:.0f} s" if lasted else "",
                error,
                escaped(letter[REASON_HEADER][:_LONGEST_TOLD]),
            )
