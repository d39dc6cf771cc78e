"""A database as a base that is an object of its own, and what changed since: so that a push sends only the changes.

The log is itself a small SQLite database, of a version that programs which know no logs refuse.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import apsw

from specstar.backends.s3.meta_delta import Delta
from specstar.backends.sqlite.faults import translate
from specstar.backends.sqlite.forks import working
from specstar.backends.sqlite.opening import APPLICATION_ID
from specstar.errors import BackendError

__all__ = [
    "LOG_VERSION",
    "Base",
    "Commit",
    "Log",
    "Snapshot",
    "Stamp",
    "damaged",
    "decode",
    "encode",
    "is_log",
    "stamp_of",
]

LOG_VERSION = 1001
"""The `user_version` of a log, far above those of databases."""
# What a request costs beside its bytes, as bytes: a new base is one request more.
_REQUEST_BYTES = 256 << 10
_OVERHEAD = 12 << 10
_TABLES = """
CREATE TABLE specstar_base (
    name TEXT NOT NULL, sha256 TEXT NOT NULL, size INTEGER NOT NULL,
    cookie INTEGER NOT NULL, version INTEGER NOT NULL, previous TEXT, sent INTEGER NOT NULL
);
CREATE TABLE specstar_changes (number INTEGER PRIMARY KEY, rows INTEGER NOT NULL, changes BLOB NOT NULL);
"""


class Stamp(NamedTuple):
    """What changes with the tables of a database: SQLite's schema cookie, and the version of the schema."""

    cookie: int
    version: int


class Base(NamedTuple):
    """The object with the database from which a log goes on.

    By its name in the folder of the bases, which is another one once all is copied to another prefix.
    """

    name: str
    sha256: str
    size: int
    stamp: Stamp


class Log(NamedTuple):
    """A version of the database. `previous`: the name of the base before, kept for those who still read a log of it.

    `sent`: the bytes of all logs since the base.
    """

    base: Base
    previous: str | None
    sent: int
    deltas: tuple[Delta, ...]

    def longer(self, delta: Delta) -> Log | None:
        """The log with a change more; None once a new base costs less than what was sent since the last one."""
        deltas = (*self.deltas, delta)
        sent = self.sent + _OVERHEAD + sum(len(each.changes) for each in deltas)
        if sent > self.base.size + _REQUEST_BYTES:
            return None
        return self._replace(deltas=deltas, sent=sent)

    def since(self, older: Log) -> tuple[Delta, ...] | None:
        """What to add to a database of the log `older`; None if it is no beginning of this one."""
        count = len(older.deltas)
        if older.base != self.base or self.deltas[:count] != older.deltas:
            return None
        return self.deltas[count:]


class Commit(NamedTuple):
    """The mark that a push leaves in the database: its own id, and the how-manieth push it is."""

    id: str
    number: int


class Snapshot(NamedTuple):
    """What a push sends: the bytes of the object with their SHA-256, and first the base they stand on, if that is new.

    `commit`: which push this is. `size`: bytes of the whole database. Once the push has landed, nobody needs the base
    `obsolete`, and none from before but `needed`.
    """

    commit: Commit
    data: bytes
    sha256: str
    size: int
    base: tuple[Base, bytes] | None = None
    obsolete: str | None = None
    needed: frozenset[str] = frozenset()

    @classmethod
    def whole(cls, commit: Commit, data: bytes) -> Snapshot:
        """The database itself."""
        return cls(commit, data, hashlib.sha256(data).hexdigest(), len(data))

    @classmethod
    def of(cls, commit: Commit, log: Log, *, size: int) -> Snapshot:
        """A log whose base is there."""
        data = encode(log)
        return cls(commit, data, hashlib.sha256(data).hexdigest(), size)

    @classmethod
    def on_new_base(cls, commit: Commit, log: Log, data: bytes, *, older: Log | None) -> Snapshot:
        """A log that begins, with its base."""
        obsolete = older.previous if older is not None else None
        needed = frozenset(name for name in (log.base.name, log.previous) if name is not None)
        return cls.of(commit, log, size=log.base.size)._replace(base=(log.base, data), obsolete=obsolete, needed=needed)


def stamp_of(data: bytes) -> Stamp:
    """The stamp of a SQLite file: https://sqlite.org/fileformat.html#the_database_header."""
    return Stamp(_number(data, 40), _number(data, 60))


def is_log(data: bytes) -> bool:
    """True for a log that this code can read, False for a database."""
    return data.startswith(b"SQLite format 3\0") and (_number(data, 60), _number(data, 68)) == (
        LOG_VERSION,
        APPLICATION_ID,
    )


def _number(data: bytes, place: int) -> int:
    return int.from_bytes(data[place : place + 4], "big")


def encode(log: Log) -> bytes:
    """The log as the bytes of its object."""
    connection = apsw.Connection(":memory:")
    try:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={LOG_VERSION}; BEGIN; {_TABLES}")
        base = log.base
        values = (base.name, base.sha256, base.size, base.stamp.cookie, base.stamp.version, log.previous, log.sent)
        cursor.execute("INSERT INTO specstar_base VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        rows = [(number, delta.rows, delta.changes) for number, delta in enumerate(log.deltas, 1)]
        cursor.executemany("INSERT INTO specstar_changes VALUES (?, ?, ?)", rows)
        cursor.execute("COMMIT")
        return connection.serialize("main")
    finally:
        connection.close()


@working()
def decode(data: bytes, name: str, *, verified: bool) -> Log:
    """The log from the bytes of its object. Raises `BackendError` if they are damaged."""
    connection = apsw.Connection(":memory:")
    try:
        connection.deserialize("main", data)
        cursor = connection.cursor()
        if not verified:
            (found,) = cursor.execute("PRAGMA quick_check(1)").fetchall()
            if found[0] != "ok":
                raise damaged(name, str(found[0]))
        columns = "name, sha256, size, cookie, version, previous, sent"
        row: tuple[Any, ...]
        (row,) = cursor.execute(f"SELECT {columns} FROM specstar_base").fetchall()
        base_name, sha256, size, cookie, version, previous, sent = row
        rows: list[tuple[Any, ...]] = cursor.execute(
            "SELECT changes, rows FROM specstar_changes ORDER BY number"
        ).fetchall()
        deltas = tuple(Delta(*each) for each in rows)
        return Log(Base(base_name, sha256, size, Stamp(cookie, version)), previous, sent, deltas)
    except apsw.Error as error:
        raise translate(error, name) from error
    except (UnicodeDecodeError, ValueError) as error:
        raise damaged(name, str(error)) from error
    finally:
        connection.close()


def damaged(name: str, detail: str) -> BackendError:
    """The error for bytes that are not what was written."""
    return BackendError(f"{name}: the database is damaged ({detail}); restore the object from a backup")
