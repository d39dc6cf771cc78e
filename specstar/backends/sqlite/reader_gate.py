"""Readers that are held back for a moment: SQLite begins its log anew only while nobody reads from it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["ReaderGate"]

# How long readers stay outside at most after all have left: what is to be done meanwhile takes milliseconds.
_LONGEST_SECONDS = 2.0


class ReaderGate:
    """Counts the threads that read, and closes for a while. It opens by itself, so nobody can forget to."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside = 0
        self._closed_until = 0.0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Be inside; waits while the gate is closed."""
        with self._condition:
            while self._closed_until and (left := self._closed_until - time.monotonic()) > 0:
                self._condition.wait(left)
            self._inside += 1
        try:
            yield
        finally:
            with self._condition:
                self._inside -= 1
                if not self._inside:
                    self._condition.notify_all()

    def clear(self, patience: float) -> bool:
        """Close, and wait `patience` seconds for those inside to leave. True: nobody is inside, and `open` is to be called;
        False: someone stayed, and it is open again.
        """
        with self._condition:
            self._closed_until = time.monotonic() + patience + _LONGEST_SECONDS
            if self._condition.wait_for(lambda: not self._inside, patience):
                return True
            self._open()
            return False

    def open(self) -> None:
        """Let readers in again."""
        with self._condition:
            self._open()

    def _open(self) -> None:
        self._closed_until = 0.0
        self._condition.notify_all()
