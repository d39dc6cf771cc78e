"""Callbacks that other threads leave for an event loop."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["Mailbox"]

logger: logging.Logger = logging.getLogger("specstar")


class Mailbox:
    """Runs callbacks on one loop, in order; those that arrive before it looks share one wake-up.

    `wake` is the loop's own way in (`call_soon_threadsafe`, `run_sync_soon`) and raises `RuntimeError` if the loop is gone.
    """

    __slots__ = ("_posted", "_scheduled", "_wake")

    def __init__(self, wake: Callable[[Callable[[], None]], Any]) -> None:
        self._wake = wake
        self._posted: deque[Callable[[], None]] = deque()
        self._scheduled = False

    def post(self, callback: Callable[[], None]) -> None:
        """Have `callback` run on the loop, from any thread. Raises `RuntimeError` if the loop is known to be gone."""
        self._posted.append(callback)
        if self._scheduled:
            return
        try:
            self._scheduled = True
            self._wake(self._open)
        except BaseException:  # also Ctrl-C in a blocking caller: waking the loop once too often does no harm
            self._scheduled = False
            raise

    def _open(self) -> None:
        # First the flag, then the letters: what is posted from here on wakes the loop again.
        self._scheduled = False
        posted = self._posted
        for _ in range(len(posted)):
            try:
                posted.popleft()()
            except Exception:
                logger.exception("a callback from another thread failed")
