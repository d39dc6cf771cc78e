"""PostgreSQL, against the plain Python evaluator and so against SQLite, on random rows, queries and patterns."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services import PostgresEndpoint
from specstar.query import (
    META_FIELDS,
    POSTGRES,
    QB,
    EvaluatedRow,
    Query,
    build_query,
    compile_count,
    compile_query,
    project,
    regex,
    run_query,
)
from specstar.query.cursor import make_cursor
from tests.services_plugin import fresh_database
from tests.unit.query.ceilings import CEILINGS, largest, limited
from tests.unit.query.generated import FIELDS, LETTERS, cases, expected_ids, patterns, record, schema
from tests.unit.query.grid import grid_queries, grid_rows
from tests.unit.query.test_sql import largest_conditions

TIMEOUT_SECONDS = 30.0


class Session:
    """One connection with its own loop, for tests that hypothesis drives."""

    def __init__(self, runner: asyncio.Runner, dsn: str) -> None:
        self.runner = runner
        self.connection = runner.run(asyncpg.connect(dsn, command_timeout=TIMEOUT_SECONDS))

    def execute(self, sql: str) -> None:
        self.runner.run(self.connection.execute(sql))

    def fetch(self, sql: str, params: list[Any]) -> list[Any]:
        return list(self.runner.run(self.connection.fetch(sql, *params)))

    def fill(self, rows: list[EvaluatedRow]) -> None:
        marks = ", ".join(f"${number}" for number in range(1, len(META_FIELDS) + 2))
        self.execute("TRUNCATE resources")
        records = [record(row, POSTGRES) for row in rows]
        self.runner.run(self.connection.executemany(f"INSERT INTO resources VALUES ({marks})", records))

    def search(self, query: Query) -> list[str]:
        compiled = compile_query(query, FIELDS, POSTGRES, alias="r", first_param=2)
        sql = (
            f"SELECT r.resource_id FROM resources AS r WHERE $1::text = 'x' AND {compiled.where} "
            f"ORDER BY {compiled.order_by} {compiled.page}"
        )
        return [row["resource_id"] for row in self.fetch(sql, ["x", *compiled.params])]


@pytest.fixture(scope="module")
def session(postgres: PostgresEndpoint) -> Iterator[Session]:
    with fresh_database(postgres) as dsn, asyncio.Runner() as runner:
        session = Session(runner, dsn)
        try:
            # Tiny tables would never be read by their indexes otherwise.
            session.execute("SET enable_seqscan TO off")
            for statement in schema(POSTGRES):
                session.execute(statement)
            yield session
        finally:
            runner.run(session.connection.close())


LENIENT = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


def test_every_operator_agrees_on_every_kind_of_value(session: Session) -> None:
    rows = grid_rows()
    session.fill(rows)
    for query in grid_queries(rows):
        assert session.search(query) == expected_ids(query, rows), query


@settings(max_examples=60, deadline=None, suppress_health_check=LENIENT)
@given(case=cases())
def test_a_search_finds_what_the_evaluator_finds_in_its_order(
    session: Session, case: tuple[list[EvaluatedRow], list[Query]]
) -> None:
    rows, queries = case
    session.fill(rows)
    for query in queries:
        assert session.search(query) == expected_ids(query, rows)


@settings(max_examples=20, deadline=None, suppress_health_check=LENIENT)
@given(case=cases())
def test_a_count_is_the_number_of_rows_found(session: Session, case: tuple[list[EvaluatedRow], list[Query]]) -> None:
    rows, queries = case
    session.fill(rows)
    for query in queries:
        where, params = compile_count(query.condition, FIELDS, POSTGRES, include_deleted=query.include_deleted)
        ((count,),) = session.fetch(f"SELECT count(*) FROM resources WHERE {where}", params)
        scope = Query(condition=query.condition, include_deleted=query.include_deleted)
        assert count == len(run_query(scope, rows, FIELDS))


@settings(max_examples=20, deadline=None, suppress_health_check=LENIENT)
@given(case=cases())
def test_pages_by_cursor_together_are_the_whole(session: Session, case: tuple[list[EvaluatedRow], list[Query]]) -> None:
    rows, queries = case
    session.fill(rows)
    by_id = {row.meta["resource_id"]: row for row in rows}
    for query in queries:
        whole = Query(condition=query.condition, sort=query.sort, include_deleted=query.include_deleted)
        paged: list[str] = []
        after = None
        while page := session.search(
            Query(
                condition=whole.condition,
                sort=whole.sort,
                limit=2,
                after=after,
                include_deleted=whole.include_deleted,
            )
        ):
            paged += page
            last = by_id[page[-1]]
            after = make_cursor(query.sort, last.indexed, last.meta)
        assert paged == session.search(whole)


@settings(max_examples=80, deadline=None, suppress_health_check=LENIENT)
@given(
    tried=st.lists(st.tuples(patterns(depth=3), st.booleans()), min_size=1, max_size=20),
    texts=st.lists(st.text(st.sampled_from(LETTERS), max_size=6), max_size=10),
)
def test_a_pattern_matches_the_same_texts_in_both_engines(
    session: Session, tried: list[tuple[tuple[str, str], bool]], texts: list[str]
) -> None:
    for (pattern, _), ignore_case in tried:
        translated = regex.translate(pattern, ignore_case=ignore_case)
        found = session.fetch(
            'SELECT t COLLATE "C" ~ $1::text AS found FROM unnest($2::text[]) WITH ORDINALITY AS u (t, n) ORDER BY n',
            [translated, texts],
        )
        assert [row["found"] for row in found] == [regex.search(translated, text) for text in texts], translated


def test_trees_at_the_limits_run(session: Session) -> None:
    session.fill([])
    for condition in largest_conditions():
        for tried in (condition, ~condition):
            where, params = compile_count(tried, FIELDS, POSTGRES)
            assert session.fetch(f"SELECT count(*) FROM resources WHERE {where}", params)[0][0] == 0


@pytest.mark.slow
def test_the_largest_queries_that_can_be_allowed_run(session: Session) -> None:
    rows = grid_rows()[:20]
    session.fill(rows)
    with limited(CEILINGS):
        for name, condition in largest().items():
            where, params = compile_count(condition, FIELDS, POSTGRES)
            found = run_query(build_query(condition), rows, FIELDS)
            assert session.fetch(f"SELECT count(*) FROM resources WHERE {where}", params)[0][0] == len(found), name
        paths = [field.path for field in FIELDS if field.kinds != {"list"}]
        keys = [("-" if number % 2 else "") + path for number, path in enumerate([*paths, *META_FIELDS][:16])]
        most = QB["text"].in_([str(number) for number in range(CEILINGS.max_values)])
        for wanted in (None, most):
            query = build_query(wanted, sort=keys, fields=FIELDS)
            after = make_cursor(query.sort, rows[3].indexed, rows[3].meta)
            query = build_query(wanted, sort=keys, after=after, fields=FIELDS)
            assert session.search(query) == expected_ids(query, rows)


def test_the_longest_texts_fit_the_indexes(session: Session) -> None:
    rows = grid_rows()[:2]
    noise = random.Random(5)
    for number, row in enumerate(rows):
        text = "".join(chr(noise.randrange(0x10000, 0x10FFFF)) for _ in range(100_000))
        projection = project({"text": text, FIELDS[5].path: text, "items": [text]}, FIELDS)
        rows[number] = EvaluatedRow(projection, {**row.meta, "resource_id": text[:250], "is_deleted": False})
    session.fill(rows)
    for row in rows:
        query = build_query(QB["text"] == row.indexed["text"][:60_000], fields=FIELDS)
        assert session.search(query) == expected_ids(query, rows)
    query = build_query(QB["items"].contains(rows[0].indexed["text"][:5]), fields=FIELDS, sort=["-text"])
    assert session.search(query) == []
    assert len(session.search(build_query(fields=FIELDS, sort=["-text"]))) == 2
