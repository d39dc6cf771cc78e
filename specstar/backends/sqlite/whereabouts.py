"""Whether an open database is still where its path says: SQLite goes on with a file that was removed or replaced."""

from __future__ import annotations

import os
import time

from specstar.errors import BackendError

__all__ = ["Whereabouts"]

_LOOK_SECONDS = 0.02


class Whereabouts:
    """A database and its write-ahead log, as they were when they were opened.

    Another process removes the log of an open database when it closes it and sees no locks of this one, which loses them
    when it opens and closes the file beside SQLite (https://sqlite.org/howtocorrupt.html, 2.2): by copying the folder.
    """

    def __init__(self) -> None:
        self._files: dict[str, tuple[int, int] | None] = {}
        self._looked = 0.0
        self._left = False

    def opened(self, path: str) -> None:
        """The files are those that are there now. `path` is free of links."""
        self._files = {name: _identity(name) for name in (path, f"{path}-wal")}
        self._left = False

    def closed(self) -> None:
        """Nothing is open any more: whoever comes late is told so by the connections."""
        self._files = {}
        self._left = False

    def look(self) -> bool:
        """True if they are still there, and always were."""
        self._looked = time.monotonic()
        for path, before in self._files.items():
            now = _identity(path)
            if before is None:
                self._files[path] = now  # in a folder that was read-only, the log comes later
            elif now != before:
                self._left = True
        return not self._left

    def check(self) -> None:
        """Raise `BackendError` if they are not there any more; a look now and then is enough."""
        if self._left or (time.monotonic() - self._looked >= _LOOK_SECONDS and not self.look()):
            database = next(iter(self._files))
            raise BackendError(
                f"{database}: it was removed, moved or replaced while it was open, or this program opened it past specstar (to "
                "copy it, say): it is used no more; see that the right files are in the folder, then close the spec, or restart "
                "the program"
            )


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  once for each batch: no object for it
    except OSError:
        return None
    return found.st_dev, found.st_ino
