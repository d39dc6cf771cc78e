"""The driver's HTTP session, with what its HTTP client leaves undone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from functools import partial
from typing import Any, ClassVar

from specstar.backends.s3.redirects import follow_none

__all__ = ["http_session_class"]

_QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)
_UNSENT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
# Bytes that the kernel takes beyond those that are on their way.
_UNSENT_BYTES = 256 << 10
# More than this comes in many packets, and every second one is acknowledged at once anyway.
_SHORT = 16 << 10


def http_session_class() -> Any:
    """A class of sessions whose requests do not leave an error behind that nobody sees, and whose answers come at once.

    A connection that breaks before the body is asked for (100-continue) is reported by the reader of the answer; aiohttp's
    task that writes would report it once more, to the event loop's log.

    A server that sends head and body of a short answer one by one, with Nagle's algorithm on (Ceph's gateway, unless told
    otherwise), waits with the body until the head is acknowledged, for which this side takes 40 ms, hoping to send the
    acknowledgement along with something else.

    The kernel would take megabytes of a body at once. On a slow line the server then says nothing, for as long as they are on
    their way, after the client has sent all: longer than the read timeout, where several bodies share the line.

    aiohttp sends a PUT once more, unasked, when a kept connection breaks under it. Were the second one not even connected,
    the first, which may have been carried out, would be forgotten: our own repetition knows of both.

    botocore leaves it to urllib3 to see that a certificate is one of the host that was asked for, and makes contexts that do
    not look; aiohttp leaves it to the context. Without the look any certificate that is trusted for some host would do, and
    behind a proxy the driver looks at no certificate at all.
    """
    import aiohttp
    from aiobotocore.httpsession import AIOHTTPSession
    from aiohttp.client_proto import ResponseHandler
    from botocore.httpsession import get_cert_path

    class Request(aiohttp.ClientRequest):
        async def write_bytes(self, *args: Any, **kwargs: Any) -> None:
            with contextlib.suppress(aiohttp.ClientConnectionResetError):
                await super().write_bytes(*args, **kwargs)

    class Handler(ResponseHandler):
        raw_socket: Any = None
        received = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.raw_socket = transport.get_extra_info("socket")
            if _UNSENT is not None and self.raw_socket is not None:
                with contextlib.suppress(OSError):
                    self.raw_socket.setsockopt(socket.IPPROTO_TCP, _UNSENT, _UNSENT_BYTES)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.received = len(data) + (0 if data.startswith(b"HTTP/") else self.received)
            # For these bytes only: the kernel goes back to waiting by itself.
            if self.received < _SHORT and self.transport is not None and self.raw_socket is not None:
                with contextlib.suppress(OSError):
                    self.raw_socket.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)

    class Session(AIOHTTPSession):  # type: ignore[misc, unused-ignore]
        contexts: ClassVar[dict[Any, Any]] = {}

        async def load_certificates(self) -> None:
            """Read the files of certificates, so that no session has to on the event loop. Raises `OSError`."""
            await self._create_connector(None).close()

        def _get_ssl_context(self) -> Any:
            parent: Any = super()
            context = parent._get_ssl_context()
            context.check_hostname = True
            return context

        def _create_connector(self, proxy_url: Any) -> Any:
            this: Any = self
            if proxy_url not in self.contexts:
                self.contexts[proxy_url] = self._context(proxy_url) if this._verify else False
            context = self.contexts[proxy_url]
            return aiohttp.TCPConnector(limit=this._max_pool_connections, ssl=context, **this._connector_args)

        def _context(self, proxy_url: Any) -> Any:
            this: Any = self
            context = this._setup_proxy_ssl_context(proxy_url) if proxy_url else None
            context = context or self._get_ssl_context()
            if this._cert_file:
                context.load_cert_chain(this._cert_file, this._key_file)
            context.load_verify_locations(get_cert_path(this._verify))
            return context

        async def _get_session(self, proxy_url: Any) -> Any:
            parent: Any = super()
            session = await parent._get_session(proxy_url)
            if session._request_class is not Request:
                session._request_class = Request
                session._retry_connection = False
                follow_none(session)
                if _QUICK_ACK is not None:
                    session.connector._factory = partial(Handler, loop=asyncio.get_running_loop())
            return session

    return Session
