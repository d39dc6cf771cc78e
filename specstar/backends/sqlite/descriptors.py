"""Making a database file durable without SQLite: by one descriptor a file and process.

Closing any descriptor of a file takes away all locks that its process has on it
(https://sqlite.org/howtocorrupt.html, 2.2), so it is closed after the last connection of this process.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress

from specstar.backends.sqlite.forks import working

__all__ = ["enter", "leave", "sync"]


class _Shared:
    __slots__ = ("descriptor", "users")

    def __init__(self) -> None:
        self.users = 0
        self.descriptor: int | None = None


_lock = threading.Lock()
_files: dict[str, _Shared] = {}


def enter(path: str) -> str:
    """Connections to this file are about to be opened. Returns its name here; with that, one call of `leave` follows."""
    name = os.path.realpath(path)
    with working(), _lock:
        _files.setdefault(name, _Shared()).users += 1
    return name


def leave(name: str) -> None:
    """The connections of one `enter` are closed."""
    with working(), _lock:
        shared = _files[name]
        shared.users -= 1
        if not shared.users:
            del _files[name]
            if shared.descriptor is not None:
                os.close(shared.descriptor)


def sync(name: str) -> None:
    """fsync a file that connections are open to. An error is left to SQLite, whose own descriptors report it as well."""
    with suppress(OSError):
        with working(), _lock:
            shared = _files.get(name)
            if shared is None:
                return
            if shared.descriptor is None:
                shared.descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
            descriptor = shared.descriptor
        os.fsync(descriptor)
