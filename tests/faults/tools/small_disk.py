"""A database of a private PostgreSQL server on a disk that is soon full: a small tmpfs, or a limit on the size of files."""

from __future__ import annotations

import contextlib
import errno
import resource
import secrets
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import services
from services.process import give_to

__all__ = ["SmallDisk", "small_disk"]

# Write-ahead log segments are this long; a lower limit would stop the server instead of a table.
_LOWEST_LIMIT = 17 << 20


class SmallDisk(ABC):
    """`dsn` names the database. Between `fill` and `free` its tables cannot grow."""

    dsn: str
    # What must lie in the tables before `fill` has an effect, in bytes.
    needs = 0

    @abstractmethod
    def fill(self) -> None:
        """Leave no room."""

    @abstractmethod
    def free(self) -> None:
        """Give the room back."""


class _Tmpfs(SmallDisk):
    def __init__(self, dsn: str, folder: Path) -> None:
        self.dsn = dsn
        self._filler = folder / "filler"

    def fill(self) -> None:
        with contextlib.suppress(OSError), self._filler.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)


class _FileLimit(SmallDisk):
    """Where nothing can be mounted: files of the server may not grow beyond the limit (EFBIG instead of ENOSPC)."""

    needs = _LOWEST_LIMIT

    def __init__(self, dsn: str, server: services.PostgresServer) -> None:
        self.dsn = dsn
        self._server = server

    def fill(self) -> None:
        self._limit(_LOWEST_LIMIT)

    def free(self) -> None:
        self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        for pid in self._server.process.pids:
            with contextlib.suppress(ProcessLookupError):
                _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


@contextmanager
def small_disk(server: services.PostgresServer, *, megabytes: int) -> Iterator[SmallDisk]:
    """A new database in a tablespace of that size, removed afterwards."""
    name = f"small_{secrets.token_hex(4)}"
    folder = server.directory / name
    folder.mkdir()
    mounted = _mount(folder, megabytes)
    place = folder / "tables"
    place.mkdir()
    give_to(place, server.owner)
    disk: SmallDisk | None = None
    try:
        server.sql(f"CREATE TABLESPACE {name} LOCATION '{place}'")
        server.sql(f"CREATE DATABASE {name} TABLESPACE {name}")
        dsn = server.endpoint.database(name)
        disk = _Tmpfs(dsn, folder) if mounted else _FileLimit(dsn, server)
        yield disk
    finally:
        if disk is not None:
            disk.free()
        server.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        server.sql(f"DROP TABLESPACE IF EXISTS {name}")
        if mounted:
            subprocess.run(["umount", folder], check=True)


def _mount(folder: Path, megabytes: int) -> bool:
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", folder],
            capture_output=True,
            check=False,
        )
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.EACCES}:
            return False
        raise
    return done.returncode == 0
