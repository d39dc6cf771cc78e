"""Rows in one statement: what it writes is what the others write, and it gives way to them where it cannot."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import apsw
import pytest
from msgspec.structs import replace

from specstar.backends.sqlite.advance_row import AdvanceRow
from specstar.backends.sqlite.database import Database
from specstar.backends.sqlite.database_file import DatabaseFile
from specstar.backends.sqlite.reads import GetFull
from specstar.backends.sqlite.row_batch import RowBatch
from specstar.backends.sqlite.tables import ModelTables
from specstar.backends.sqlite.writes import EnsureModel, WriteRow, joined
from specstar.errors import (
    BackendError,
    DuplicateResourceError,
    ResourceDeletedError,
    ResourceNotFoundError,
    RevisionConflictError,
)
from specstar.query import IndexedField
from specstar.roles import Advance, MetaWrite, ModelSpec, ResourceMeta, RevisionInfo

NOW = datetime(2026, 1, 2, tzinfo=UTC)
FIELD = IndexedField(path="n", kinds=frozenset({"number", "string"}))
TABLES = ModelTables(ModelSpec(name="x", indexed_fields=(FIELD,)))


def meta_of(number: int) -> ResourceMeta:
    return ResourceMeta(
        resource_id=f"resource-{number}",
        current_revision_id=f"revision-{number}",
        created_time=NOW,
        updated_time=NOW,
        created_by="ann",
        updated_by="ann",
        indexed_data={"n": number},
    )


def new(number: int) -> WriteRow:
    meta = meta_of(number)
    return WriteRow(TABLES, MetaWrite(meta, revision_of(meta), None), b"payload %d" % number)


def revision_of(meta: ResourceMeta, **changes: Any) -> RevisionInfo:
    revision = RevisionInfo(
        resource_id=meta.resource_id,
        revision_id=meta.current_revision_id,
        payload_id=meta.current_revision_id,
        created_time=meta.updated_time,
        updated_time=meta.updated_time,
        created_by=meta.updated_by,
        updated_by=meta.updated_by,
    )
    return replace(revision, **changes)


def changed(number: int, name: str, *, version: int, count: int = 2, value: Any = None) -> WriteRow:
    """The row at `version`, given another revision; `value` is what is indexed, if not the name."""
    after = replace(
        meta_of(number),
        current_revision_id=name,
        version=version + 1,
        revision_count=count,
        updated_by="bob",
        updated_time=NOW + timedelta(seconds=version),
        indexed_data={"n": name if value is None else value},
    )
    return WriteRow(TABLES, MetaWrite(after, revision_of(after), version), name.encode())


def touched(number: int, *, version: int, deleted: bool = True) -> WriteRow:
    """The row of the first revision at `version`, changed alone."""
    after = replace(meta_of(number), version=version + 1, is_deleted=deleted)
    return WriteRow(TABLES, MetaWrite(after, None, version))


def advance(
    number: int, name: str, *, parent: str | None = None, time: datetime = NOW, value: Any = None
) -> AdvanceRow:
    revision = RevisionInfo(
        resource_id=f"resource-{number}",
        revision_id=name,
        parent_revision_id=parent or f"revision-{number}",
        payload_id=name,
        created_time=time,
        updated_time=time,
        created_by="eve",
        updated_by="eve",
        schema_version="2",
    )
    payload = name.encode()
    return AdvanceRow(TABLES, Advance(revision, {"n": name if value is None else value}, payload), payload)


@pytest.fixture
def database(tmp_path: Path) -> Any:
    database = Database.open_file(str(tmp_path / "x.sqlite3"), busy_timeout=5)
    database.write([EnsureModel(TABLES)])
    yield database
    database.close()


def write(database: Database, operations: list[Any]) -> list[Any]:
    rows = RowBatch.of(operations)
    assert rows is not None
    return database.write(operations, join=joined, at_once=rows)


def commits_of(database: Database) -> list[int]:
    commits: list[int] = []

    def count() -> bool:
        commits.append(1)
        return False

    database.connection.set_commit_hook(count)
    return commits


def rows(database: Database) -> list[Any]:
    return [
        *database.execute(f"SELECT {TABLES.columns} FROM {TABLES.meta} ORDER BY resource_id"),
        *database.execute(f"SELECT rowid, * FROM {TABLES.revisions} ORDER BY rowid"),
    ]


def wrong_places(database: Database) -> int:
    """How many rows say that their current revision lies where it does not."""
    ((number,),) = database.execute(
        f"SELECT count(*) FROM {TABLES.meta} AS m WHERE m.current_row IS NOT NULL AND NOT EXISTS (SELECT 1 FROM "
        f"{TABLES.revisions} AS v WHERE v.rowid = m.current_row AND v.revision_id = m.current_revision_id)"
    )
    return int(number)


@pytest.mark.parametrize("count", [1, 3, 4, 16, 37, 64, 256])
def test_they_are_what_the_other_statements_write(database: Database, tmp_path: Path, count: int) -> None:
    other = Database.open_file(str(tmp_path / "other.sqlite3"), busy_timeout=5)
    other.write([EnsureModel(TABLES)])
    for each in (database, other):
        write(each, [new(9999)])  # makes the view
    numbers = range(count)
    operations: list[Any]
    for operations in (
        [new(number) for number in numbers],
        [changed(number, f"next-{number}", version=1) for number in numbers],
        [
            advance(number, f"third-{number}", parent=f"next-{number}", time=NOW + timedelta(hours=1))
            for number in numbers
        ],
        [
            changed(number, f"fourth-{number}", version=3, count=4)
            if number % 3
            else advance(number, f"fourth-{number}", parent=f"third-{number}", time=NOW + timedelta(hours=2))
            for number in numbers
        ],
        [new(1000 + number) if number % 2 else touched(number, version=4) for number in numbers],
    ):
        commits = commits_of(database)
        assert write(database, operations) == [None] * count
        assert len(commits) == 1
        assert other.write(operations, join=joined) == [None] * count
        assert rows(database) == rows(other)
        assert wrong_places(database) == 0
    other.close()
    last = count - 1
    (found,) = database.read([GetFull(TABLES, (f"resource-{last}",))])
    assert (
        (found[0].payload, found[0].meta.revision_count) == (b"fourth-%d" % last, 4)
        if last % 2
        else found[0].meta.is_deleted
    )


def test_any_mixture_ends_as_it_would_one_by_one() -> None:
    kinds = random.Random(7)
    for _ in range(60):
        one, other = Database.in_memory(), Database.in_memory()
        for database in (one, other):
            database.write([EnsureModel(TABLES)])
        for step in range(12):
            operations: list[Any] = []
            for place in range(kinds.randrange(1, 12)):
                number, name = kinds.randrange(6), f"r{step}-{place}"
                version = kinds.randrange(1, 6)
                value = kinds.choice([None, number])
                parent = kinds.choice([f"revision-{number}", *(f"r{s}-{p}" for s in range(step) for p in range(4))])
                operations.append(
                    kinds.choice(
                        [
                            new(number),
                            changed(number, name, version=version, value=value),
                            touched(number, version=version, deleted=kinds.random() < 0.5),
                            advance(
                                number,
                                name,
                                parent=parent,
                                time=NOW + timedelta(seconds=kinds.randrange(5)),
                                value=value,
                            ),
                        ]
                    )
                )
            assert shown(write(one, operations)) == shown(other.write(operations))
            assert rows(one) == rows(other)
        # That every index has what the rows have, too.
        assert one.execute("PRAGMA integrity_check") == [("ok",)]


def test_an_index_whose_values_stay_is_left_alone(database: Database) -> None:
    write(database, [new(number) for number in range(200)])

    def in_indexes(operations: list[Any]) -> set[int]:
        """The pages of indexes for searches that these changes write."""
        before = database.log_pages()[0]
        assert write(database, operations) == [None] * len(operations)
        log = Path(f"{database.name}-wal").read_bytes()
        frames = range(before, database.log_pages()[0])
        written = {int.from_bytes(log[start : start + 4]) for start in (32 + frame * (24 + 4096) for frame in frames)}
        pages = database.execute("SELECT pageno FROM dbstat WHERE name GLOB 'ix_*'")
        assert written
        return written & {page for (page,) in pages}

    assert not in_indexes([advance(number, f"a{number}", value=number) for number in range(50)])
    assert not in_indexes([changed(number, f"b{number}", version=1, value=number) for number in range(50, 100)])
    assert in_indexes([advance(100, "c", value=-1)])
    assert in_indexes([changed(101, "d", version=1, value=-1)])
    assert in_indexes([touched(102, version=1)])
    assert database.execute("PRAGMA integrity_check") == [("ok",)]


def shown(results: list[Any]) -> list[Any]:
    return [(type(result), str(result)) if isinstance(result, Exception) else result for result in results]


def test_what_is_there_already_is_refused_alone(database: Database) -> None:
    write(database, [new(1)])
    results = write(database, [new(0), new(1), new(2)])
    assert [type(result) for result in results] == [type(None), DuplicateResourceError, type(None)]
    assert len(rows(database)) == 6


def test_a_change_whose_condition_does_not_hold_is_refused_alone(database: Database) -> None:
    write(database, [new(number) for number in range(5)])
    write(database, [touched(4, version=1)])
    results = write(
        database,
        [
            changed(0, "a", version=1),
            changed(1, "b", version=7),
            advance(2, "c"),
            advance(3, "d", parent="another"),
            advance(4, "e"),
            advance(9, "f"),
        ],
    )
    assert [type(result) for result in results] == [
        type(None),
        RevisionConflictError,
        type(None),
        RevisionConflictError,
        ResourceDeletedError,
        ResourceNotFoundError,
    ]
    assert (results[3].expected_revision_id, results[3].actual_revision_id) == ("another", "revision-3")
    currents = database.execute(f"SELECT current_revision_id FROM {TABLES.meta} ORDER BY resource_id")
    assert [current for (current,) in currents] == ["a", "revision-1", "c", "revision-3", "revision-4"]
    assert database.execute(f"SELECT count(*) FROM {TABLES.revisions}") == [(7,)]


def test_times_of_a_resource_never_go_back(database: Database) -> None:
    write(database, [new(0), new(1)])
    early, late = NOW - timedelta(hours=1), NOW + timedelta(hours=1)
    results = write(database, [advance(0, "a", time=early), advance(1, "b", time=late)])
    assert isinstance(results[0], RevisionInfo)
    assert (results[0].created_time, results[0].updated_time) == (NOW, NOW)
    assert results[1] is None
    found = database.read([GetFull(TABLES, ("resource-0", "resource-1"))])[0]
    assert [(row.meta.updated_time, row.revision.created_time) for row in found] == [(NOW, NOW), (late, late)]
    assert found[0].revision == results[0]


def test_other_writes_are_not_taken(database: Database) -> None:
    other = new(2)
    other.tables = ModelTables(ModelSpec(name="y"))
    meta = replace(meta_of(1), version=2)
    rewritten = WriteRow(TABLES, MetaWrite(meta, revision_of(meta, payload_id="other"), 1), b"again")
    for operations in ([rewritten], [new(0), rewritten], [new(0), other], [new(number) for number in range(257)]):
        assert RowBatch.of(operations) is None
    assert RowBatch.of([EnsureModel(TABLES)]) is None
    assert RowBatch.of([]) is None


def test_an_error_of_the_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """The connection is opened anew, and knows nothing of the view that the former one had."""
    file = DatabaseFile(str(tmp_path / "x.sqlite3"), readers=1, busy_timeout=5)
    file.open()
    file.write([EnsureModel(TABLES)])
    operations = [new(number) for number in range(5)]

    class Broken:
        def run(self, database: Database) -> None:
            first = RowBatch.of(operations[:1])
            assert first is not None
            first.run(database)
            database.execute("DELETE FROM " + TABLES.meta)
            database.execute("DELETE FROM " + TABLES.revisions)
            raise apsw.IOError("I/O error")

    with pytest.raises(BackendError, match="the disk reported an error"):
        file.write(operations, Broken())
    assert rows(file.writer) == []
    assert file.write(operations, RowBatch.of(operations)) == [None] * 5
    assert file.writer.execute(f"SELECT count(*) FROM {TABLES.revisions}") == [(5,)]
    file.close()
