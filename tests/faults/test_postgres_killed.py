"""PostgreSQL is killed and its connections are ended while managers write: nothing acknowledged goes, nothing comes twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

import services
from specstar import SpecStar
from specstar.resource_manager import ResourceManager
from tests.faults.ledger import Figures, fault_count
from tests.faults.tools.managed_load import Entry, ManagedLoad

pytestmark = pytest.mark.timeout(1800)

# The stated limits, made short. A call waits for one batch before its own; a batch waits for a turn, a connection and an
# answer, and, if that was lost, as long again as for a turn to find out.
TURN, CONNECT, ANSWER = 3.0, 1.0, 2.0
LIMIT = 2 * (TURN + CONNECT + ANSWER + TURN)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def program(dsn: str, **options: Any) -> AsyncIterator[ResourceManager[Entry]]:
    """A program with its own pool."""
    limits = {
        "acquire_timeout_seconds": TURN,
        "connect_timeout_seconds": CONNECT,
        "command_timeout_seconds": ANSWER,
        **options,
    }
    backend = {"type": "postgres", "options": {"dsn": dsn, **limits}}
    spec = SpecStar()
    spec.configure(backend={"meta": backend, "resource": backend})
    users = spec.add_model(Entry, indexed_fields=["caller"])
    async with spec:
        yield users


async def test_killed_under_load(private_postgres: services.PostgresServer, figures: Figures) -> None:
    figures.name = "PostgreSQL: server killed with kill -9"
    async with program(private_postgres.dsn) as users:
        load = ManagedLoad([users], figures, limit=LIMIT)
        async with load.running():
            await load.progress(10)
            for _ in range(fault_count(2, share=0.1)):
                await asyncio.sleep(load.chance.uniform(0.1, 0.5))
                await asyncio.to_thread(private_postgres.kill)
                figures.faults += 1
                await asyncio.sleep(load.chance.choice([0, 0.3, 1.0]))
                await asyncio.to_thread(private_postgres.start)
                await load.progress(LIMIT)
        await load.verify(users)
    # What another program finds is the same.
    async with program(private_postgres.dsn) as late:
        await load.verify(late)


async def test_connections_ended_in_storms(postgres_database: str, figures: Figures) -> None:
    figures.name = "PostgreSQL: connections ended by the server"
    storm = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    async with program(postgres_database) as users:
        load = ManagedLoad([users], figures, limit=LIMIT)
        admin = await asyncpg.connect(postgres_database, timeout=10)
        try:
            async with load.running():
                await load.progress(10)
                for _ in range(fault_count(4, share=0.25)):
                    for _ in range(load.chance.randrange(1, 6)):
                        figures.faults += await admin.fetchval(storm)
                        await asyncio.sleep(load.chance.uniform(0, 0.02))
                    await load.progress(LIMIT)
        finally:
            await admin.close()
        await load.verify(users)
    assert not load.unknown, f"the server was there all the time: every outcome could be found out (seed {load.seed})"
