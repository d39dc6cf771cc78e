"""The socket under the driver: ours, so that a dead peer is noticed, and a forked child can let go of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from asyncio import events
from typing import Any

from aiormq.connection import SSLContextProvider, TransportFactory
from aiormq.exceptions import AMQPConnectionError
from yarl import URL

from specstar.backends.rabbitmq.faults import CertificateFilesError
from specstar.backends.rabbitmq.intake import Intake
from specstar.backends.tls import tls_reason

__all__ = ["KeptTransport"]

_KEEPALIVE = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 4}
# Sent bytes that nobody acknowledges for this long (milliseconds) break the connection: a cut cable shows here.
_USER_TIMEOUT = 60_000
_READ_AHEAD = 1 << 20
# Bytes that the socket has not taken; what is published beyond waits where its caller can still give it up.
_WRITE_AHEAD = 1 << 20


class KeptTransport(TransportFactory):
    """Connects one socket within so many seconds, and can drop it at any time."""

    def __init__(self, *, timeout: float) -> None:
        self._timeout = timeout
        self._socket: socket.socket | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.intake: Intake | None = None
        self._pid = os.getpid()

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect, over TLS for amqps. On error or cancellation nothing stays open."""
        contexts: SSLContextProvider = kwargs["ssl_context_provider"]
        host, port = url.host or "", url.port or 0
        try:
            secure = await contexts.get_context() if url.scheme == "amqps" else None
        except OSError as error:
            raise CertificateFilesError(tls_reason(error)) from error
        try:
            sock = await _connect(host, port, self._timeout)
            try:
                loop = asyncio.get_running_loop()
                reader = Intake(limit=_READ_AHEAD, loop=loop)
                protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
                transport, _ = await loop.create_connection(
                    lambda: protocol, sock=sock, ssl=secure, server_hostname=host if secure else None
                )
                writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            except BaseException:
                sock.close()
                raise
        except TimeoutError:
            raise
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        self._socket, self._writer, self._loop = sock, writer, loop
        self.intake = reader
        return reader, writer

    def full(self) -> bool:
        """True while `write` should not be called: the socket takes no more, or is gone."""
        writer = self._writer
        if writer is None or writer.is_closing():
            return True
        return writer.transport.get_write_buffer_size() >= _WRITE_AHEAD

    def write(self, frames: bytes) -> None:
        """Send whole frames now, past the driver's queue, whose reader runs in a later turn of the loop.

        They come after those that the driver has written, and before those that wait in its queue.
        """
        if self._writer is not None:
            self._writer.write(frames)

    def drop(self) -> None:
        """Close the socket at once, without the protocol's goodbye; without the loop, if that is gone or not ours."""
        sock, self._socket = self._socket, None
        writer, self._writer = self._writer, None
        if sock is None or writer is None:
            return
        if events._get_running_loop() is self._loop and os.getpid() == self._pid:
            writer.transport.abort()
            return
        # The loop's own bookkeeping is shared with the parent after a fork: take the descriptor away from under it.
        with contextlib.suppress(OSError):
            descriptor = sock.detach()
            if descriptor >= 0:
                os.close(descriptor)


async def _connect(host: str, port: int, timeout: float) -> socket.socket:
    """To the first address of the host that answers; each has its share of the time, so that a dead one does not use it up."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    problem: OSError = OSError(f"no address for {host!r}")
    addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            problem = error
            continue
        try:
            sock.setblocking(False)
            _tune(sock)
            async with asyncio.timeout((deadline - loop.time()) / (len(addresses) - number)):
                await loop.sock_connect(sock, address)
        except OSError as error:  # a TimeoutError too
            sock.close()
            problem = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise problem


def _tune(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in {**_KEEPALIVE, "TCP_USER_TIMEOUT": _USER_TIMEOUT}.items():
        number = getattr(socket, name, None)
        if number is not None:
            sock.setsockopt(socket.IPPROTO_TCP, number, value)
