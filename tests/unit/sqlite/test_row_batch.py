"""New resources in one statement: what it writes is what the others write, and it gives way to them where it cannot."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import pytest

from specstar.backends.sqlite.database import Database
from specstar.backends.sqlite.lanes import DatabaseFile
from specstar.backends.sqlite.new_rows import NewRows
from specstar.backends.sqlite.reads import GetFull
from specstar.backends.sqlite.tables import ModelTables
from specstar.backends.sqlite.writes import EnsureModel, WriteRow, joined
from specstar.errors import BackendError, DuplicateResourceError
from specstar.roles import MetaWrite, ModelSpec, ResourceMeta, RevisionInfo

NOW = datetime(2026, 1, 2, tzinfo=UTC)
TABLES = ModelTables(ModelSpec(name="x"))


def new(number: int) -> WriteRow:
    resource_id, revision_id = f"resource-{number}", f"revision-{number}"
    meta = ResourceMeta(
        resource_id=resource_id,
        current_revision_id=revision_id,
        created_time=NOW,
        updated_time=NOW,
        indexed_data={"n": number},
    )
    revision = RevisionInfo(
        resource_id=resource_id, revision_id=revision_id, payload_id=revision_id, created_time=NOW, updated_time=NOW
    )
    return WriteRow(TABLES, MetaWrite(meta, revision, None), b"payload %d" % number)


@pytest.fixture
def database(tmp_path: Path) -> Any:
    database = Database.open_file(str(tmp_path / "x.sqlite3"), busy_timeout=5)
    database.write([EnsureModel(TABLES)])
    yield database
    database.close()


def write(database: Database, operations: list[WriteRow]) -> list[Any]:
    return database.write(operations, join=joined, at_once=NewRows.of(operations))


def rows(database: Database) -> list[Any]:
    return [
        *database.execute(f"SELECT * FROM {TABLES.meta} ORDER BY resource_id"),
        *database.execute(f"SELECT rowid, * FROM {TABLES.revisions} ORDER BY rowid"),
    ]


@pytest.mark.parametrize("count", [1, 3, 4, 16, 37, 64, 256])
def test_they_are_what_the_other_statements_write(database: Database, tmp_path: Path, count: int) -> None:
    operations = [new(number) for number in range(count)]
    before = database.connection.total_changes()
    assert write(database, operations) == [None] * count
    assert database.connection.total_changes() > before
    other = Database.open_file(str(tmp_path / "other.sqlite3"), busy_timeout=5)
    other.write([EnsureModel(TABLES)])
    assert other.write(operations, join=joined) == [None] * count
    assert rows(database) == rows(other)
    other.close()
    (found,) = database.read([GetFull(TABLES, (f"resource-{count - 1}",))])
    assert found[0].payload == b"payload %d" % (count - 1)


def test_a_batch_is_one_transaction(database: Database) -> None:
    write(database, [new(0)])
    commits: list[int] = []

    def count() -> bool:
        commits.append(1)
        return False

    database.connection.set_commit_hook(count)
    write(database, [new(number) for number in range(1, 60)])
    assert len(commits) == 1


def test_what_is_there_already_is_refused_alone(database: Database) -> None:
    write(database, [new(1)])
    results = write(database, [new(0), new(1), new(2)])
    assert [type(result) for result in results] == [type(None), DuplicateResourceError, type(None)]
    assert len(rows(database)) == 6


def test_other_writes_are_not_taken(database: Database) -> None:
    update = new(1)
    update.expected = 1
    other = new(2)
    other.tables = ModelTables(ModelSpec(name="y"))
    for operations in ([update], [new(0), update], [new(0), other], [new(number) for number in range(257)]):
        assert NewRows.of(operations) is None


def test_an_error_of_the_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """The connection is opened anew, and knows nothing of the view that the former one had."""
    file = DatabaseFile(str(tmp_path / "x.sqlite3"), readers=1, busy_timeout=5)
    file.open()
    file.write([EnsureModel(TABLES)])
    operations = [new(number) for number in range(5)]

    class Broken:
        def run(self, database: Database) -> None:
            NewRows(TABLES, operations[:1]).run(database)
            database.execute("DELETE FROM " + TABLES.meta)
            database.execute("DELETE FROM " + TABLES.revisions)
            raise apsw.IOError("I/O error")

    with pytest.raises(BackendError, match="the disk reported an error"):
        file.write(operations, Broken())
    assert rows(file.writer) == []
    assert file.write(operations, NewRows.of(operations)) == [None] * 5
    assert file.writer.execute(f"SELECT count(*) FROM {TABLES.revisions}") == [(5,)]
    file.close()
