"""PostgreSQL is killed and its connections are ended while managers write: nothing acknowledged goes, nothing comes twice."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

import services
from tests.faults.ledger import Figures, fault_count
from tests.faults.tools.managed_load import ManagedLoad
from tests.faults.tools.postgres_program import CALL_LIMIT, program

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


async def test_killed_under_load(
    private_postgres: services.PostgresServer, private_postgres_database: str, figures: Figures
) -> None:
    figures.name = "PostgreSQL: server killed with kill -9"
    async with program(private_postgres_database) as users:
        load = ManagedLoad([users], figures, limit=CALL_LIMIT)
        async with load.running():
            await load.progress(10)
            for _ in range(fault_count(2, share=0.1)):
                await asyncio.sleep(load.chance.uniform(0.1, 0.5))
                await asyncio.to_thread(private_postgres.kill)
                figures.faults += 1
                await asyncio.sleep(load.chance.choice([0, 0.3, 1.0]))
                await asyncio.to_thread(private_postgres.start)
                await load.progress(CALL_LIMIT)
    # What another program finds is the same.
    async with program(private_postgres_database) as late:
        await load.verify(late)


async def test_connections_ended_in_storms(postgres_database: str, figures: Figures) -> None:
    figures.name = "PostgreSQL: connections ended by the server"
    storm = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    async with program(postgres_database) as users:
        load = ManagedLoad([users], figures, limit=CALL_LIMIT)
        admin = await asyncpg.connect(postgres_database, timeout=10)
        try:
            async with load.running():
                await load.progress(10)
                for _ in range(fault_count(4, share=0.25)):
                    for _ in range(load.chance.randrange(1, 6)):
                        figures.faults += await admin.fetchval(storm)
                        await asyncio.sleep(load.chance.uniform(0, 0.02))
                    await load.progress(CALL_LIMIT)
        finally:
            await admin.close()
        await load.verify(users)
    assert not load.unknown, f"the server was there all the time: every outcome could be found out (seed {load.seed})"
