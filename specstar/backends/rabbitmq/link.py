"""One live connection to the broker, with what belongs to it: the publishing channel and the declared queues."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import aiormq
from aiormq.exceptions import ChannelClosed, ConnectionClosed
from yarl import URL

from specstar.backends.rabbitmq.faults import (
    CertificateFilesError,
    certificate_files_error,
    connect_error,
    translated,
    why_lost,
)
from specstar.backends.rabbitmq.publisher import Publisher
from specstar.backends.rabbitmq.topology import Topology
from specstar.backends.rabbitmq.transport import KeptTransport
from specstar.backends.rabbitmq.url import place, unreadable_file

if TYPE_CHECKING:
    from aiormq.channel import Channel

    from specstar.backends.rabbitmq.intake import Intake
    from specstar.backends.rabbitmq.options import RabbitMQOptions

__all__ = ["Link"]

logger: logging.Logger = logging.getLogger("specstar")
# Frames of one channel that may lie unread; aiormq's own 10 stalls the reader of a busy consumer.
_FRAME_BUFFER = 1000
# Channels are not opened faster than this in place of those over which a quorum queue takes nothing.
_REPLACE_SECONDS = 0.25
# What a queue said over one channel holds for the next for so long.
_FULL_SECONDS = 60.0


class Link:
    """A connection from its login to its loss. It never comes back: the next one is a new link."""

    def __init__(self, options: RabbitMQOptions, transport: KeptTransport, connection: aiormq.Connection) -> None:
        self.options = options
        self.place: str = place(options.amqp_url)
        self.lost: bool = False
        self.topology: Topology = Topology(self, options.operation_timeout_seconds)
        self.publisher: Publisher | None = None
        self.intake: Intake | None = transport.intake
        self._transport = transport
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._publisher_lock = asyncio.Lock()
        self._discarded: set[asyncio.Task[None]] = set()
        self._replaced: set[Publisher] = set()
        self._next_replacement = 0.0
        self._full: dict[str, float] = {}
        self._closing = False
        self._observer = connection.closing
        self._observer.add_done_callback(self._on_lost)

    @classmethod
    async def connect(cls, options: RabbitMQOptions) -> Link:
        """Connect and log in, within `connect_timeout_seconds`. Raises `BackendUnavailable` or `BackendError`."""
        transport = KeptTransport(timeout=options.connect_timeout_seconds)
        url = URL(options.amqp_url)
        url = url.update_query(heartbeat=str(options.amqp_heartbeat_seconds), name=url.query.get("name", "specstar"))
        connection = aiormq.Connection(url, transport_factory=transport)
        try:
            async with asyncio.timeout(options.connect_timeout_seconds):
                await connection.connect()
        except CertificateFilesError as error:
            raise certificate_files_error(error, unreadable_file(options.amqp_url)) from error.__cause__
        except (TimeoutError, OSError, aiormq.AMQPError, RuntimeError) as error:
            transport.drop()
            secure = url.scheme == "amqps"
            foreign = transport.intake is not None and transport.intake.foreign
            raise connect_error(
                error, place(options.amqp_url), options.connect_timeout_seconds, tls=secure, foreign=foreign
            ) from error
        except BaseException:
            transport.drop()
            raise
        return cls(options, transport, connection)

    @property
    def live(self) -> bool:
        """True while it can be used."""
        return not self.lost and self._connection.is_opened

    @property
    def version(self) -> str:
        """The broker's version."""
        return str((self._connection.server_properties or {}).get("version", "unknown"))

    @property
    def product(self) -> str:
        """The broker's name."""
        return str((self._connection.server_properties or {}).get("product", "unknown"))

    def blocked(self) -> bool:
        """True while the broker refuses to read what this connection publishes (memory or disk alarm)."""
        ready = self._connection.ready()
        try:
            ready.send(None)
        except StopIteration:
            return False
        ready.close()
        return True

    async def open_channel(self, *, confirms: bool) -> Channel:
        """A new channel. Raises `BackendUnavailable` or `LinkLostError`."""
        with translated(f"opening a channel on {self.place}", self.blocked):
            async with asyncio.timeout(self.options.operation_timeout_seconds):
                channel: Any = await self._connection.channel(
                    publisher_confirms=confirms, frame_buffer_size=_FRAME_BUFFER
                )
        return channel  # type: ignore[no-any-return]

    def discard(self, channel: Channel) -> None:
        """Close a channel without waiting for it; unacknowledged messages on it go back to their queues."""
        if not channel.is_closed and not self.lost:
            self._closing_of(channel)

    async def close_channel(self, channel: Channel) -> None:
        """Close a channel in order, after all frames sent before; a broken link ends it too.

        It goes on if the caller is cancelled: the driver would say close twice, for which the broker ends the connection.
        """
        await asyncio.shield(self._closing_of(channel))

    def _closing_of(self, channel: Channel) -> asyncio.Task[None]:
        return self._tracked(self._close(channel))

    def _tracked(self, closing: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(closing)
        self._discarded.add(task)
        task.add_done_callback(self._discarded.discard)
        return task

    async def _close(self, channel: Channel) -> None:
        with contextlib.suppress(TimeoutError, OSError, RuntimeError, aiormq.AMQPError):
            async with asyncio.timeout(self.options.operation_timeout_seconds):
                await channel.close(ChannelClosed(200, "closed by this program"))

    async def open_publisher(self) -> Publisher:
        """The publishing channel, opened if there is none, or anew after a channel error."""
        publisher = self.publisher
        if publisher is not None and publisher.open:
            return publisher
        async with self._publisher_lock:
            publisher = self.publisher
            if publisher is None or not publisher.open:
                channel = await self.open_channel(confirms=True)
                publisher = Publisher(
                    channel, self._transport, window=self.options.max_unconfirmed, blocked=self.blocked
                )
                if publisher.fast_path_problem is not None:
                    logger.warning("publishing call by call: %s", publisher.fast_path_problem)
                self.publisher = publisher
            return publisher

    def note_refusal(self, queue: str, publisher: Publisher) -> None:
        """A queue did not take a message over this channel: it is full, if the channel had reached it before."""
        if publisher.reaches(queue):
            self._full[queue] = publisher.time()

    def is_full(self, queue: str) -> bool:
        """Whether the queue itself has refused a message lately, over this channel or one before: it has a leader."""
        return self._loop.time() - self._full.get(queue, -math.inf) < _FULL_SECONDS

    def replace_publisher(self, publisher: Publisher) -> None:
        """Have the next message open a channel; this one is closed once nobody waits for a confirm on it.

        For a channel over which a quorum queue did not take a message. RabbitMQ 3.10 (`rabbit_fifo_client`) keeps to a leader
        that is no more, if the first message finds none, and goes on to refuse once the policy that bounded the queue is gone:
        both for as long as the channel lives. Does nothing if it is replaced already, or if it has just replaced another.
        """
        now = publisher.time()
        if self.publisher is publisher and now >= self._next_replacement:
            self._next_replacement = now + _REPLACE_SECONDS
            self.publisher = None
            self._replaced.add(publisher)
            self._tracked(self._close_replaced(publisher))

    async def _close_replaced(self, publisher: Publisher) -> None:
        try:
            await publisher.drain()
            await self._close(publisher.channel)
        finally:
            self._replaced.discard(publisher)

    async def aclose(self) -> None:
        """Wait for what is in flight, then say goodbye. The caller bounds the time."""
        self._closing = True
        for publisher in [self.publisher, *self._replaced]:
            if self.live and publisher is not None:
                await publisher.drain()
        if self.live:
            # Frames that the driver has not written yet, such as acks, would be dropped by its close.
            await self._connection.write_queue.join()
        for task in list(self._discarded):
            task.cancel()
        await self._connection.close(ConnectionClosed(200, "closed by this program"))
        self._transport.drop()
        # The driver's own tasks end in the next turns.
        for _ in range(5):
            await asyncio.sleep(0)

    def drop(self) -> None:
        """Close the socket at once."""
        self._closing = True
        self.lost = True
        self._transport.drop()

    def _on_lost(self, observer: asyncio.Future[Any]) -> None:
        reason = None if observer.cancelled() else observer.exception()
        if self.lost:
            return
        self.lost = True
        if not self._closing:
            logger.warning("the connection to RabbitMQ at %s was lost: %s", self.place, why_lost(reason))
        self._transport.drop()
