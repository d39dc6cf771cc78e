"""The private copy of the database: a group of writes is made on another copy, so that a refused push leaves it as it was."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from specstar.backends.s3.meta_delta import Delta, Recording, apply_deltas
from specstar.backends.s3.meta_log import Base, Commit, Log, Snapshot, Stamp, damaged, stamp_of
from specstar.backends.sqlite.database import Database, Operation
from specstar.backends.sqlite.forks import working
from specstar.backends.sqlite.writes import EraseRow, joined
from specstar.errors import LimitExceededError

__all__ = ["SMALL", "Change", "Copy", "Form", "Prepared", "Setup", "changed"]

_COMMITS_KEPT = 1000
_VACUUM_PAGES = 256
_PAGE_BYTES = 2048
# What a write adds at most: its rows, what the indexes repeat of them, and pages that are split. The last for each of them.
_GROWTH = 4
_SPARE_BYTES = 12 * _PAGE_BYTES
SMALL = 128 << 10
"""Up to here a database is pushed as it is: one object costs less than two."""


class Change(NamedTuple):
    """An operation that changes one resource."""

    resource_id: str
    operation: Operation


class _NoteCommit:
    """Leave the id of a push in the database, so that its writer finds it there when the answer was lost; its number."""

    __slots__ = ("commit_id",)

    def __init__(self, commit_id: str) -> None:
        self.commit_id = commit_id

    def run(self, database: Database) -> int:
        database.execute("CREATE TABLE IF NOT EXISTS specstar_commits (number INTEGER PRIMARY KEY, id TEXT NOT NULL)")
        ((number,),) = database.execute(
            "INSERT INTO specstar_commits (id) VALUES (?) RETURNING number", (self.commit_id,)
        )
        database.execute("DELETE FROM specstar_commits WHERE number <= ?", (number - _COMMITS_KEPT,))
        return int(number)


class _FindCommit:
    """True if a push is there, None if it would be forgotten by now."""

    __slots__ = ("commit",)

    def __init__(self, commit: Commit) -> None:
        self.commit = commit

    def run(self, database: Database) -> bool | None:
        if not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'specstar_commits'"):
            return False
        if database.execute("SELECT 1 FROM specstar_commits WHERE id = ?", (self.commit.id,)):
            return True
        ((oldest,),) = database.execute("SELECT min(number) FROM specstar_commits")
        return None if oldest is not None and oldest > self.commit.number else False


class Prepared(NamedTuple):
    """A copy with changes in it: one result or error for each, and what to push (None: nothing changed).

    `delta`: what a copy without the changes lacks; None if that is not known.
    """

    copy: Copy
    results: list[Any]
    snapshot: Snapshot | None
    delta: Delta | None = None


class Form(NamedTuple):
    """How a copy is pushed: as a log, if that is `logged` and it is not small, or whole; `limit` in bytes."""

    logged: bool
    limit: int


class Setup:
    """What every copy must have: the tables of those who use it."""

    def __init__(self) -> None:
        self.operations: dict[Hashable, Operation] = {}

    def run(self, database: Database) -> None:
        for operation in list(self.operations.values()):
            operation.run(database)


class Copy:
    """A database in memory. Its methods block: call them in a thread."""

    def __init__(self, database: Database, setup: Operation, log: Log | None) -> None:
        self._database = database
        self._setup = setup
        # What the content comes from, where that is a log; `_local`: with writes on top that are in no log.
        self._log = log
        self._local = False
        # Another copy that lacks nothing but the delta.
        self._spare: tuple[Copy, Delta] | None = None
        # One thread at a time, also for what is no transaction.
        self._lock = threading.Lock()
        self.users = 0
        self.retired = False

    @classmethod
    def empty(cls, name: str, setup: Operation) -> Copy:
        """A new database. `setup` makes the tables."""
        # Each index has a page at least: small pages keep small databases small.
        return cls._ready(Database.in_memory(name, page_size=_PAGE_BYTES), setup, None)

    @classmethod
    def load(cls, data: bytes, name: str, setup: Operation, *, verified: bool) -> Copy:
        """A database from the bytes of an object. Raises `SchemaVersionError`, and `BackendError` if it is damaged."""
        database = Database.from_bytes(data, name)
        if not verified:
            (found,) = database.execute("PRAGMA quick_check(1)")
            if found[0] != "ok":
                database.close()
                raise damaged(name, found[0])
        return cls._ready(database, setup, None)

    @classmethod
    @working()
    def load_log(cls, base: bytes, log: Log, name: str, setup: Operation) -> Copy:
        """A database from the bytes of a base and what changed since. Raises as `load` does."""
        if hashlib.sha256(base).hexdigest() != log.base.sha256:
            raise damaged(name, f"the {len(base)} bytes of its base {log.base.name} do not match their checksum")
        database = Database.from_bytes(base, name)
        try:
            apply_deltas(database, log.deltas)
        except BaseException:
            database.close()
            raise
        return cls._ready(database, setup, log)

    @classmethod
    def _ready(cls, database: Database, setup: Operation, log: Log | None) -> Copy:
        try:
            _raised(database.write([setup]))
        except BaseException:
            database.close()
            raise
        return cls(database, setup, log)

    @working()
    def follow(self, log: Log) -> Copy | None:
        """A copy of this copy with what is new in the log; None if it does not go on from here."""
        if self._log is None or self._local or (deltas := log.since(self._log)) is None:
            return None
        copy = self.twin()
        try:
            apply_deltas(copy._database, deltas)
        except BaseException:
            copy.close()
            raise
        copy._log = log
        return copy

    @working()
    def prepare(self, changes: Sequence[Change], commit_id: str, form: Form) -> Prepared:
        """A copy with the changes in it, ready to be pushed. This one stays as it is.

        Raises `LimitExceededError` if the result is too large.
        """
        copy = self._next()
        try:
            recording = copy._record() if form.logged else None
            try:
                results = copy._database.write([change.operation for change in changes], join=joined)
                if not any(map(changed, changes, results)):
                    return Prepared(copy, results, None)
                commit = copy._note(commit_id)
                delta = recording.end() if recording is not None else None
            finally:
                if recording is not None:
                    recording.close()
            snapshot = copy._longer_log(commit, delta, form) if delta is not None else None
            if snapshot is not None:
                return Prepared(copy, results, snapshot, delta)
            return Prepared(copy, results, copy._whole(commit, form))
        except BaseException:
            copy.close()
            raise

    def _next(self) -> Copy:
        """A copy of this copy: the spare one, brought up to date, or a new one."""
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is None:
            return self.twin()
        copy, delta = spare
        try:
            # A reader whose caller was cancelled may still be inside.
            with copy._lock:
                apply_deltas(copy._database, [delta])
        except BaseException:
            copy.close()
            raise
        copy._log = self._log
        return copy

    def keep(self, older: Copy, delta: Delta) -> None:
        """Keep the copy that this one was made from, which nobody uses any more: the next one is made of it."""
        self._spare = older, delta

    def _record(self) -> Recording | None:
        """Note what changes from here on; None where the log could not be continued with it."""
        if self._log is None or self._local or self._stamp() != self._log.base.stamp:
            return None
        return Recording(self._database)

    def _stamp(self) -> Stamp:
        ((cookie,),) = self._database.execute("PRAGMA schema_version")
        ((version,),) = self._database.execute("PRAGMA user_version")
        return Stamp(cookie, version)

    def settle(self) -> None:
        """Make the tables that are missing."""
        with self._lock:
            _raised(self._database.write([self._setup]))
            spare, self._spare = self._spare, None
        if spare is not None:
            spare[0].close()

    def apply(self, changes: Sequence[Change], *, limit: int | None = None) -> list[Any]:
        """Change this very copy; one result or error each. Those that may take it beyond `limit` bytes are refused."""
        with self._lock:
            admitted = changes if limit is None else self._within(changes, limit)
            results = []
            if admitted:
                self._local = True
                results = self._database.write([change.operation for change in admitted], join=joined)
            refused = len(changes) - len(admitted)
            return results + [self._too_large(self._size(), limit or 0) for _ in range(refused)]

    def _within(self, changes: Sequence[Change], limit: int) -> Sequence[Change]:
        """The first of the changes, as many as are sure to leave something that can be pushed."""
        room = limit - self._size() - _SPARE_BYTES
        for count, change in enumerate(changes):
            grows = getattr(change.operation, "size", 0)
            room -= _GROWTH * grows
            if grows and room < 0:
                return changes[:count]
        return changes

    def _too_large(self, size: int, limit: int) -> LimitExceededError:
        return LimitExceededError(
            f"{self._database.name}: with this write the metadata would have {size} bytes or more, max_meta_bytes is {limit}; "
            "raise it, spread the data over more models, or keep metadata in PostgreSQL",
            field="max_meta_bytes",
            limit=limit,
            actual=size,
        )

    def twin(self) -> Copy:
        """A copy of this copy."""
        with self._lock:
            data = self._database.serialize()
        twin = Copy(Database.from_bytes(data, self._database.name), self._setup, self._log)
        twin._local = self._local
        return twin

    @working()
    def seal(self, commit_id: str, form: Form) -> Snapshot:
        """Note the commit, and give what to push: the whole database."""
        return self._whole(self._note(commit_id), form)

    def _note(self, commit_id: str) -> Commit:
        (number,) = _raised(self._database.write([_NoteCommit(commit_id)]))
        return Commit(commit_id, number)

    def _longer_log(self, commit: Commit, delta: Delta, form: Form) -> Snapshot | None:
        """The log with the delta; None if it is time for a new base, or to see if the free pages make room."""
        size = self._size()
        log = self._log.longer(delta) if self._log is not None and size <= form.limit else None
        if log is None:
            return None
        self._log = log
        return Snapshot.of(commit, log, size=size)

    def _whole(self, commit: Commit, form: Form) -> Snapshot:
        database = self._database
        ((pages,),) = database.execute("PRAGMA page_count")
        ((free,),) = database.execute("PRAGMA freelist_count")
        if pages > _VACUUM_PAGES and free * 4 > pages:
            database.execute("VACUUM")
        if (size := self._size()) > form.limit:
            raise self._too_large(size, form.limit)
        data = database.serialize()
        older, self._log, self._local = self._log, None, False
        # Once there is a log it stays one: who reads an older version of it may still want its base.
        if not form.logged or (older is None and size <= SMALL):
            return Snapshot.whole(commit, data)
        base = Base(f"{commit.id}.sqlite", hashlib.sha256(data).hexdigest(), size, stamp_of(data))
        self._log = Log(base, older.base.name if older is not None else None, 0, ())
        return Snapshot.on_new_base(commit, self._log, data, older=older)

    def _size(self) -> int:
        ((pages,),) = self._database.execute("PRAGMA page_count")
        ((page_bytes,),) = self._database.execute("PRAGMA page_size")
        return int(pages * page_bytes)

    def holds(self, commit: Commit) -> bool | None:
        """True if this push is in this version or in one before it; None if so many came since that nobody can tell."""
        (found,) = _raised(self.read([_FindCommit(commit)]))
        answer: bool | None = found
        return answer

    def read(self, operations: Sequence[Operation]) -> list[Any]:
        """Run operations that only read; one result or error each."""
        with self._lock:
            return self._database.read(operations)

    def close(self) -> None:
        """Close it; waits for a thread that is still inside."""
        with self._lock:
            self._database.close()
            spare, self._spare = self._spare, None
        if spare is not None:
            spare[0].close()


def changed(change: Change, result: Any) -> bool:
    """False for an error, and for an erase that found nothing."""
    if isinstance(result, Exception):
        return False
    return result is not None or not isinstance(change.operation, EraseRow)


def _raised(results: list[Any]) -> list[Any]:
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results
