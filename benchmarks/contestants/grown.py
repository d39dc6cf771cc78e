"""specstar in a store that already holds many resources."""

from __future__ import annotations

import gc
import random
from collections import deque

from benchmarks.contestants.resources import Resources

__all__ = ["Grown"]


class Grown(Resources):
    """All operations work on one model, filled with `setting["size"]` resources."""

    def start(self) -> None:
        super().start()
        self.rows = self.setting["size"]
        self.written = self.changed = self.read

    async def open(self) -> None:
        # Those that are there at first: one order for the whole run, so that no later round reads what an earlier one has.
        await super().prepare_get()
        self._current = deque(enumerate(await self.fill("read", self.rows)))
        self._random = random.Random(11)
        # A million entries of these lists, which no store has, in each round of the garbage collector: not to be measured.
        gc.collect()
        gc.freeze()

    async def prepare_get(self) -> None:
        """Among all of them."""

    async def prepare_update(self) -> None:
        """One after the other, in the order in which they were made."""
        self._current = deque(sorted(self._current))

    async def prepare_update_anywhere(self) -> None:
        """Among all of them, in an order that no cache foresees."""
        self._current = deque(self._random.sample(self._current, len(self._current)))

    async def update_anywhere(self, caller: int) -> None:
        """The same call as `update`."""
        await self.update(caller)
