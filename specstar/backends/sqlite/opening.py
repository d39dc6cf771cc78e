"""What is checked and set when a SQLite database is opened: whose it is and of which version, before anything is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import apsw

from specstar.errors import BackendError, SchemaVersionError
from specstar.query import regex_function

__all__ = [
    "APPLICATION_ID",
    "PAGE_SIZE",
    "SCHEMA_VERSION",
    "check_engine",
    "check_schema",
    "create_schema",
    "prepare_copy",
    "prepare_file",
    "settle",
]

APPLICATION_ID = 0x53706353
"""Marks a SQLite file as ours ("SpcS")."""
SCHEMA_VERSION = 2
# Version 1 is read, and made a version 2: its records of revisions are longer, and stay as they are.
_OLDEST_VERSION = 1
PAGE_SIZE = 4096
# 128 MiB: where nobody sees to checkpoints, SQLite does, after a commit.
_MOST_WAL_PAGES = 32_768
_WAL_KEEP_BYTES = 64 << 20
# Older ones can corrupt a WAL database that several connections checkpoint: https://sqlite.org/wal.html#walresetbug
_SAFE_VERSION = (3, 51, 3)

R = TypeVar("R")


def check_engine() -> None:
    """Raise `BackendError` for a SQLite that is not safe with files in WAL mode."""
    version = apsw.sqlite_lib_version()
    if tuple(int(part) for part in version.split(".")) < _SAFE_VERSION:
        raise BackendError(f"SQLite {version} can damage databases in WAL mode; use apsw from PyPI, 3.51.3 or newer")


def settle(connection: apsw.Connection, *, cache_bytes: int | None = None, mmap_bytes: int = 0) -> None:
    """What holds for one connection, and is not in the database."""
    _run(connection, f"PRAGMA mmap_size={mmap_bytes}")
    _run(connection, "PRAGMA trusted_schema=0")
    _run(connection, "PRAGMA temp_store=MEMORY")
    if cache_bytes is not None:
        _run(connection, f"PRAGMA cache_size=-{cache_bytes // 1024}")
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    # Without it SQLite plans a join anew whenever a parameter changes, which costs more than running it.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    connection.create_scalar_function("specstar_regex", regex_function, 2, deterministic=True)


def check_schema(connection: apsw.Connection, name: str) -> int:
    """The schema version, 0 for an empty database. Raises `SchemaVersionError` for one that this code must not touch."""
    # One state for all reads: else another process may commit between two of them.
    with _transaction(connection, "BEGIN"):
        return _version(connection, name)


def create_schema(connection: apsw.Connection, name: str, *, page_size: int = PAGE_SIZE) -> None:
    """Make an empty database one of ours."""
    _run(connection, f"PRAGMA page_size={page_size}")
    with _transaction(connection, "BEGIN IMMEDIATE"):
        if _version(connection, name) == 0:  # else another process was faster
            _run(connection, "CREATE TABLE specstar_models (suffix TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID")
            _run(connection, f"PRAGMA application_id={APPLICATION_ID}")
            _run(connection, f"PRAGMA user_version={SCHEMA_VERSION}")
        _run(connection, "COMMIT")


def prepare_file(connection: apsw.Connection, name: str, busy_timeout: float) -> None:
    """Make a file ready to be written to, in WAL mode and durably."""
    version = check_schema(connection, name)
    if version == 0:
        create_schema(connection, name)
    # The switch to WAL does not wait for other processes by itself.
    _while_busy(lambda: _run(connection, "PRAGMA journal_mode=WAL"), busy_timeout)
    _run(connection, "PRAGMA synchronous=FULL")
    _run(connection, "PRAGMA fullfsync=1")  # macOS: through the drive's cache
    _run(connection, f"PRAGMA wal_autocheckpoint={_MOST_WAL_PAGES}")
    _run(connection, f"PRAGMA journal_size_limit={_WAL_KEEP_BYTES}")
    if 0 < version < SCHEMA_VERSION:
        # Before anything is written that an older specstar would not understand: it refuses the database from here on.
        _while_busy(lambda: _run(connection, f"PRAGMA user_version={SCHEMA_VERSION}"), busy_timeout)


def prepare_copy(connection: apsw.Connection, name: str) -> None:
    """Make a database that came as bytes ready; an empty one is refused."""
    version = check_schema(connection, name)
    if version == 0:
        raise SchemaVersionError(f"{name}: it is empty, not a specstar database; nothing was changed")
    if version != SCHEMA_VERSION:
        _run(connection, f"PRAGMA user_version={SCHEMA_VERSION}")


def _version(connection: apsw.Connection, name: str) -> int:
    ((application,),) = _run(connection, "PRAGMA application_id")
    ((version,),) = _run(connection, "PRAGMA user_version")
    if application == 0 and version == 0 and not _run(connection, "SELECT 1 FROM sqlite_schema LIMIT 1"):
        return 0
    if application != APPLICATION_ID:
        raise SchemaVersionError(
            f"{name}: this SQLite database belongs to another program, and was left as it is; choose another place"
        )
    if not _OLDEST_VERSION <= version <= SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{name}: the data has schema version {version}, this specstar reads up to {SCHEMA_VERSION}; "
            "it was left as it is; use the version of specstar that wrote it"
        )
    return int(version)


def _run(connection: apsw.Connection, sql: str) -> list[Any]:
    return connection.execute(sql).fetchall()


@contextmanager
def _transaction(connection: apsw.Connection, begin: str) -> Iterator[None]:
    """Rolled back, unless it was committed."""
    _run(connection, begin)
    try:
        yield
    finally:
        if connection.in_transaction:
            _run(connection, "ROLLBACK")


def _while_busy(call: Callable[[], R], timeout: float) -> R:
    deadline = time.monotonic() + timeout
    while True:
        try:
            return call()
        except (apsw.BusyError, apsw.LockedError):
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.01)
