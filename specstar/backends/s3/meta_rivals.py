"""Fairness between processes that push the same metadata: whoever has just won lets the others go first."""

from __future__ import annotations

import asyncio
import random

from specstar.runtime import Home

__all__ = ["Rivals"]

# So long after a defeat others are taken to be writing.
_RIVALRY_SECONDS = 5.0
_LONGEST_ROW = 32
_LONGEST_ROUND_SECONDS = 1.0


class Rivals:
    """What the last pushes of this process tell of other writers."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._until = 0.0
        # How long one push takes.
        self._round = 0.0
        self._won = False
        # Pushes that followed each other without a pause, and when the last one was done.
        self._row = 0
        self._pushed = 0.0

    def won(self, begun: float, *, usual: bool) -> None:
        """A push that had begun then is made. `usual`: it is no longer than the next ones."""
        self._pushed = self._home.time()
        if usual or not self._round:
            self._round = min(_LONGEST_ROUND_SECONDS, self._pushed - begun)
        self._won = True
        self._row += 1

    def lost(self) -> None:
        """Another process was faster."""
        self._won = False
        self._until = self._home.time() + _RIVALRY_SECONDS

    async def make_way(self) -> None:
        """Before a push: who just won would win again, being a read ahead of the losers, so leave room for one of them.

        Always after a long row of pushes: who never loses knows of no rivals. A loser does not wait.
        """
        now = self._home.time()
        if now - self._pushed > 2 * self._round:
            self._row = 0
        if self._won and now < self._until:
            await asyncio.sleep(random.uniform(1, 3) * self._round)
        elif self._row >= _LONGEST_ROW:
            self._row = 0
            await asyncio.sleep(3 * self._round)
