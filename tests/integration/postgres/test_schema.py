"""Tables: created once whoever races, versioned, migrated, and never taken from another program."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from specstar.backends.postgres import schema
from specstar.backends.postgres.tables import ModelTables
from specstar.errors import BackendError, SchemaVersionError
from specstar.roles import ModelSpec, PayloadKey
from tests.integration.postgres.rig import Rig, admin, new, open_rig

NOW = schema.META.version

PROCESSES = 20
STARTER = """
import asyncio, sys
from specstar.roles import PayloadKey
from tests.integration.postgres.rig import new, open_rig

async def main():
    async with open_rig(sys.argv[1], schema="tenant") as rig:
        sys.stdout.write("ready\\n"); sys.stdout.flush(); sys.stdin.readline()
        for model in ("User", "Order"):
            await rig.storage(model).write(new("from-" + sys.argv[2]))
            await rig.resource(model).put(PayloadKey("r", sys.argv[2]), b"x")

asyncio.run(main())
"""


async def test_many_processes_starting_at_once_on_an_empty_database(postgres_database: str) -> None:
    root = Path(__file__).parents[3]
    started = await asyncio.gather(
        *(
            asyncio.create_subprocess_exec(
                sys.executable, "-c", STARTER, postgres_database, str(number),
                cwd=root, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )
            for number in range(PROCESSES)
        )
    )  # fmt: skip
    for process in started:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    ends = await asyncio.gather(*(process.communicate(b"go\n") for process in started))
    assert [(process.returncode, end[1]) for process, end in zip(started, ends, strict=True)] == [(0, b"")] * PROCESSES
    async with admin(postgres_database) as connection:
        assert await connection.fetchval('SELECT count(*) FROM tenant."User_meta"') == PROCESSES
        assert await connection.fetchval('SELECT count(*) FROM tenant."Order_revision"') == PROCESSES


async def test_models_and_prefixes_have_tables_of_their_own(postgres_database: str) -> None:
    models = [
        "User",
        "user",
        "us.er",
        "us er",
        'quo"te',
        "'; DROP TABLE x; --",
        "é" * 40,
        "é" * 41,
        "x" * 200,
        "",
        "\0",
        "\ud800",
    ]
    async with open_rig(postgres_database) as plain, open_rig(postgres_database, table_prefix="app_") as prefixed:
        stores = [rig.storage(model) for rig in (plain, prefixed) for model in models]
        for number, store in enumerate(stores):
            await store.write(new(f"r{number}"))
        for number, store in enumerate(stores):
            found = await store.read_many([f"r{other}" for other in range(len(stores))])
            assert [entry is not None for entry in found] == [other == number for other in range(len(stores))]


async def test_tables_of_a_newer_version_are_refused_and_left_alone(rig: Rig, postgres_database: str) -> None:
    await rig.storage().write(new("r"))
    async with admin(postgres_database) as connection:
        await connection.execute("UPDATE specstar_schema SET version = 99")
        async with open_rig(postgres_database) as older:
            with pytest.raises(SchemaVersionError, match="upgrade specstar"):
                await older.storage().write(new("r2"))
        assert await connection.fetchval('SELECT count(*) FROM "User_meta"') == 1


async def test_tables_of_an_unknown_older_version_are_refused(rig: Rig, postgres_database: str) -> None:
    await rig.storage().write(new("r"))
    async with admin(postgres_database) as connection, open_rig(postgres_database) as newer:
        await connection.execute("UPDATE specstar_schema SET version = 0")
        with pytest.raises(SchemaVersionError, match="cannot migrate"):
            await newer.storage().read("r")


@pytest.mark.parametrize(
    "theirs",
    [
        'CREATE TABLE "User_revision" (id int)',
        "CREATE TABLE specstar_schema (name text)",
        'CREATE VIEW "User_meta" AS SELECT 1',
    ],
)
async def test_tables_of_another_program_are_refused_and_left_alone(
    rig: Rig, postgres_database: str, theirs: str
) -> None:
    async with admin(postgres_database) as connection:
        await connection.execute(theirs)
        before = await connection.fetch(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        )
        with pytest.raises(SchemaVersionError, match="table_prefix"):
            await rig.storage().write(new("r"))
        after = await connection.fetch("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        assert after == before


async def test_older_tables_are_migrated_once_by_racing_processes(postgres_database: str) -> None:
    async with open_rig(postgres_database) as rig:
        await rig.storage().write(new("r"))
    newer = schema.Component(
        "meta",
        NOW + 2,
        schema.META.tables,
        schema.META.create,
        {
            NOW: lambda names: f"ALTER TABLE {names.meta} ADD COLUMN second integer NOT NULL DEFAULT 2",
            NOW + 1: lambda names: f"ALTER TABLE {names.meta} ADD COLUMN third integer NOT NULL DEFAULT 3; SELECT 1",
        },
    )
    async with open_rig(postgres_database) as one, open_rig(postgres_database) as two, admin(postgres_database) as look:
        tables = [ModelTables(rig.context, ModelSpec(name="User"), newer) for rig in (one, two) for _ in range(3)]
        await asyncio.gather(*(table.ready() for table in tables))
        assert tuple(await look.fetchrow('SELECT resource_id, second, third FROM "User_meta"')) == ("r", 2, 3)
        assert await look.fetchval("SELECT version FROM specstar_schema") == NOW + 2


async def test_a_failed_migration_changes_nothing(postgres_database: str) -> None:
    async with open_rig(postgres_database) as rig:
        await rig.storage().write(new("r"))
        broken = schema.Component(
            "meta",
            NOW + 2,
            schema.META.tables,
            schema.META.create,
            {
                NOW: lambda names: f"ALTER TABLE {names.meta} ADD COLUMN second integer",
                NOW + 1: lambda names: "SELECT 1/0",
            },
        )
        with pytest.raises(Exception, match="division by zero"):
            await ModelTables(rig.context, ModelSpec(name="User"), broken).ready()
        async with admin(postgres_database) as connection:
            assert await connection.fetchval("SELECT version FROM specstar_schema") == NOW
        assert await rig.storage().read("r") is not None


async def test_a_role_that_may_not_create_works_on_tables_that_are_there(postgres_database: str) -> None:
    async with open_rig(postgres_database, schema="app") as owner, admin(postgres_database) as connection:
        await owner.storage().write(new("r"))
        role = f"reader_{postgres_database.rpartition('/')[2]}"
        await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'pw-of-role'")
        try:
            await connection.execute(
                f"GRANT USAGE ON SCHEMA app TO {role}; "
                f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA app TO {role}"
            )
            scheme, _, rest = postgres_database.partition("://")
            dsn = f"{scheme}://{role}:pw-of-role@{rest.rpartition('@')[2]}"
            async with open_rig(dsn, schema="app") as limited:
                await limited.storage().write(new("r2"))
                assert await limited.storage().read("r") is not None
                with pytest.raises(BackendError, match="GRANT the right"):
                    await limited.storage("Other").write(new("r"))
        finally:
            await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_the_check_runs_once_a_model_and_process(rig: Rig, postgres_database: str) -> None:
    storage: Any = rig.storage()
    await asyncio.gather(*(storage.write(new(f"r{number}")) for number in range(50)))
    connection = await rig.connection()
    seen: list[str] = []
    fetch = connection.fetch

    async def counted(sql: str, *args: Any, **kwargs: Any) -> Any:
        seen.append(sql)
        return await fetch(sql, *args, **kwargs)

    connection.fetch = counted  # type: ignore[method-assign]
    await storage.read("r1")
    await storage.read("r2")
    assert len(seen) == 2


async def test_the_index_of_payloads_stands_in_no_other_models_way_and_takes_the_place_of_the_old_one(
    postgres_database: str,
) -> None:
    indexes = "SELECT indexname FROM pg_indexes WHERE tablename = 'User_revision' ORDER BY 1"
    async with admin(postgres_database) as connection:
        async with open_rig(postgres_database) as rig:
            await rig.meta().write(new("r").change)
            # Its table of payloads is called as the index was.
            await rig.resource("User_by").put(PayloadKey("r", "v"), b"x")
        assert [row[0] for row in await connection.fetch(indexes)] == ["User_payload_id", "User_revision_pkey"]
        await connection.execute('DROP TABLE "User_by_payload"')
        await connection.execute('ALTER INDEX "User_payload_id" RENAME TO "User_by_payload"')
        async with open_rig(postgres_database) as rig, asyncio.timeout(20):
            await rig.meta().write(new("r2").change)
            while [row[0] for row in await connection.fetch(indexes)] != ["User_payload_id", "User_revision_pkey"]:  # noqa: ASYNC110  in the server
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def tenants(dsn: str, *names: str) -> AsyncIterator[list[str]]:
    """Roles with a schema of their own, first in the search_path, and `public` behind it: their DSNs."""
    database = dsn.rpartition("/")[2]
    roles = [f"{name}_{database}" for name in names]
    async with admin(dsn) as connection:
        for role in roles:
            await connection.execute(
                f"CREATE ROLE {role} LOGIN PASSWORD 'pw-of-role'; CREATE SCHEMA {role} AUTHORIZATION {role}; "
                f"ALTER ROLE {role} SET search_path = {role}, public; GRANT ALL ON SCHEMA public TO {role}; "
                f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO {role}"
            )
        try:
            yield [f"postgresql://{role}:pw-of-role@{dsn.rpartition('@')[2]}" for role in roles]
        finally:
            for role in roles:
                await connection.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


async def test_what_is_new_goes_to_the_first_schema_of_the_search_path(postgres_database: str) -> None:
    async with tenants(postgres_database, "one", "two") as (one, two):
        async with open_rig(postgres_database) as rig:
            await rig.storage("Other").write(new("public"))
        for dsn in (one, two, one, two):
            async with open_rig(dsn) as rig:
                storage = rig.storage()
                assert await storage.read("r") is None
                await storage.write(new("r"))
                await storage.erase("r")


async def test_tables_further_on_in_the_search_path_stay_in_use_and_are_told_of(
    postgres_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with tenants(postgres_database, "one") as (one,):
        async with open_rig(postgres_database) as rig:
            await rig.storage().write(new("r"))
        async with open_rig(one) as rig:
            # Its own table of versions comes before the one that knows the other model.
            await rig.storage("New").write(new("r"))
            assert not caplog.records
        async with open_rig(one) as rig:
            assert await rig.storage().read("r") is not None
            assert await rig.storage("New").read("r") is not None
        (warning,) = caplog.records
        assert '"public"."User_meta"' in warning.message
        assert "set the option schema" in warning.message


async def test_tables_that_an_earlier_version_entered_further_on_are_found(postgres_database: str) -> None:
    async with tenants(postgres_database, "one", "two") as (one, two):
        async with open_rig(postgres_database) as rig:
            await rig.storage("Other").write(new("r"))
        async with open_rig(one) as rig:
            await rig.storage().write(new("r"))
        async with admin(one) as look:
            await look.execute("INSERT INTO public.specstar_schema SELECT * FROM specstar_schema")
            await look.execute("DROP TABLE specstar_schema")
        async with open_rig(one) as rig:
            assert await rig.storage().read("r") is not None
        async with open_rig(two) as rig:
            assert await rig.storage().read("r") is None


async def test_a_strangers_table_further_on_in_the_search_path_is_not_hidden(postgres_database: str) -> None:
    async with tenants(postgres_database, "one") as (one,):
        async with admin(postgres_database) as look:
            await look.execute('CREATE TABLE "User_meta" (id int)')
        async with open_rig(one) as rig:
            with pytest.raises(SchemaVersionError, match="table_prefix"):
                await rig.storage().write(new("r"))
