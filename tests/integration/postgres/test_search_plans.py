"""Searches use the indexes of the declared fields: shown by the planner's own word, at 100,000 rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from specstar.query import QB, Condition, IndexedField, build_query, cursor_of
from specstar.roles import StoredRevision
from tests.integration.postgres.rig import Rig, admin, new, open_rig

# One worker of xdist fills the tables.
pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("postgres-plans")]

ROWS = 100_000
FIELDS = (
    IndexedField("age", frozenset({"number"})),
    IndexedField("name", frozenset({"string"})),
    IndexedField("tags", frozenset({"list"})),
)
# Payloads of a usual size: with tiny ones, reading all revisions in one sweep is nearly as cheap as looking up a page of them,
# and which of both the planner takes depends on the sample that ANALYZE took.
FILL = f"""
INSERT INTO "User_meta" SELECT 'r' || lpad(n::text, 6, '0'), 'v', 1, 1, now(), now(), '', '', n % 50 = 0, NULL,
  jsonb_build_object('age', n % 1000, 'name', 'name' || md5(n::text), 'tags', jsonb_build_array('t' || n % 500))
FROM generate_series(1, {ROWS}) n;
INSERT INTO "User_revision" SELECT resource_id, 'v', NULL, 'v', 'stable', 'json', 200, now(), now(), '', '', NULL,
  convert_to(rpad('{{"note": "', 198, 'x') || '"}}', 'UTF8')
FROM "User_meta";
"""


@pytest.fixture(scope="module")
async def filled(postgres: Any, anyio_backend: object) -> AsyncIterator[Rig]:
    from tests.services_plugin import fresh_database

    with fresh_database(postgres) as dsn:
        async with open_rig(dsn) as rig, admin(dsn) as connection:
            # As is usual with SSDs. With the default, what a sample says of a list can make reading all rows look cheaper.
            await connection.execute(
                "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET random_page_cost = 1.1', current_database()); END $$"
            )
            await rig.storage(fields=FIELDS).read("none")
            await connection.execute(FILL, timeout=200)
            await connection.execute("VACUUM ANALYZE", timeout=100)
            yield rig


CONDITIONS: dict[str, Condition] = {
    "equality": QB["age"] == 500,
    "equality of text": QB["name"] == "name1",
    "one of several": QB["age"].in_([1, 2, 3]),
    "range": QB["age"].between(10, 12),
    "range of text": (QB["name"] >= "namea0") & (QB["name"] < "namea1"),
    "prefix": QB["name"].starts_with("nameab"),
    "list": QB["tags"].contains("t7"),
    "both": (QB["age"] == 500) & QB["name"].starts_with("namea"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONDITIONS)
async def test_conditions_use_an_index(filled: Rig, name: str) -> None:
    storage = filled.storage(fields=FIELDS)
    query = build_query(CONDITIONS[name], fields=FIELDS)
    plan = await storage.explain(query)
    assert "ix_" in plan, plan
    assert "Seq Scan" not in plan, plan
    assert len(await storage.search(query)) == await storage.count(CONDITIONS[name])


@pytest.mark.slow
@pytest.mark.parametrize("sort", ["age", "-age", "name", "-name"])
async def test_a_sorted_page_walks_an_index(filled: Rig, sort: str) -> None:
    storage = filled.storage(fields=FIELDS)
    query = build_query(sort=sort, limit=20, fields=FIELDS)
    first = await storage.search(query)
    after = build_query(sort=sort, limit=20, after=cursor_of(query, first[-1].meta), fields=FIELDS)
    for page in (query, after):
        plan = await storage.explain(page)
        assert "ix_" in plan, plan
        assert "Seq Scan" not in plan, plan
    seen = [entry.meta.resource_id for entry in [*first, *await storage.search(after)]]
    assert len(set(seen)) == 40


@pytest.mark.slow
async def test_reads_by_id_and_prefix_of_id_use_the_primary_key(filled: Rig) -> None:
    storage = filled.storage(fields=FIELDS)
    assert isinstance(await storage.read("r000777"), StoredRevision)
    plan = await storage.explain(build_query(QB["resource_id"].starts_with("r0007"), limit=20, fields=FIELDS))
    assert "Seq Scan" not in plan, plan


@pytest.mark.slow
async def test_a_new_field_on_rows_that_are_there_gets_its_index_while_writers_go_on(filled: Rig) -> None:
    fields = (*FIELDS, IndexedField("city", frozenset({"string"})))
    async with open_rig(filled.options.dsn) as one, open_rig(filled.options.dsn) as two:
        stores: list[Any] = [rig.storage(fields=fields) for rig in (one, two)]
        done = asyncio.gather(*(_built(store) for store in stores))
        writes = 0
        while not done.done():
            await stores[writes % 2].write(new(f"while-{writes}", city="x"))
            writes += 1
            await asyncio.sleep(0.01)
        await done
        assert writes > 1
        query = build_query(QB["city"] == "x", fields=fields)
        plan = await stores[0].explain(query)
        assert "ix_" in plan, plan
        assert len(await stores[0].search(query)) == writes
        async with admin(filled.options.dsn) as look:
            assert await look.fetchval("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0


async def _built(storage: Any) -> None:
    await storage.read("r000001")
    await asyncio.wait_for(storage._tables.indexed.wait(), 60)


@pytest.mark.slow
async def test_an_index_that_was_left_half_built_is_built_again(filled: Rig) -> None:
    fields = (IndexedField("half", frozenset({"number"})),)
    async with open_rig(filled.options.dsn) as rig, admin(filled.options.dsn) as look:
        storage: Any = rig.storage(fields=fields)
        name = storage._tables._indexes[0].name
        await look.execute(storage._tables._indexes[0].sql)
        await look.execute(f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{name}'::regclass")
        await _built(storage)
        assert await look.fetchval(f"SELECT indisvalid FROM pg_index WHERE indexrelid = '{name}'::regclass")
