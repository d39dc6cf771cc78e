"""Behind PgBouncer in transaction mode."""

from __future__ import annotations

import asyncio

import pytest

import services
from specstar.errors import BackendError, BackendUnavailable, DuplicateResourceError
from specstar.query import QB, IndexedField, build_query
from specstar.roles import PayloadKey, StoredRevision
from tests.integration.postgres.rig import change_of, ids, new, open_rig

pytestmark = pytest.mark.timeout(120)


async def test_many_callers_over_few_server_connections(pgbouncer_dsn: str) -> None:
    async with open_rig(pgbouncer_dsn, pgbouncer=True) as one, open_rig(pgbouncer_dsn, pgbouncer=True) as two:
        stores = one.storage(), two.storage()
        items = [new(name, name.encode()) for name in ids("r", 200)]
        await asyncio.gather(*(stores[number % 2].write(item) for number, item in enumerate(items)))
        updates = [change_of(item, b"2") for item in items]
        await asyncio.gather(*(stores[number % 2].write(item) for number, item in enumerate(updates)))
        reads = await asyncio.gather(*(stores[number % 2].read(name) for number, name in enumerate(ids("r", 200))))
        assert [entry.payload for entry in reads if isinstance(entry, StoredRevision)] == [b"2"] * 200
        with pytest.raises(DuplicateResourceError):
            await stores[0].write(new("r00001"))
        await one.resource().put(PayloadKey("r", "p"), b"x")
        assert await two.resource().get(PayloadKey("r", "p")) == b"x"


async def test_search_and_indexes(pgbouncer_dsn: str) -> None:
    fields = (IndexedField("age"),)
    async with open_rig(pgbouncer_dsn, pgbouncer=True) as rig:
        await rig.storage().write(new("r", age=3))
    async with open_rig(pgbouncer_dsn, pgbouncer=True) as rig:
        storage = rig.storage(fields=fields)
        found = await storage.search(build_query(QB["age"] == 3, fields=fields))
        assert [entry.meta.resource_id for entry in found] == ["r"]
        await asyncio.wait_for(storage._tables.indexed.wait(), 20)  # type: ignore[attr-defined]


async def test_without_the_option_the_error_names_it(pgbouncer_dsn: str) -> None:
    async with open_rig(pgbouncer_dsn) as rig:
        with pytest.raises(BackendError, match="set pgbouncer to true") as caught:
            await rig.storage().read("r")
        assert not isinstance(caught.value, BackendUnavailable)


async def test_calls_recover_after_pgbouncer_is_restarted(private_pgbouncer: services.PgBouncerServer) -> None:
    async with open_rig(private_pgbouncer.dsn, pgbouncer=True) as rig:
        storage = rig.storage("Recovers")
        await storage.write(new("r"))
        await asyncio.to_thread(private_pgbouncer.restart)
        await storage.write(new("r2"))
        assert await storage.read("r") is not None
