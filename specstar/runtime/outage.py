"""Telling of what fails again and again: at once, then ever more seldom, and when it is over."""

from __future__ import annotations

import time

__all__ = ["Outage"]

_FIRST_REST_SECONDS = 60.0
_LONGEST_REST_SECONDS = 3600.0


class Outage:
    """One thing that works, or does not."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._quiet_until = 0.0

    def fails(self) -> float | None:
        """It does not work: for how many seconds, if that is to be told now. First 0, then after 1, 2, 4... minutes."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
        elif now < self._quiet_until:
            return None
        lasted = now - self._since
        self._quiet_until = now + min(max(lasted, _FIRST_REST_SECONDS), _LONGEST_REST_SECONDS)
        return lasted

    def works(self) -> float | None:
        """It works: for how many seconds it did not, if so."""
        since, self._since = self._since, None
        return None if since is None else time.monotonic() - since
