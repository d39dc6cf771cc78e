"""A link that comes back: at most one at a time, replaced after a loss when somebody asks for it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import time
from typing import TYPE_CHECKING

from specstar.backends.rabbitmq.faults import unavailable
from specstar.backends.rabbitmq.link import Link
from specstar.backends.rabbitmq.url import place
from specstar.errors import BackendError, BackendUnavailable
from specstar.runtime import Outage

if TYPE_CHECKING:
    from specstar.backends.rabbitmq.options import RabbitMQOptions

__all__ = ["KeptLink"]

logger: logging.Logger = logging.getLogger("specstar")
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0


class KeptLink:
    """Opens nothing by itself: `open` and `get` do. `reconnects` counts the links after the first."""

    def __init__(self, options: RabbitMQOptions) -> None:
        self.reconnects: int = 0
        self._options = options
        self._place = place(options.amqp_url)
        self.newest: Link | None = None
        self._attempt: asyncio.Task[Link] | None = None
        self._failures = 0
        self._outage = Outage()
        self._next_attempt = 0.0
        self._last_error: BackendError | None = None
        self._closed = False

    @property
    def current(self) -> Link | None:
        """The live link, if there is one right now."""
        link = self.newest
        return link if link is not None and link.live else None

    async def open(self) -> None:
        """Connect and log in, in one attempt."""
        self.newest = await Link.connect(self._options)

    async def get(self, timeout: float, *, once: bool = False) -> Link:
        """A live link, reconnecting with growing pauses, within `timeout` seconds.

        Raises `BackendUnavailable` when the time is over (with `once`, when an attempt has failed) or the connection is
        closed, `BackendError` if the broker refuses the login. Cancelling the caller does not end an attempt that others
        wait for.
        """
        if (link := self.current) is not None:
            return link
        deadline = time.monotonic() + timeout
        while True:
            if self._closed:
                raise unavailable(f"the connection to {self._place} is closed")
            if (link := self.current) is not None:
                return link
            attempt = self._attempt
            if attempt is None:
                attempt = self._attempt = asyncio.get_running_loop().create_task(
                    self._connect(), context=contextvars.Context(), name="specstar-rabbitmq-reconnect"
                )
                attempt.add_done_callback(self._attempt_ended)
            done, _ = await asyncio.wait({attempt}, timeout=max(0.0, deadline - time.monotonic()))
            if not done:
                last = f": {self._last_error}" if self._last_error is not None else ""
                raise unavailable(f"no connection to {self._place} within {timeout:g} s{last}") from self._last_error
            error = None if attempt.cancelled() else attempt.exception()
            if error is not None and (once or not isinstance(error, BackendUnavailable)):
                raise error

    def _attempt_ended(self, attempt: asyncio.Task[Link]) -> None:
        if self._attempt is attempt:
            self._attempt = None
        if not attempt.cancelled():
            attempt.exception()  # seen, also if everybody who waited was cancelled

    async def _connect(self) -> Link:
        """One attempt, not before the pause since the last failure is over; pauses grow with the failures."""
        pause = self._next_attempt - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        try:
            link = await Link.connect(self._options)
        except BackendError as error:
            self._failures += 1
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._failures, 10)) * random.uniform(0.5, 1.0)
            self._next_attempt = time.monotonic() + pause
            self._last_error = error
            if (lasted := self._outage.fails()) is not None:
                since = f" for {lasted:.0f} s" if lasted else ""
                logger.warning("connecting to RabbitMQ at %s fails%s, tried again: %s", self._place, since, error)
            raise
        if self._closed:
            link.drop()
            raise unavailable(f"the connection to {self._place} is closed")
        again = self.newest is not None
        self.newest = link
        self._failures = 0
        self._last_error = None
        if again:
            self.reconnects += 1
        lasted = self._outage.works()
        if again or lasted is not None:
            after = "" if lasted is None else f", after {lasted:.0f} s"
            logger.info("connected to RabbitMQ at %s again%s", self._place, after)
        return link

    async def aclose(self) -> None:
        """Close: what is in flight finishes first."""
        self._closed = True
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.cancel()
            await asyncio.wait({attempt})
        if self.newest is not None:
            await self.newest.aclose()

    def abandon(self) -> None:
        """Close the socket, nothing else."""
        self._closed = True
        if self.newest is not None:
            self.newest.drop()
