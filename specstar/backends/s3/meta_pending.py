"""Local writes that are not in the bucket yet: what became of their pushes, and how they go on top of a foreign version."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from specstar.backends.s3.connection import S3Connection
from specstar.backends.s3.meta_database import Change, Copy, changed
from specstar.backends.s3.meta_log import Commit
from specstar.errors import RevisionConflictError

__all__ = ["PendingWrites"]

logger: logging.Logger = logging.getLogger("specstar")


class PendingWrites:
    """The writes of one database, in order (only without `auto_sync`). All methods belong to the home loop."""

    def __init__(self, connection: S3Connection, name: str, model: str) -> None:
        self._connection = connection
        self._name = name
        self._model = model
        self._changes: list[Change] = []
        self._dropped: list[str] = []
        # Pushes whose outcome is not known, and how many of the writes were in each.
        self._sent: list[tuple[Commit, int]] = []

    def __len__(self) -> int:
        return len(self._changes)

    def add(self, changes: Sequence[Change], results: Sequence[Any]) -> None:
        """Keep those that have changed the local copy, by their results."""
        self._changes += [change for change, result in zip(changes, results, strict=True) if changed(change, result)]

    def doubtful(self, commit: Commit) -> None:
        """All were pushed, and nobody knows whether that landed."""
        self._sent.append((commit, len(self._changes)))

    def landed(self) -> None:
        """All are in the bucket."""
        self._changes.clear()
        self._sent.clear()

    def discard(self) -> None:
        """Give them up, with what is still to be told of them."""
        self.landed()
        self._dropped.clear()

    def conflict(self) -> RevisionConflictError:
        """The error where a foreign version is in their way."""
        return RevisionConflictError(self._changes[0].resource_id, model=self._model)

    def raise_dropped(self) -> None:
        """Raise `RevisionConflictError` if some were dropped, once."""
        if self._dropped:
            first = self._dropped[0]
            self._dropped.clear()
            raise RevisionConflictError(first, model=self._model)

    async def replay(self, copy: Copy, *, allowed: bool) -> bool:
        """Put the writes on top of a foreign version; those that conflict with it are dropped, and told by `raise_dropped`.

        Those that are in it, by a push whose answer was lost, are not made twice. False if they must not be put on top of
        it: none of them is there, and it is not `allowed`.
        """
        # Each push had all that those before it had.
        landed = 0
        for commit, count in self._sent:
            if await self._connection.in_thread(copy.holds, commit):
                landed = count
        if not (landed or allowed):
            return False
        pending = self._changes[landed:]
        results = await self._connection.in_thread(copy.apply, pending) if pending else []
        dropped = [
            change.resource_id for change, result in zip(pending, results, strict=True) if not changed(change, result)
        ]
        if dropped:
            logger.error(
                "%s: %d local writes conflict with foreign ones and were dropped: %r",
                self._name,
                len(dropped),
                dropped[:10],
            )
        self._dropped += dropped
        self.landed()
        self.add(pending, results)
        return True
