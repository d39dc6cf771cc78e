"""Where the current revision lies: found without its index, and found all the same where the column is wrong."""

from __future__ import annotations

import pytest

from specstar.backends.sqlite.database import Database, Operation
from specstar.backends.sqlite.reads import GetFull, SearchFull
from specstar.backends.sqlite.tables import ModelTables
from specstar.backends.sqlite.writes import EnsureModel, EraseRow, WriteRow, joined
from specstar.query import build_query
from specstar.roles import MetaWrite
from tests.conformance.samples import created, model, revised

TABLES = ModelTables(model())


@pytest.fixture
def database() -> Database:
    database = Database.in_memory()
    database.write([EnsureModel(TABLES)])
    return database


def write(database: Database, *changes: MetaWrite) -> None:
    operations = [WriteRow(TABLES, change, change.meta.current_revision_id.encode()) for change in changes]
    assert database.write(operations, join=joined) == [None] * len(changes)


def check(database: Database, changes: list[MetaWrite]) -> None:
    """Each resource is read with its current revision and payload, by id and by a search."""
    ids = [change.meta.resource_id for change in changes]
    expected = {change.meta.resource_id: change.meta.current_revision_id for change in changes}
    query = build_query(None, fields=TABLES.model.indexed_fields, limit=1000)
    together: list[Operation] = [GetFull(TABLES, ids), SearchFull(TABLES, query)]
    for reads in (together, [GetFull(TABLES, [one]) for one in ids]):
        for rows in database.read(reads):
            for row in rows:
                found = expected[row.meta.resource_id]
                assert (row.revision.revision_id, row.payload) == (found, found.encode())


def misses(database: Database) -> int:
    """How many meta rows name another row than that of their current revision."""
    ((number,),) = database.execute(
        f"SELECT count(*) FROM {TABLES.meta} AS m WHERE NOT EXISTS (SELECT 1 FROM {TABLES.revisions} AS v "
        "WHERE v.rowid = m.current_row AND (v.resource_id, v.revision_id) = (m.resource_id, m.current_revision_id))"
    )
    return int(number)


def test_new_rows_and_new_revisions_are_found_at_once(database: Database) -> None:
    rows = [created(f"r{number:02}") for number in range(50)]  # 32 and 8 of them together
    write(database, *rows)
    assert misses(database) == 0
    again = [revised(rows[0]), *rows[1:]]
    write(database, again[0])
    database.write([EraseRow(TABLES, "r49", None)])
    more = created("r50")
    write(database, more)
    assert misses(database) == 0
    check(database, [*again[:-1], more])


def test_a_wrong_place_is_noticed(database: Database) -> None:
    rows = [created(f"r{number:02}") for number in range(20)]
    write(database, *rows)
    for place in ("NULL", "99", "7", f"(SELECT max(rowid) - {TABLES.meta}.current_row FROM {TABLES.revisions})"):
        database.execute(f"UPDATE {TABLES.meta} SET current_row = {place}")
        assert misses(database) > 0
        check(database, rows)
    write(database, *(revised(row) for row in rows))
    assert misses(database) == 0


def test_a_table_of_an_early_version_gets_the_column(database: Database) -> None:
    rows = [created(f"r{number:02}") for number in range(20)]
    write(database, *rows)
    database.execute(f"ALTER TABLE {TABLES.meta} DROP COLUMN current_row")
    database.write([EnsureModel(TABLES)])
    assert misses(database) == 20
    check(database, rows)
    write(database, revised(rows[0]))
    assert misses(database) == 19


def test_the_index_is_left_alone_where_the_place_is_right(database: Database) -> None:
    plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {TABLES.select_current}", ("r",))]
    assert "SEARCH c USING INTEGER PRIMARY KEY (rowid=?)" in plan
    assert any(step.startswith("SEARCH v USING INTEGER PRIMARY KEY (rowid=?)") for step in plan)
