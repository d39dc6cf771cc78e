"""The private copy of the database: a group of writes makes a new copy, so that a refused push leaves the old one as it was."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from specstar.backends.sqlite.database import Database, Operation
from specstar.errors import BackendError, LimitExceededError

__all__ = ["Change", "Copy", "Prepared", "Setup", "Snapshot"]

_COMMITS_KEPT = 1000
_VACUUM_PAGES = 256
_PAGE_BYTES = 2048


class Change(NamedTuple):
    """An operation that changes one resource."""

    resource_id: str
    operation: Operation


class _NoteCommit:
    """Leave the id of a push in the database, so that its writer finds it there when the answer was lost."""

    __slots__ = ("commit_id",)

    def __init__(self, commit_id: str) -> None:
        self.commit_id = commit_id

    def run(self, database: Database) -> None:
        database.execute("CREATE TABLE IF NOT EXISTS specstar_commits (number INTEGER PRIMARY KEY, id TEXT NOT NULL)")
        database.execute("INSERT INTO specstar_commits (id) VALUES (?)", (self.commit_id,))
        database.execute(
            "DELETE FROM specstar_commits WHERE number <= (SELECT max(number) FROM specstar_commits) - ?",
            (_COMMITS_KEPT,),
        )


class _FindCommits:
    """True if one of the ids is there."""

    __slots__ = ("ids",)

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = ids

    def run(self, database: Database) -> bool:
        if not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'specstar_commits'"):
            return False
        marks = ", ".join("?" for _ in self.ids)
        return bool(database.execute(f"SELECT 1 FROM specstar_commits WHERE id IN ({marks}) LIMIT 1", self.ids))


class Snapshot(NamedTuple):
    """A database as bytes, with their SHA-256."""

    data: bytes
    sha256: str


class Prepared(NamedTuple):
    """A copy with changes in it: one result or error for each, and the bytes to push (None: nothing changed)."""

    copy: Copy
    results: list[Any]
    snapshot: Snapshot | None


class Setup:
    """What every copy must have: the tables of those who use it."""

    def __init__(self) -> None:
        self.operations: dict[Hashable, Operation] = {}

    def run(self, database: Database) -> None:
        for operation in list(self.operations.values()):
            operation.run(database)


class Copy:
    """A database in memory. Its methods block: call them in a thread."""

    def __init__(self, database: Database, setup: Operation) -> None:
        self._database = database
        self._setup = setup
        # One thread at a time, also for what is no transaction.
        self._lock = threading.Lock()
        self.users = 0
        self.retired = False

    @classmethod
    def empty(cls, name: str, setup: Operation) -> Copy:
        """A new database. `setup` makes the tables."""
        # Each push sends every page, and each index has one at least: small pages keep small databases small.
        return cls._ready(Database.in_memory(name, page_size=_PAGE_BYTES), setup)

    @classmethod
    def load(cls, data: bytes, name: str, setup: Operation, *, verified: bool) -> Copy:
        """A database from the bytes of an object. Raises `SchemaVersionError`, and `BackendError` if it is damaged."""
        database = Database.from_bytes(data, name)
        if not verified:
            (found,) = database.execute("PRAGMA quick_check(1)")
            if found[0] != "ok":
                database.close()
                raise BackendError(f"{name}: the database is damaged ({found[0]}); restore the object from a backup")
        return cls._ready(database, setup)

    @classmethod
    def _ready(cls, database: Database, setup: Operation) -> Copy:
        try:
            _raised(database.write([setup]))
        except BaseException:
            database.close()
            raise
        return cls(database, setup)

    def prepare(self, changes: Sequence[Change], commit_id: str, *, limit: int) -> Prepared:
        """A new copy with the changes in it, ready to be pushed. This one stays as it is.

        Raises `LimitExceededError` if the result has more than `limit` bytes.
        """
        copy = self.twin()
        database = copy._database
        try:
            results = database.write([change.operation for change in changes])
            if not any(changed(result) for result in results):
                return Prepared(copy, results, None)
            return Prepared(copy, results, copy.seal(commit_id, limit=limit))
        except BaseException:
            database.close()
            raise

    def settle(self) -> None:
        """Make the tables that are missing."""
        with self._lock:
            _raised(self._database.write([self._setup]))

    def apply(self, changes: Sequence[Change]) -> list[Any]:
        """Change this very copy; one result or error each."""
        with self._lock:
            return self._database.write([change.operation for change in changes])

    def twin(self) -> Copy:
        """A copy of this copy."""
        with self._lock:
            data = self._database.serialize()
        return Copy(Database.from_bytes(data, self._database.name), self._setup)

    def seal(self, commit_id: str, *, limit: int) -> Snapshot:
        """Note the commit, and give the bytes to push."""
        database = self._database
        _raised(database.write([_NoteCommit(commit_id)]))
        ((pages,),) = database.execute("PRAGMA page_count")
        ((free,),) = database.execute("PRAGMA freelist_count")
        if pages > _VACUUM_PAGES and free * 4 > pages:
            database.execute("VACUUM")
        data = database.serialize()
        if len(data) > limit:
            raise LimitExceededError(
                f"{database.name}: with this write the metadata would have {len(data)} bytes, max_meta_bytes is {limit}; "
                "raise it, spread the data over more models, or keep metadata in PostgreSQL",
                field="max_meta_bytes",
                limit=limit,
                actual=len(data),
            )
        return Snapshot(data, hashlib.sha256(data).hexdigest())

    def has_commit(self, ids: Sequence[str]) -> bool:
        """True if one of these pushes is in this version or in one before it."""
        (found,) = self.read([_FindCommits(ids)])
        if isinstance(found, Exception):
            raise found
        return bool(found)

    def read(self, operations: Sequence[Operation]) -> list[Any]:
        """Run operations that only read; one result or error each."""
        with self._lock:
            return self._database.read(operations)

    def close(self) -> None:
        """Close it; waits for a thread that is still inside."""
        with self._lock:
            self._database.close()


def changed(result: Any) -> bool:
    """False for an error, and for an erase that found nothing."""
    return not isinstance(result, Exception) and result != []


def _raised(results: Sequence[Any]) -> None:
    for result in results:
        if isinstance(result, Exception):
            raise result
