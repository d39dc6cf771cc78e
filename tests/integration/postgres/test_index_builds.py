"""Indexes of fields that were declared after there were rows: built in the background, whatever stands in the way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from specstar.backends.postgres import indexes
from specstar.backends.postgres.names import TableNames
from specstar.query import IndexedField
from tests.integration.postgres.rig import admin, new, open_rig

FIELDS = (IndexedField("age", frozenset({"number"})),)


async def valid_indexes(look: Any) -> list[str]:
    sql = (
        "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "WHERE i.indisvalid AND c.relname LIKE 'ix\\_%' ORDER BY 1"
    )
    return [row[0] for row in await look.fetch(sql)]


async def building(look: Any) -> bool:
    sql = "SELECT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE datname = current_database())"
    return bool(await look.fetchval(sql))


async def until_built(look: Any) -> None:
    async with asyncio.timeout(30):
        while not await valid_indexes(look):  # noqa: ASYNC110  in the server
            await asyncio.sleep(0.05)


async def until_building(look: Any) -> None:
    async with asyncio.timeout(30):
        while not await building(look):  # noqa: ASYNC110  in the server
            await asyncio.sleep(0.05)


def counted_looks(monkeypatch: pytest.MonkeyPatch, *, most: int | None = None) -> list[bool]:
    """What came of each look at whether there is something to build, without pauses between them.

    After `most` of them whoever looks again stands still: a connection that is cancelled while it is made leaves the driver with
    an error that nobody takes.
    """
    monkeypatch.setattr(indexes, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(indexes, "_LONGEST_POLL_SECONDS", 0.001)
    looks: list[bool] = []
    build_as_only_one = indexes._build_as_only_one

    async def counted(*args: Any) -> bool:
        if most is not None and len(looks) >= most:
            await asyncio.Event().wait()
        looks.append(await build_as_only_one(*args))
        return looks[-1]

    monkeypatch.setattr(indexes, "_build_as_only_one", counted)
    return looks


async def until_looked(looks: list[bool], times: int) -> None:
    async with asyncio.timeout(30):
        while len(looks) < times:  # noqa: ASYNC110  counted elsewhere
            await asyncio.sleep(0.05)


async def with_rows(dsn: str) -> None:
    async with open_rig(dsn) as rig:
        await rig.storage().write(new("r", age=1))


async def test_the_timeouts_of_the_role_do_not_end_a_build(postgres_database: str) -> None:
    await with_rows(postgres_database)
    name = postgres_database.rpartition("/")[2]
    async with admin(postgres_database) as look, admin(postgres_database) as writer:
        await look.execute(
            f'ALTER DATABASE "{name}" SET statement_timeout = 200; ALTER DATABASE "{name}" SET lock_timeout = 200'
        )
        async with open_rig(postgres_database) as rig:
            async with writer.transaction():
                await writer.execute('UPDATE "User_meta" SET version = version')
                await rig.storage(fields=FIELDS).read("r")
                await until_building(look)
                (pid,) = await _builders(look)
                await asyncio.sleep(0.6)
                assert await _builders(look) == [pid]
            await until_built(look)


async def test_a_process_that_waits_for_anothers_build_takes_it_over_however_long_that_was(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await with_rows(postgres_database)
    looks = counted_looks(monkeypatch)
    async with admin(postgres_database) as look, admin(postgres_database) as other, open_rig(postgres_database) as rig:
        key = indexes._lock_key(TableNames.of(prefix="", schema="", model="User"))
        await other.execute(f"SELECT pg_advisory_lock({indexes._LOCK_CLASS}, {key})")
        await rig.storage(fields=FIELDS).read("r")
        await until_looked(looks, indexes._FAILURES + 1)
        assert not await valid_indexes(look)
        await other.close()
        await until_built(look)


async def test_a_build_that_outlives_its_process_is_waited_for(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await with_rows(postgres_database)
    looks = counted_looks(monkeypatch, most=2)
    oid = "SELECT indexrelid FROM pg_index WHERE indexrelid::regclass::text LIKE 'ix\\_%' AND indrelid = $1::regclass"
    async with admin(postgres_database) as look, admin(postgres_database) as writer:
        async with writer.transaction():
            await writer.execute('UPDATE "User_meta" SET version = version')
            async with open_rig(postgres_database) as rig:
                await rig.storage(fields=FIELDS).read("r")
                await until_building(look)
            begun = await look.fetchval(oid, '"User_meta"')
            async with open_rig(postgres_database) as rig:
                await rig.storage(fields=FIELDS).read("r")
                await until_looked(looks, 2)
                assert not any(looks)
        looks.clear()
        async with open_rig(postgres_database) as rig:
            await rig.storage(fields=FIELDS).read("r")
            await until_built(look)
            assert await look.fetchval(oid, '"User_meta"') == begun


async def test_what_was_left_half_built_is_built_again(postgres_database: str) -> None:
    await with_rows(postgres_database)
    async with admin(postgres_database) as look, open_rig(postgres_database) as rig:
        await _left_half_built(look, postgres_database)
        await rig.storage(fields=FIELDS).read("r")
        await until_built(look)


async def test_the_statements_for_someone_with_the_right_to_build_are_those_that_block_no_writer(
    postgres_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    await with_rows(postgres_database)
    role = f"limited_{postgres_database.rpartition('/')[2]}"
    async with admin(postgres_database) as look:
        await look.execute(
            f"CREATE ROLE {role} LOGIN PASSWORD 'pw-of-role'; "
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"
        )
        try:
            dsn = f"postgresql://{role}:pw-of-role@{postgres_database.rpartition('@')[2]}"
            await _left_half_built(look, postgres_database)
            async with open_rig(dsn) as rig, asyncio.timeout(30):
                storage: Any = rig.storage(fields=FIELDS)
                await storage.read("r")
                await storage._tables.indexed.wait()
            (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
            drop, create = warning.partition("run, one by one: ")[2].split("; ")
            assert drop.startswith("DROP INDEX CONCURRENTLY")
            assert create.startswith("CREATE INDEX CONCURRENTLY")
            await look.execute(drop)
            await look.execute(create)
            assert await valid_indexes(look)
        finally:
            await look.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def _left_half_built(look: Any, dsn: str) -> None:
    async with admin(dsn) as writer, writer.transaction():
        await writer.execute('UPDATE "User_meta" SET version = version')
        async with open_rig(dsn) as killed:
            await killed.storage(fields=FIELDS).read("r")
            await until_building(look)
        (pid,) = await _builders(look)
        await look.fetch("SELECT pg_terminate_backend($1)", pid)
    async with asyncio.timeout(30):
        while await building(look):  # noqa: ASYNC110  in the server
            await asyncio.sleep(0.05)
    assert not await valid_indexes(look)


async def _builders(look: Any) -> list[int]:
    sql = "SELECT pid FROM pg_stat_progress_create_index WHERE datname = current_database()"
    return [row[0] for row in await look.fetch(sql)]
