"""SQLite answers searches over 100,000 rows from the indexes."""

from __future__ import annotations

from collections.abc import Iterator

import apsw
import pytest

from specstar.query import META_FIELDS, SQLITE, compile_query, index_definitions
from tests.unit.query.generated import columns, record
from tests.unit.query.planned import FIELDS, INDEXED, LIST, PLANNED, expected_ids, planned_rows

# One worker of xdist fills the table, and asks the plain evaluator. SQLite plans alike under any Python.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("query-plans")]
# SQLite has no index on the elements of lists.
QUERIES = [name for name in PLANNED if name != LIST]


@pytest.fixture(scope="module")
def database() -> Iterator[apsw.Connection]:
    connection = apsw.Connection(":memory:")
    connection.execute(f"CREATE TABLE people ({columns(SQLITE)})")
    with connection:
        marks = ", ".join("?" * (len(META_FIELDS) + 1))
        connection.executemany(f"INSERT INTO people VALUES ({marks})", (record(row, SQLITE) for row in planned_rows()))
        for field in INDEXED:
            for index in index_definitions("people", field, SQLITE):
                connection.execute(index.sql)
    yield connection
    connection.close()


@pytest.mark.parametrize("name", QUERIES)
def test_a_search_uses_the_index(database: apsw.Connection, name: str) -> None:
    query, field = PLANNED[name]
    compiled = compile_query(query, FIELDS, SQLITE)
    sql = f"SELECT resource_id FROM people WHERE {compiled.where} ORDER BY {compiled.order_by} {compiled.page}"

    plan = [str(row[3]) for row in database.execute(f"EXPLAIN QUERY PLAN {sql}", compiled.params)]

    index = f"INDEX ix_people_{field.replace('.', '_')}_"
    assert any(index in step for step in plan), plan
    if query.sort:
        assert len(plan) == 1, plan


@pytest.mark.parametrize("name", QUERIES)
def test_the_index_gives_the_right_rows(database: apsw.Connection, name: str) -> None:
    query, _ = PLANNED[name]
    compiled = compile_query(query, FIELDS, SQLITE)
    sql = f"SELECT resource_id FROM people WHERE {compiled.where} ORDER BY {compiled.order_by} {compiled.page}"

    found = [row[0] for row in database.execute(sql, compiled.params)]

    assert found == expected_ids(name)
    assert found
