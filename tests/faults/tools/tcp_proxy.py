"""A TCP proxy in front of a server that misbehaves on demand: slow, silent, cut, shut, or deaf on one side."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from urllib.parse import urlsplit

__all__ = ["TcpProxy", "Way"]

_PIECE = 1 << 16


class Way:
    """One direction: what clients say (`requests`), or what the server says (`answers`).

    `flowing`: clear it to hold everything back, in order. `dropping`: swallow it; `dropped` is set once that happened.
    `delay`: seconds that each piece takes. `budget`: bytes that may still pass; after them the connection is reset.
    `poison`: bytes put behind the next piece of each connection until `heal`: what no protocol knows.
    `held`: how many pieces are held back at the moment.
    """

    def __init__(self) -> None:
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.dropping = False
        self.dropped = asyncio.Event()
        self.delay = 0.0
        self.budget: int | None = None
        self.poison = b""
        self.bytes = 0
        self.held = 0


class TcpProxy:
    """Forwards a port of its own to `host` and `port`: use it as a context manager, then `address` or `url_of`."""

    def __init__(self, host: str, port: int, *, narrow: bool = False) -> None:
        """`narrow`: the system keeps little of what clients have sent, so that they notice how slow it goes."""
        self.target = (host, port)
        self._narrow = narrow
        self.requests = Way()
        self.answers = Way()
        self.refuses = False
        self.connections = 0
        self._listener: asyncio.Server | None = None
        self._port = 0
        self._pairs: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @classmethod
    def before(cls, url: str, *, narrow: bool = False) -> TcpProxy:
        """A proxy for the server that a DSN or URL names."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        return cls(parts.hostname, parts.port, narrow=narrow)

    async def __aenter__(self) -> TcpProxy:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.heal()
        await self.shut()
        await self.cut()

    def url_of(self, url: str) -> str:
        """A DSN or URL of the server, by way of this proxy."""
        host, port = self.target
        changed = url.replace(f"{host}:{port}", f"127.0.0.1:{self._port}")
        assert changed != url, "the URL is not that of the server behind this proxy"
        return changed

    async def listen(self) -> None:
        """Open the port: always the same one."""
        if self._listener is None:
            listening = socket.socket()
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._narrow:  # taken over by each connection
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE)
            listening.bind(("127.0.0.1", self._port))
            self._listener = await asyncio.start_server(self._accept, sock=listening)
            self._port = self._listener.sockets[0].getsockname()[1]

    async def shut(self) -> None:
        """Close the port, so that connecting is refused; connections that are open stay."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    async def cut(self) -> None:
        """Break all connections at once, on both sides, without a goodbye; returns when none is left."""
        self.break_off()
        pairs = list(self._pairs)
        for pair in pairs:
            pair.cancel()
        if pairs:
            await asyncio.wait(pairs, timeout=5)

    def break_off(self) -> None:
        """The same without waiting."""
        for writer in list(self._writers):
            writer.transport.abort()

    def hold(self) -> None:
        """Stall: hold back both directions until `heal`. New connections are accepted and stall too."""
        self.requests.flowing.clear()
        self.answers.flowing.clear()

    def swallow(self) -> None:
        """A black hole: everything disappears in both directions."""
        self.requests.dropping = self.answers.dropping = True

    def heal(self) -> None:
        """Behave from now on. What was swallowed stays so: connections that lost bytes must be cut."""
        self.refuses = False
        for way in (self.requests, self.answers):
            way.dropping = False
            way.dropped.clear()
            way.delay = 0.0
            way.budget = None
            way.poison = b""
            way.flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            writer.transport.abort()
            return
        self.connections += 1
        pair = asyncio.current_task()
        assert pair is not None
        self._pairs.add(pair)
        self._writers.add(writer)
        back: asyncio.StreamWriter | None = None
        try:
            there, back = await asyncio.open_connection(*self.target)
            self._writers.add(back)
            pumps = [
                asyncio.create_task(self._pump(reader, back, self.requests)),
                asyncio.create_task(self._pump(there, writer, self.answers)),
            ]
            try:
                await asyncio.gather(*pumps)
            finally:
                for pump in pumps:
                    pump.cancel()
        except (OSError, asyncio.CancelledError):
            return
        finally:
            for end in (writer, back):
                if end is not None:
                    self._writers.discard(end)
                    end.transport.abort()
            self._pairs.discard(pair)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: Way) -> None:
        while data := await source.read(_PIECE):
            # Held by the event of now: a test may put another in its place for those who come later.
            way.held += 1
            try:
                await way.flowing.wait()
            finally:
                way.held -= 1
            if way.delay:
                await asyncio.sleep(way.delay)
            if way.dropping:
                way.dropped.set()
                continue
            if way.budget is not None:
                data = data[: way.budget]
                way.budget -= len(data)
            way.bytes += len(data)
            sink.write(data + way.poison)
            await sink.drain()
            if way.budget == 0:
                way.budget = None
                raise ConnectionResetError
        if way.dropping:
            return  # nor does a goodbye come through
        # One side has ended: let the other read what is on its way.
        with contextlib.suppress(OSError, RuntimeError):
            sink.write_eof()
