"""specstar in a store that already holds many resources."""

from __future__ import annotations

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
        await self.fill("read", self.rows)

    async def prepare_update(self) -> None:
        """Among all of them."""
        if not hasattr(self, "_current"):
            self._current = deque(enumerate(await self.fill("read", self.rows)))
