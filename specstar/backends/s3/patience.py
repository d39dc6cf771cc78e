"""How long an operation may take: bytes that get through show that a slow network works."""

from __future__ import annotations

import asyncio

__all__ = ["Patience"]


class Patience:
    """The time limit of one operation, over its attempts. It begins anew with each piece of a large body that gets through.

    A limit for the whole would fail for good what shares a slow line with others, since each attempt begins at the start.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._time = asyncio.get_running_loop().time
        self._deadline = self._time() + seconds
        self._clock: asyncio.Timeout | None = None

    @property
    def left(self) -> float:
        """Seconds that are left of it."""
        return self._deadline - self._time()

    def clock(self) -> asyncio.Timeout:
        """The context manager that ends an attempt when the time is over."""
        self._clock = asyncio.timeout_at(self._deadline)
        return self._clock

    def progress(self) -> None:
        """A piece has got through, of the attempt that is under way."""
        self._deadline = self._time() + self.seconds
        if self._clock is not None and not self._clock.expired():
            self._clock.reschedule(self._deadline)

    def over(self) -> None:
        """The attempt has ended."""
        self._clock = None
