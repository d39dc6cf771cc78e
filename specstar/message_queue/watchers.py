"""Who in this process waits for which job."""

from __future__ import annotations

import anyio

__all__ = ["Watchers"]


class Watchers:
    """One event for each wait: set when its job may have finished."""

    def __init__(self) -> None:
        self._events: dict[str, list[anyio.Event]] = {}

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._events

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
