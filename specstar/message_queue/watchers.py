"""Who in this process waits for which job."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from specstar.message_queue.state import Snapshot

__all__ = ["Watchers"]

_FIRST_POLL_SECONDS = 0.02
_LAST_POLL_SECONDS = 1.0
# For the answer of the stores that the time limit of a wait is over with; without any it has no more.
_GRACE_SECONDS = 1.0


class Watchers:
    """One event for each wait: set when its job may have finished."""

    def __init__(self) -> None:
        self._events: dict[str, list[anyio.Event]] = {}

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._events

    async def until_finished(
        self, job_id: str, read: Callable[[str], Awaitable[Snapshot]], timeout: float | None
    ) -> Snapshot | None:
        """Read the state when a run here ends, and now and then: until it is finished, or `timeout` seconds are over.

        None if the stores have not answered by then.
        """
        if timeout is None:
            return await self._until_finished(job_id, read, None)
        with anyio.move_on_after(timeout + _GRACE_SECONDS):
            return await self._until_finished(job_id, read, timeout)
        return None

    async def _until_finished(
        self, job_id: str, read: Callable[[str], Awaitable[Snapshot]], timeout: float | None
    ) -> Snapshot:
        finished = self.add(job_id)
        deadline = None if timeout is None else anyio.current_time() + timeout
        pause = _FIRST_POLL_SECONDS
        try:
            while True:
                snapshot = await read(job_id)
                left = pause if deadline is None else min(pause, deadline - anyio.current_time())
                if snapshot.record.status.finished or left <= 0:
                    return snapshot
                with anyio.move_on_after(left):
                    await finished.wait()
                    finished = self.again(job_id, finished)
                pause = min(pause * 1.5, _LAST_POLL_SECONDS)
        finally:
            self.remove(job_id, finished)

    def add(self, job_id: str) -> anyio.Event:
        """Begin to wait; ends with `remove`."""
        event = anyio.Event()
        self._events.setdefault(job_id, []).append(event)
        return event

    def again(self, job_id: str, seen: anyio.Event) -> anyio.Event:
        """Another event for one that was set."""
        self.remove(job_id, seen)
        return self.add(job_id)

    def remove(self, job_id: str, event: anyio.Event) -> None:
        """End a wait."""
        watching = self._events.get(job_id)
        if watching is not None and event in watching:
            watching.remove(event)
            if not watching:
                del self._events[job_id]

    def notify(self, job_id: str) -> None:
        """Wake those who wait for this job."""
        if self._events:
            for event in self._events.get(job_id, ()):
                event.set()
