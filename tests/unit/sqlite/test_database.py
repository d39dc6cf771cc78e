"""One SQLite database: whose it is, what a batch does with bad items, what its errors say."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import pytest

from specstar.backends.sqlite import opening
from specstar.backends.sqlite.database import Database, Operation
from specstar.backends.sqlite.opening import APPLICATION_ID, SCHEMA_VERSION, check_schema
from specstar.errors import (
    BackendError,
    BackendUnavailable,
    DecodeError,
    DuplicateResourceError,
    OutcomeUnknownError,
    SchemaVersionError,
)


class Insert:
    """Adds a number to a table; can be told to fail in several ways."""

    def __init__(self, number: int, error: Exception | None = None, *, late: bool = False) -> None:
        self.number = number
        self.error = error
        self.late = late

    def run(self, database: Database) -> str:
        if self.error is not None and not self.late:
            raise self.error
        database.execute("INSERT INTO numbers VALUES (?)", (self.number,))
        if self.error is not None:
            raise self.error
        return f"did {self.number}"


class Numbers:
    def run(self, database: Database) -> list[int]:
        return [row[0] for row in database.execute("SELECT number FROM numbers ORDER BY number")]


class Broken:
    def run(self, database: Database) -> Any:
        return database.execute("SELECT * FROM no_such_table")


def open_file(path: Path, **options: Any) -> Database:
    return Database.open_file(str(path), **{"busy_timeout": 5.0} | options)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.sqlite3"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    database = open_file(path)
    with database.transaction():
        database.execute("CREATE TABLE numbers (number INTEGER)")
    yield database
    database.close()


def pragma(database: Database, name: str) -> Any:
    return database.execute(f"PRAGMA {name}")[0][0]


def test_a_file_is_made_durable_and_marked_as_ours(database: Database) -> None:
    assert pragma(database, "journal_mode") == "wal"
    assert pragma(database, "synchronous") == 2
    assert pragma(database, "application_id") == APPLICATION_ID
    assert pragma(database, "user_version") == SCHEMA_VERSION
    assert pragma(database, "busy_timeout") == 5000
    assert database.execute("PRAGMA mmap_size") in ([(0,)], [])


def test_results_come_in_order(database: Database) -> None:
    assert database.write([Insert(1), Insert(2)]) == ["did 1", "did 2"]
    assert database.read([Numbers(), Numbers()]) == [[1, 2], [1, 2]]


def test_a_refusal_is_one_callers_own(database: Database) -> None:
    refusal = DuplicateResourceError("x")
    assert database.write([Insert(1), Insert(2, refusal), Insert(3)]) == ["did 1", refusal, "did 3"]
    assert database.read([Numbers()]) == [[1, 3]]


@pytest.mark.parametrize(
    "error", [ValueError("odd"), apsw.TooBigError("huge"), apsw.ConstraintError("no"), OverflowError()]
)
def test_an_unforeseen_error_is_one_callers_own(database: Database, error: Exception) -> None:
    results = database.write([Insert(1), Insert(2, error, late=True), Insert(3)])
    assert (results[0], results[2]) == ("did 1", "did 3")
    assert isinstance(results[1], BackendError | ValueError)
    assert results[1].__cause__ is error
    assert database.read([Numbers()]) == [[1, 3]]
    assert not database.connection.in_transaction


@pytest.mark.parametrize("error", [apsw.FullError("full"), apsw.IOError("io"), apsw.CorruptError("bad")])
def test_an_error_of_the_disk_undoes_the_batch(database: Database, error: Exception) -> None:
    with pytest.raises(BackendError, match=r"data\.sqlite3"):
        database.write([Insert(1), Insert(2, error, late=True), Insert(3)])
    assert not database.connection.in_transaction
    assert database.read([Numbers()]) == [[]]
    assert database.write([Insert(4)]) == ["did 4"]


@pytest.mark.parametrize("failures", [1, 2])
def test_a_commit_that_may_have_reached_the_log_is_written_over_or_unknown(
    database: Database, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    commits: list[str] = []
    real = database.execute

    def execute(sql: str, values: Sequence[Any] = ()) -> list[Any]:
        if sql == "COMMIT":
            commits.append(sql)
            if len(commits) <= failures:
                raise apsw.IOError("fsync failed")
        return real(sql, values)

    monkeypatch.setattr(database, "execute", execute)
    with pytest.raises(BackendError) as caught:
        database.write([Insert(1)])
    assert len(commits) == 2
    assert isinstance(caught.value, OutcomeUnknownError) is (failures == 2)
    assert isinstance(caught.value.__cause__, apsw.IOError)
    assert not database.connection.in_transaction
    assert database.write([Insert(2)]) == ["did 2"]
    assert database.read([Numbers()]) == [[2]]


def test_a_full_disk_says_what_to_do_and_passes(database: Database) -> None:
    pages = pragma(database, "page_count")
    database.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(BackendError, match="free some space"):
        database.write([Insert(number) for number in range(20_000)])
    database.execute("PRAGMA max_page_count=1000000")
    assert database.write([Insert(1)]) == ["did 1"]
    assert database.read([Numbers()]) == [[1]]


def test_a_wrong_read_is_one_callers_own(database: Database) -> None:
    results = database.read([Numbers(), Broken(), Numbers()])
    assert (results[0], results[2]) == ([], [])
    assert isinstance(results[1], BackendError)
    assert not database.connection.in_transaction


def test_another_writer_is_waited_for_within_the_timeout(database: Database, path: Path) -> None:
    other = open_file(path, busy_timeout=0.1)
    with database.transaction():
        database.execute("INSERT INTO numbers VALUES (1)")
        with pytest.raises(BackendUnavailable, match="locked"):
            other.write([Insert(2)])
        assert other.read([Numbers()]) == [[]]
    assert other.write([Insert(2)]) == ["did 2"]
    other.close()


def test_a_closed_database_says_so(path: Path) -> None:
    database = open_file(path)
    database.close()
    with pytest.raises(BackendUnavailable, match="closed"):
        database.read([Numbers()])
    database.interrupt()


def test_an_empty_file_becomes_ours(path: Path) -> None:
    path.touch()
    database = open_file(path)
    assert pragma(database, "application_id") == APPLICATION_ID
    database.close()


def foreign(path: Path, *statements: str) -> bytes:
    connection = apsw.Connection(str(path))
    for statement in statements:
        connection.execute(statement)
    connection.close()
    return path.read_bytes()


@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE TABLE theirs (x)",),
        ("PRAGMA application_id=12345",),
        ("PRAGMA user_version=7",),
        (f"PRAGMA application_id={APPLICATION_ID}", f"PRAGMA user_version={SCHEMA_VERSION + 1}"),
        (f"PRAGMA application_id={APPLICATION_ID}", "PRAGMA user_version=0", "CREATE TABLE t (x)"),
    ],
)
def test_a_foreign_or_newer_database_is_refused_and_left_alone(path: Path, statements: tuple[str, ...]) -> None:
    before = foreign(path, *statements)
    for read_only in (False, True):
        with pytest.raises(SchemaVersionError, match="left as it is"):
            open_file(path, read_only=read_only)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_two_that_make_a_database_at_once_take_each_other_for_specstar(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opening._run
    made: list[Database] = []

    def between(connection: apsw.Connection, sql: str) -> list[Any]:
        found = run(connection, sql)
        if sql == "PRAGMA application_id":
            monkeypatch.setattr(opening, "_run", run)
            with suppress(BackendUnavailable):  # it may have to wait for the one that looks
                made.append(open_file(path, busy_timeout=0.05))
        return found

    monkeypatch.setattr(opening, "_run", between)
    for database in (open_file(path), *made):
        assert check_schema(database.connection, database.name) == SCHEMA_VERSION
        database.close()


def test_a_database_of_version_1_becomes_one_of_version_2(path: Path) -> None:
    """As the first specstar left it: its records of revisions are read (`test_tables`), and it refuses the file from now on."""
    open_file(path).close()
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA user_version=1")
    connection.close()
    open_file(path, read_only=True).close()  # reads it as it is
    copied = Database.in_memory("original")
    copied.execute("PRAGMA user_version=1")
    for database in (open_file(path), Database.from_bytes(copied.serialize(), "copy")):
        assert database.execute("PRAGMA user_version") == [(SCHEMA_VERSION,)]
        database.close()
    copied.close()


def test_what_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_bytes(b"These are my notes, not a database.\n" * 100)
    before = path.read_bytes()
    with pytest.raises(SchemaVersionError, match="no SQLite database"):
        open_file(path)
    assert path.read_bytes() == before


def test_a_folder_in_its_place_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(BackendError, match="cannot be opened"):
        open_file(path)


def test_bytes_carry_a_database(path: Path) -> None:
    first = Database.in_memory("first")
    with first.transaction():
        first.execute("CREATE TABLE numbers (number INTEGER)")
    first.write([Insert(number) for number in range(1000)])
    data = first.serialize()
    assert data[18:20] == b"\x01\x01"  # not in WAL mode: the bytes stand alone
    second = Database.from_bytes(data, "second")
    assert second.read([Numbers()]) == [list(range(1000))]
    second.write([Insert(1000)])
    assert first.read([Numbers()]) == [list(range(1000))]
    assert Database.from_bytes(second.serialize(), "third").read([Numbers()]) == [list(range(1001))]
    path.write_bytes(second.serialize())
    on_disk = open_file(path)
    assert on_disk.read([Numbers()]) == [list(range(1001))]
    on_disk.close()


@pytest.mark.parametrize("data", [b"", b"x", b"no database at all" * 1000])
def test_bytes_that_are_no_database_are_refused(data: bytes) -> None:
    with pytest.raises(BackendError):
        Database.from_bytes(data, "object")


def test_foreign_bytes_are_refused(path: Path) -> None:
    with pytest.raises(SchemaVersionError):
        Database.from_bytes(foreign(path, "CREATE TABLE theirs (x)"), "object")


def test_damaged_bytes_give_a_typed_error() -> None:
    database = Database.in_memory()
    with database.transaction():
        database.execute("CREATE TABLE numbers (number INTEGER)")
    database.write([Insert(number) for number in range(50_000)])
    data = bytearray(database.serialize())
    data[40_000:] = os.urandom(len(data) - 40_000)
    damaged = Database.from_bytes(bytes(data), "object")
    (result,) = damaged.read([Numbers()])
    assert isinstance(result, BackendError)


def _create(path: str, number: int, barrier: Any) -> None:
    barrier.wait()
    database = Database.open_file(path, busy_timeout=20)
    with database.transaction():
        database.execute("CREATE TABLE IF NOT EXISTS numbers (number INTEGER)")
    assert database.write([Insert(number)]) == [f"did {number}"]
    database.close()


def test_processes_create_one_database_at_the_same_moment(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(4)
    processes = [context.Process(target=_create, args=(str(path), number, barrier)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    database = open_file(path)
    assert database.read([Numbers()]) == [[0, 1, 2, 3]]
    assert database.execute("PRAGMA integrity_check") == [("ok",)]
    database.close()


def test_an_interrupted_statement_is_unavailable(database: Database) -> None:
    class Endless:
        def run(self, database: Database) -> Any:
            threading.Timer(0.2, database.interrupt).start()
            return database.execute(
                "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
            )

    # It is being closed: what waits behind would keep whoever closes it.
    batches: list[list[Operation]] = [[Endless(), Endless(), Numbers()], [Numbers()]]
    for operations in batches:
        with pytest.raises(BackendUnavailable, match="closed"):
            database.read(operations)


def test_a_damaged_text_is_an_error_of_its_reader_alone() -> None:
    class Read:
        def __init__(self, key: int) -> None:
            self.key = key

        def run(self, database: Database) -> str:
            return str(database.execute("SELECT value FROM texts WHERE key = ?", (self.key,))[0][0])

    database = Database.in_memory()
    with database.transaction():
        database.execute("CREATE TABLE texts (key INTEGER, value TEXT)")
        database.execute("INSERT INTO texts VALUES (1, 'whole'), (2, CAST(x'ff61' AS TEXT))")
    whole, damaged = database.read([Read(1), Read(2)])
    assert whole == "whole"
    assert isinstance(damaged, DecodeError)
    assert "backup" in str(damaged)
