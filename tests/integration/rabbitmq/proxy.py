"""A TCP proxy in front of a broker that can cut its connections, refuse new ones, and swallow everything."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class Proxy:
    def __init__(self, url: str) -> None:
        self._split = urlsplit(url)
        self._server: asyncio.Server | None = None
        self._port = 0
        self._pairs: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.flowing = asyncio.Event()
        self.flowing.set()

    @property
    def url(self) -> str:
        return f"amqp://{self._split.username}:{self._split.password}@127.0.0.1:{self._port}/"

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Close the port; connections that are open stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def cut(self) -> None:
        """Break all connections at once, without a goodbye."""
        for pair in list(self._pairs):
            pair.cancel()
        await asyncio.gather(*self._pairs, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._pairs.add(task)
        try:
            there, back = await asyncio.open_connection(self._split.hostname, self._split.port)
            try:
                await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
            finally:
                back.transport.abort()
        except (OSError, asyncio.CancelledError):
            return
        finally:
            writer.transport.abort()
            self._pairs.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            await self.flowing.wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError


@asynccontextmanager
async def open_proxy(url: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(url)
    await proxy.listen()
    try:
        yield proxy
    finally:
        proxy.flowing.set()
        await proxy.refuse()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await proxy.cut()
