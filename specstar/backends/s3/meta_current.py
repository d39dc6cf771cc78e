"""The copy of the database that reads see, and the version of the object that it stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from specstar.backends.s3.connection import S3Connection
from specstar.backends.s3.meta_database import Copy
from specstar.backends.s3.meta_delta import Delta
from specstar.errors import BackendUnavailable

__all__ = ["CurrentCopy"]

T = TypeVar("T")


class CurrentCopy:
    """Gives way to other copies; one that has is closed once nobody uses it. All methods belong to the home loop.

    `etag` is that of the version, None where there is no object yet; `stale`: there may be a newer one; `diverged`: a newer
    one that is known, and that local writes are kept apart from.
    """

    def __init__(self, connection: S3Connection, name: str) -> None:
        self.copy: Copy | None = None
        self.etag: str | None = None
        self.stale: bool = False
        self.diverged: str | None = None
        self._connection = connection
        self._name = name

    def knows(self, etag: str | None) -> bool:
        """True if an object with this ETag, None for none at all, says nothing new."""
        return etag == self.etag or (etag is not None and etag == self.diverged)

    async def use(self, work: Callable[[Copy], T]) -> T:
        """Run `work` on the copy in a thread. Raises `BackendUnavailable` once it is closed, and what `work` raises."""
        copy = self.copy
        if copy is None:
            raise BackendUnavailable(f"{self._name}: closed")
        copy.users += 1
        try:
            return await self._connection.in_thread(work, copy)
        finally:
            copy.users -= 1
            if copy.retired:
                self.retire(copy)

    def begin(self, copy: Copy) -> None:
        """Take a copy where there is no object yet."""
        self.copy, self.stale = copy, False

    def swap(self, copy: Copy, etag: str, delta: Delta | None = None) -> None:
        """Let another copy take the place. `delta`: what the one before lacks, where it may go on as the spare one."""
        old, self.copy, self.etag, self.stale, self.diverged = self.copy, copy, etag, False, None
        if old is not None and delta is not None and not old.users:
            # Nobody is about to read it: what is changed in it next is not acknowledged yet.
            copy.keep(old, delta)
        elif old is not None:
            self.retire(old)

    def give_up(self) -> None:
        """Be without a copy, but for the version that the next one must be."""
        old, self.copy, self.diverged = self.copy, None, None
        if old is not None:
            self.retire(old)

    def retire(self, copy: Copy) -> None:
        """Close a copy once nobody uses it."""
        copy.retired = True
        if copy.users == 0:
            self._connection.start(self._connection.in_thread(copy.close))

    async def aclose(self) -> None:
        """Close the copy."""
        copy, self.copy = self.copy, None
        if copy is not None:
            await self._connection.in_thread(copy.close)
