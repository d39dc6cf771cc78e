"""Locks by key, so that writers of one resource in this process take turns instead of losing races to each other."""

from __future__ import annotations

from collections import deque

from specstar.runtime import Home, Waiter

__all__ = ["KeyLock"]


class KeyLock:
    """Fair in-process mutexes, one for each key in use. Belongs to one home loop.

    Use: `await lock.acquire(key)`, then `lock.release(key)` in a `finally`.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        # A key in use maps to those who wait for it, None while nobody does.
        self._queues: dict[str, deque[Waiter[None]] | None] = {}
        # Handed the lock, and not running yet.
        self._given: set[Waiter[None]] = set()

    async def acquire(self, key: str) -> None:
        """Take the lock of `key`; waits for those who came first. Cancelled while waiting, it leaves the queue."""
        if key not in self._queues:
            self._queues[key] = None
            return
        queue = self._queues[key]
        if queue is None:
            queue = self._queues[key] = deque()
        waiter = self._home.waiter()
        queue.append(waiter)
        try:
            await waiter
        except BaseException:
            # If the lock was handed over in the same turn of the loop, pass it on; else leave the queue, which a release
            # may have done for us: a waiter that was cancelled is passed over.
            if waiter in self._given:
                self._given.remove(waiter)
                self.release(key)
            elif waiter in queue:
                queue.remove(waiter)
            raise
        self._given.remove(waiter)

    def release(self, key: str) -> None:
        """Give the lock to the next in the queue."""
        queue = self._queues[key]
        while queue:
            waiter = queue.popleft()
            if not waiter.done():
                self._given.add(waiter)
                waiter.set_result(None)
                return
        del self._queues[key]
