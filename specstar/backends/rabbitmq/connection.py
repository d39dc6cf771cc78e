"""The kept connection to a broker: it comes back by itself, for whoever needs it next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specstar.backends.rabbitmq.faults import translated
from specstar.backends.rabbitmq.kept_link import KeptLink
from specstar.backends.rabbitmq.link import Link
from specstar.backends.rabbitmq.url import place
from specstar.runtime import Connection, ServerInfo

if TYPE_CHECKING:
    from specstar.backends.rabbitmq.options import RabbitMQOptions

__all__ = ["RabbitMQConnection"]


class RabbitMQConnection(Connection):
    """One link that publishes and asks, and, once something consumes, one link for all consumers.

    Under a memory or disk alarm the broker stops to read from a connection that has published: acknowledgements on it
    would not get through either (https://www.rabbitmq.com/docs/connection-blocked). A lost link is replaced when publishers
    or consumers ask for it.
    """

    def __init__(self, options: RabbitMQOptions) -> None:
        self.options = options
        self._place = place(options.amqp_url)
        self._publishing = KeptLink(options)
        self._consuming = KeptLink(options)

    @property
    def current(self) -> Link | None:
        """The live publishing link, if there is one right now."""
        return self._publishing.current

    @property
    def newest(self) -> Link | None:
        """The last publishing link, live or not: what is sent on a dead one fails soon. Asking the driver costs more."""
        return self._publishing.newest

    @property
    def reconnects(self) -> int:
        """How often the publishing link was lost and replaced."""
        return self._publishing.reconnects

    async def open(self) -> None:
        """Connect and log in."""
        await self._publishing.open()

    async def ping(self) -> ServerInfo:
        """Open and close a channel; the version comes from the login. One failed attempt to connect says enough."""
        link = await self._publishing.get(self.options.connect_timeout_seconds, once=True)
        with translated(f"asking {self._place}"):
            channel = await link.open_channel(confirms=False)
            await link.close_channel(channel)
        blocked = ", publishing is blocked (memory or disk alarm)" if link.blocked() else ""
        return ServerInfo(version=link.version, detail=f"{link.product} at {self._place}{blocked}")

    async def link(self, timeout: float) -> Link:
        """A live link to publish on, within `timeout` seconds. Raises as `KeptLink.get` does."""
        return await self._publishing.get(timeout)

    async def consuming_link(self, timeout: float) -> Link:
        """A live link to consume on, within `timeout` seconds. Raises as `KeptLink.get` does."""
        return await self._consuming.get(timeout)

    async def aclose(self) -> None:
        """Close: what is in flight finishes first."""
        try:
            await self._publishing.aclose()
        finally:
            await self._consuming.aclose()

    def abandon(self) -> None:
        """Close the sockets, nothing else."""
        self._publishing.abandon()
        self._consuming.abandon()
