"""Young tables are analyzed while they grow, so that no plan for a few rows serves many."""

from __future__ import annotations

import asyncio
from typing import Any

from specstar.backends.postgres.statements import ADVANCE_COLUMNS
from specstar.roles import PayloadKey
from tests.integration.postgres.rig import Rig, admin, ids, new, open_rig

META, REVISION, PAYLOAD = '"User_meta"', '"User_revision"', '"User_payload"'
SECONDS = 20.0


async def fill(rig: Rig, prefix: str, rows: int) -> Any:
    storage: Any = rig.storage()
    assert not any(await storage.write_many([new(name) for name in ids(prefix, rows)]))
    return storage._tables.growth


async def looked(growth: Any) -> None:
    """Wait until the growth so far has been looked at."""
    async with asyncio.timeout(SECONDS):
        while growth._looks or growth._next <= growth._rows:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def known_rows(dsn: str, table: str) -> float:
    async with admin(dsn) as connection:
        return float(await connection.fetchval("SELECT reltuples FROM pg_class WHERE oid = to_regclass($1)", table))


async def analyses(dsn: str, table: str) -> int:
    async with admin(dsn) as connection:
        return int(await connection.fetchval("SELECT pg_stat_get_analyze_count(to_regclass($1))", table))


async def test_a_table_that_has_grown_is_analyzed(rig: Rig, postgres_database: str) -> None:
    growth = await fill(rig, "few", 200)
    await looked(growth)
    assert await known_rows(postgres_database, META) == -1
    growth.add(0, await rig.connection())
    assert not growth._looks
    await looked(await fill(rig, "more", 300))
    assert await known_rows(postgres_database, META) >= 300
    assert await known_rows(postgres_database, REVISION) >= 300


async def test_payloads_alone_are_analyzed_too(rig: Rig, postgres_database: str) -> None:
    store: Any = rig.resource()
    await store.put_many([(PayloadKey(name, "p"), b"x") for name in ids("r", 300)])
    await looked(store._tables.growth)
    assert await known_rows(postgres_database, PAYLOAD) >= 256


async def test_the_update_of_a_batch_does_not_read_the_whole_of_a_table_that_has_grown(
    rig: Rig, postgres_database: str
) -> None:
    storage: Any = rig.storage()
    connection = await rig.connection()
    writer = storage._writer
    sql = storage._tables.meta_sql.advance
    await storage.write(new("first"))
    arguments = ", ".join(["NULL"] * len(ADVANCE_COLUMNS))
    async with connection.session() as session:
        await session.execute(f"PREPARE changes AS {sql}")
        for _ in range(6):  # from the sixth on, one plan is kept for all
            await session.fetch(f"EXECUTE changes({arguments})")
        await asyncio.gather(*(storage.write(new(name)) for name in ids("r", 3000)))
        assert writer._batcher.counts.calls == 3001
        await looked(storage._tables.growth)
        plan = [row[0] for row in await session.fetch(f"EXPLAIN EXECUTE changes({arguments})")]
        await session.execute("DEALLOCATE changes")
    assert not any("Seq Scan" in line for line in plan), "\n".join(plan)


async def test_a_table_whose_size_is_known_is_not_analyzed_again(postgres_database: str) -> None:
    async with open_rig(postgres_database) as rig:
        await looked(await fill(rig, "a", 2000))
        before = await analyses(postgres_database, META)
    async with open_rig(postgres_database) as rig:
        await looked(await fill(rig, "b", 300))
    assert await analyses(postgres_database, META) == before


async def test_writers_do_not_wait_for_a_table_that_cannot_be_analyzed_now(rig: Rig, postgres_database: str) -> None:
    await fill(rig, "a", 1)
    async with admin(postgres_database) as other, other.transaction():
        await other.execute(f"LOCK TABLE {META} IN SHARE UPDATE EXCLUSIVE MODE")  # as VACUUM takes
        await looked(await fill(rig, "b", 300))
        assert await known_rows(postgres_database, META) == -1
        assert await known_rows(postgres_database, REVISION) >= 256


async def test_closing_ends_a_look_that_is_under_way(postgres_database: str) -> None:
    async with open_rig(postgres_database) as rig:
        storage: Any = rig.storage()
        await storage.write(new("a"))
        async with admin(postgres_database) as other, other.transaction():
            await other.execute("LOCK TABLE pg_catalog.pg_class IN ACCESS EXCLUSIVE MODE")
            storage._tables.growth.add(300, await rig.connection())
            await asyncio.sleep(0.05)
            assert storage._tables.growth._looks
            await rig.aclose()
        assert not storage._tables.growth._looks
