"""Turns of requests: as many at once as the driver's pool has connections; the driver itself would have them wait for ever."""

from __future__ import annotations

import asyncio

from specstar.runtime import PoolUse

__all__ = ["Turns"]


class Turns:
    """`async with turns:` around a request. `waiting` is the number of those that have no turn yet."""

    def __init__(self, limit: int) -> None:
        self.waiting: int = 0
        self._limit = limit
        self._turns = asyncio.Semaphore(limit)
        self._in_use = 0
        self._taken = 0

    async def __aenter__(self) -> None:
        self.waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self.waiting -= 1
        self._in_use += 1
        self._taken += 1

    async def __aexit__(self, *_: object) -> None:
        self._in_use -= 1
        self._turns.release()

    def use(self) -> PoolUse:
        """The state in numbers; `taken` counts the requests."""
        return PoolUse(in_use=self._in_use, limit=self._limit, waiting=self.waiting, taken=self._taken)
