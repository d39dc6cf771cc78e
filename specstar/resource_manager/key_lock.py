"""Locks by key, so that writers of one resource in this process take turns instead of losing races to each other."""

from __future__ import annotations

from collections import deque

from specstar.errors import BackendUnavailable
from specstar.runtime import Home, Waiter

__all__ = ["KeyLock"]


class _Turn:
    __slots__ = ("since", "waiter")

    def __init__(self, waiter: Waiter[None], since: float) -> None:
        self.waiter = waiter
        self.since = since


class KeyLock:
    """Fair in-process mutexes, one for each key in use. Belongs to one home loop.

    Use: `await lock.acquire(key)`, then `lock.release(key)` in a `finally`. Who has waited over `max_wait` seconds by the time
    of a release is refused: with a server that does not answer, each of many would wait for all before it.
    """

    def __init__(self, home: Home, *, name: str, max_wait: float = 60.0) -> None:
        self._home = home
        self._name = name
        self._max_wait = max_wait
        # A key in use maps to those who wait for it, None while nobody does.
        self._queues: dict[str, deque[_Turn] | None] = {}
        # Handed the lock, and not running yet.
        self._given: set[Waiter[None]] = set()

    async def acquire(self, key: str) -> None:
        """Take the lock of `key`; waits for those who came first. Cancelled while waiting, it leaves the queue.

        Raises `BackendUnavailable` if it waited too long.
        """
        if key not in self._queues:
            self._queues[key] = None
            return
        queue = self._queues[key]
        if queue is None:
            queue = self._queues[key] = deque()
        waiter = self._home.waiter()
        turn = _Turn(waiter, self._home.time())
        queue.append(turn)
        try:
            await waiter
        except BaseException:
            # If the lock was handed over in the same turn of the loop, pass it on; else leave the queue, which a release
            # may have done for us: a waiter that was cancelled is passed over.
            if waiter in self._given:
                self._given.remove(waiter)
                self.release(key)
            elif turn in queue:
                queue.remove(turn)
            raise
        self._given.remove(waiter)

    def release(self, key: str) -> None:
        """Give the lock to the next in the queue."""
        queue = self._queues[key]
        oldest = self._home.time() - self._max_wait if queue else 0.0
        while queue:
            turn = queue.popleft()
            waiter = turn.waiter
            if waiter.done():
                continue
            if turn.since < oldest:
                message = (
                    f"{self._name}: not sent within {self._max_wait:g} s, as it waited for earlier changes of the same "
                    f"resource; {len(queue)} more calls wait; retry later"
                )
                waiter.set_exception(BackendUnavailable(message))
                continue
            self._given.add(waiter)
            waiter.set_result(None)
            return
        del self._queues[key]
