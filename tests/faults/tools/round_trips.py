"""How many round trips a call takes one after the other, whatever the speed of network and machine."""

from __future__ import annotations

import asyncio
from types import TracebackType

from tests.faults.tools.tcp_proxy import TcpProxy

__all__ = ["RoundTrips"]

_LOOK_SECONDS = 0.02
_QUIET_LOOKS = 3


class RoundTrips:
    """Counts them while it is entered: answers are held back until no request has come for a moment, then let go together.

    A request that comes after that was made with what was answered, so it is one round trip later. `count` is their number.
    Of a machine that stands still for a while it may be too large by some, so tests compare with a bound that leaves room.
    """

    def __init__(self, *proxies: TcpProxy) -> None:
        self.count = 0
        self._proxies = proxies
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> RoundTrips:
        for proxy in self._proxies:
            proxy.answers.flowing.clear()
        self._task = asyncio.create_task(self._let_go())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        for proxy in self._proxies:
            proxy.answers.flowing.set()

    async def _let_go(self) -> None:
        sent, quiet = self._sent(), 0
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            before, sent = sent, self._sent()
            waits = any(proxy.answers.held for proxy in self._proxies)
            quiet = quiet + 1 if waits and sent == before else 0
            if quiet < _QUIET_LOOKS:
                continue
            quiet = 0
            self.count += 1
            for proxy in self._proxies:
                proxy.answers.flowing.set()
            while True:
                await asyncio.sleep(0)
                if not any(proxy.answers.held for proxy in self._proxies):
                    break
            for proxy in self._proxies:
                proxy.answers.flowing.clear()

    def _sent(self) -> int:
        """Bytes and connections: a new one is a request, too."""
        return sum(proxy.requests.bytes + proxy.connections for proxy in self._proxies)
