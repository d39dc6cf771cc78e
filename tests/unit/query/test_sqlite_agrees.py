"""SQLite, against the plain Python evaluator, on random rows and queries."""

from __future__ import annotations

from collections.abc import Iterator

import apsw
import pytest
from hypothesis import HealthCheck, given, settings

from specstar.query import (
    META_FIELDS,
    SQLITE,
    EvaluatedRow,
    Query,
    compile_count,
    compile_query,
    regex_function,
    run_query,
)
from specstar.query.cursor import make_cursor
from tests.unit.query.generated import FIELDS, cases, expected_ids, record, schema
from tests.unit.query.grid import grid_queries, grid_rows


@pytest.fixture(scope="module")
def database() -> Iterator[apsw.Connection]:
    connection = apsw.Connection(":memory:")
    connection.create_scalar_function("specstar_regex", regex_function, 2, deterministic=True)
    for statement in schema(SQLITE):
        connection.execute(statement)
    yield connection
    connection.close()


def fill(database: apsw.Connection, rows: list[EvaluatedRow]) -> None:
    database.execute("DELETE FROM resources")
    marks = ", ".join("?" * (len(META_FIELDS) + 1))
    database.executemany(f"INSERT INTO resources VALUES ({marks})", [record(row, SQLITE) for row in rows])


def search(database: apsw.Connection, query: Query) -> list[str]:
    compiled = compile_query(query, FIELDS, SQLITE, alias="r")
    sql = f"SELECT resource_id FROM resources AS r WHERE {compiled.where} ORDER BY {compiled.order_by} {compiled.page}"
    return [str(resource_id) for (resource_id,) in database.execute(sql, compiled.params)]


def test_every_operator_agrees_on_every_kind_of_value(database: apsw.Connection) -> None:
    rows = grid_rows()
    fill(database, rows)
    for query in grid_queries(rows):
        assert search(database, query) == expected_ids(query, rows), query


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases())
def test_a_search_finds_what_the_evaluator_finds_in_its_order(
    database: apsw.Connection, case: tuple[list[EvaluatedRow], list[Query]]
) -> None:
    rows, queries = case
    fill(database, rows)
    for query in queries:
        assert search(database, query) == expected_ids(query, rows)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases())
def test_a_count_is_the_number_of_rows_found(
    database: apsw.Connection, case: tuple[list[EvaluatedRow], list[Query]]
) -> None:
    rows, queries = case
    fill(database, rows)
    for query in queries:
        where, params = compile_count(query.condition, FIELDS, SQLITE, include_deleted=query.include_deleted)
        ((count,),) = database.execute(f"SELECT count(*) FROM resources WHERE {where}", params)
        scope = Query(condition=query.condition, include_deleted=query.include_deleted)
        assert count == len(run_query(scope, rows, FIELDS))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases())
def test_pages_by_cursor_together_are_the_whole(
    database: apsw.Connection, case: tuple[list[EvaluatedRow], list[Query]]
) -> None:
    rows, queries = case
    fill(database, rows)
    by_id = {row.meta["resource_id"]: row for row in rows}
    for query in queries:
        whole = Query(condition=query.condition, sort=query.sort, include_deleted=query.include_deleted)
        paged: list[str] = []
        after = None
        while True:
            page = search(
                database,
                Query(
                    condition=whole.condition,
                    sort=whole.sort,
                    limit=2,
                    after=after,
                    include_deleted=whole.include_deleted,
                ),
            )
            if not page:
                break
            paged += page
            last = by_id[page[-1]]
            after = make_cursor(query.sort, last.indexed, last.meta)
        assert paged == search(database, whole)
