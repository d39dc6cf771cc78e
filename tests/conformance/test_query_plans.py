"""PostgreSQL answers searches over 100,000 rows from the indexes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from services import PostgresEndpoint
from specstar.query import POSTGRES, Query, compile_query, index_definitions
from tests.services_plugin import fresh_database
from tests.unit.query.generated import columns, record
from tests.unit.query.planned import FIELDS, INDEXED, PLANNED, expected_ids, planned_rows

TIMEOUT_SECONDS = 60.0
# One worker of xdist fills the tables, and asks the plain evaluator.
pytestmark = pytest.mark.xdist_group("query-plans")


class People:
    """A connection to the filled table, with its own loop."""

    def __init__(self, dsn: str, runner: asyncio.Runner) -> None:
        self.runner = runner
        self.connection = runner.run(asyncpg.connect(dsn, command_timeout=TIMEOUT_SECONDS))

    async def fill(self) -> None:
        await self.connection.execute(f"CREATE TABLE people ({columns(POSTGRES)})")
        rows = [record(row, POSTGRES) for row in planned_rows()]
        await self.connection.copy_records_to_table("people", records=rows)
        for field in INDEXED:
            for index in index_definitions("people", field, POSTGRES):
                await self.connection.execute(index.sql)
        await self.connection.execute("ANALYZE people")

    def fetch(self, query: Query, *, explain: bool = False) -> list[Any]:
        compiled = compile_query(query, FIELDS, POSTGRES)
        sql = f"SELECT resource_id FROM people WHERE {compiled.where} ORDER BY {compiled.order_by} {compiled.page}"
        found = self.connection.fetch(f"EXPLAIN (FORMAT json) {sql}" if explain else sql, *compiled.params)
        return [row[0] for row in self.runner.run(found)]


@pytest.fixture(scope="module")
def people(postgres: PostgresEndpoint) -> Iterator[People]:
    with fresh_database(postgres) as dsn, asyncio.Runner() as runner:
        people = People(dsn, runner)
        try:
            runner.run(people.fill())
            yield people
        finally:
            runner.run(people.connection.close())


def steps(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from steps(inner)


@pytest.mark.parametrize("name", PLANNED)
def test_a_search_uses_the_index(people: People, name: str) -> None:
    query, field = PLANNED[name]

    (explained,) = people.fetch(query, explain=True)
    plan = list(steps(json.loads(explained)[0]["Plan"]))

    index = f"ix_people_{field.replace('.', '_')}_"
    assert any(step.get("Index Name", "").startswith(index) for step in plan), plan
    assert not any(step["Node Type"] == "Seq Scan" for step in plan), plan
    if query.sort:
        assert not any("Sort" in step["Node Type"] for step in plan), plan


@pytest.mark.parametrize("name", PLANNED)
def test_the_index_gives_the_right_rows(people: People, name: str) -> None:
    query, _ = PLANNED[name]

    found = people.fetch(query)

    assert found == expected_ids(name)
    assert found
