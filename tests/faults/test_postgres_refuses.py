"""PostgreSQL is there and refuses: read-only, without connections, deadlocked, in conflict, out of space. It passes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

import services
from specstar.backends.postgres.faults import is_race
from specstar.errors import OutcomeUnknownError
from tests.faults.ledger import Figures, fault_count
from tests.faults.tools.managed_load import Entry, ManagedLoad
from tests.faults.tools.postgres_program import CALL_LIMIT, end_sessions, program
from tests.faults.tools.small_disk import SmallDisk, small_disk
from tests.integration.postgres.rig import admin
from tests.services_plugin import fresh_database

pytestmark = [pytest.mark.timeout(1800), pytest.mark.xdist_group("postgres-refuses")]

POOL = 4


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def server() -> Iterator[services.PostgresServer]:
    """Room for few connections, and quick to see a deadlock."""
    settings = {"max_connections": "14", "superuser_reserved_connections": "0", "deadlock_timeout": "20ms"}
    with services.postgres(settings=settings) as server:
        yield server


@pytest.fixture
def dsn(server: services.PostgresServer) -> Iterator[str]:
    with fresh_database(server.endpoint) as dsn:
        yield dsn


async def refused(load: ManagedLoad, count: int = 20) -> None:
    """Callers have met refusals."""
    before = len(load.refused)
    async with asyncio.timeout(CALL_LIMIT):
        while len(load.refused) < before + count:  # noqa: ASYNC110  counted by others
            await asyncio.sleep(0.01)


async def test_failover_to_read_only(dsn: str, figures: Figures) -> None:
    """A primary becomes a standby, and the address leads to another: connections to the old one stay open, read-only."""
    figures.name = "PostgreSQL: failover to read-only"
    async with program(dsn, pool_max_size=POOL) as users, admin(dsn) as look:
        load = ManagedLoad([users], figures, limit=CALL_LIMIT)
        async with load.running():
            await load.progress(10)
            for _ in range(fault_count(2, share=0.2)):
                name = await look.fetchval("SELECT current_database()")
                # Sessions keep what they began with: those of this moment stay read-only when new ones are not.
                await look.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
                await end_sessions(look)
                figures.faults += 1
                await refused(load)
                await look.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
                await load.progress(CALL_LIMIT)
        await load.verify(users)
    assert any("25006" in text for text in load.refusals)


async def until_commits_wait(look: Any) -> None:
    """The standby is wanted once the checkpointer has read the configuration, which shows in a commit that waits."""
    async with asyncio.timeout(CALL_LIMIT):
        while True:
            try:
                await look.execute("SELECT pg_logical_emit_message(true, 'probe', '')", timeout=1.0)
            except TimeoutError:
                return


async def test_a_synchronous_standby_is_away(server: services.PostgresServer, dsn: str) -> None:
    """What was cut short in its wait for the standby is committed here alone: nobody is told that it is safe."""
    limits: dict[str, Any] = {"command_timeout_seconds": 1.0, "acquire_timeout_seconds": 2.0}
    async with program(dsn, pool_max_size=POOL, **limits) as users, admin(dsn) as look:
        made = await users.create(Entry(1, "before"))
        await look.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        try:
            await look.execute("SELECT pg_reload_conf()")
            await until_commits_wait(look)
            for write in (
                lambda: users.create(Entry(1, "alone")),
                lambda: users.update(made.resource_id, Entry(1, "changed"), expected_revision_id=made.revision_id),
                lambda: users.permanently_delete(made.resource_id),
            ):
                with pytest.raises(OutcomeUnknownError):
                    await write()
        finally:
            await look.execute("ALTER SYSTEM RESET synchronous_standby_names")
            await look.execute("SELECT pg_reload_conf()")
        await users.create(Entry(1, "after"))


async def test_no_connection_left(dsn: str, figures: Figures) -> None:
    figures.name = "PostgreSQL: max_connections exhausted"
    async with program(dsn, pool_max_size=POOL) as users, admin(dsn) as look:
        load = ManagedLoad([users], figures, limit=CALL_LIMIT)
        async with load.running():
            await load.progress(10)
            for _ in range(fault_count(1, share=0.2)):
                crowd = await take_all(dsn, look)
                figures.faults += 1
                await refused(load)
                for connection in crowd:
                    await connection.close()
                await load.progress(CALL_LIMIT)
        await load.verify(users)
    assert any("53300" in text for text in load.refusals), load.refusals


async def take_all(dsn: str, look: Any) -> list[Any]:
    """Take every place on the server, those of the program too."""
    crowd: list[Any] = []
    async with asyncio.timeout(20):
        while True:
            taken = await asyncio.gather(*(asyncpg.connect(dsn, timeout=5) for _ in range(4)), return_exceptions=True)
            crowd += [one for one in taken if isinstance(one, asyncpg.Connection)]
            if any(isinstance(one, asyncpg.TooManyConnectionsError) for one in taken) and not await end_sessions(look):
                return crowd


@pytest.fixture
def races(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The deadlocks and serialization failures that the program met: the server's own counts come late."""
    met: list[str] = []

    def noting(error: BaseException) -> bool:
        if is_race(error):
            met.append(str(getattr(error, "sqlstate", "")))
            return True
        return False

    monkeypatch.setattr("specstar.backends.postgres.connection.is_race", noting)
    return met


async def test_deadlocks(dsn: str, figures: Figures, races: list[str]) -> None:
    """A stranger locks rows in another order than the batches do, and ours is the one that the server refuses."""
    figures.name = "PostgreSQL: deadlocks"
    wanted = fault_count(3, share=0.5)
    async with program(dsn, pool_max_size=POOL) as users, admin(dsn) as stranger:
        load = ManagedLoad([users], figures, limit=CALL_LIMIT, shared=2, callers=8)
        async with load.running():
            await load.progress(10)

            async def change_both() -> None:
                for number in itertools.count():
                    if len(races) >= wanted:
                        return
                    await asyncio.gather(
                        *(
                            load.attempt(name, op := f"{name}-{number}", users.update(name, Entry(-2, op)), rivals=True)
                            for name in load.shared
                        )
                    )
                    await asyncio.sleep(0.005)

            async with asyncio.timeout(90 + wanted), asyncio.TaskGroup() as group:
                group.create_task(change_both())
                while len(races) < wanted:
                    with contextlib.suppress(asyncpg.DeadlockDetectedError):
                        async with stranger.transaction():
                            # Which order is another than that of the batches depends on the server's plan.
                            for name in load.chance.sample(load.shared, 2):
                                await stranger.execute(TOUCH, name)
                                # Within deadlock_timeout: who waits first finds the deadlock, and ends itself.
                                await asyncio.sleep(load.chance.uniform(0.002, 0.018))
                    await asyncio.sleep(0.01)
            await load.progress(CALL_LIMIT)
        await load.verify(users)
    figures.faults += races.count("40P01")
    assert figures.faults >= wanted
    assert not [text for text in load.refusals if not text.startswith("RevisionConflictError")], load.refusals


TOUCH = 'UPDATE "Entry_meta" SET version = version WHERE resource_id = $1'


async def test_serialization_failures(dsn: str, figures: Figures, races: list[str]) -> None:
    """Two programs in serializable transactions on the same rows."""
    figures.name = "PostgreSQL: serialization failures"
    strict = f"{dsn}?default_transaction_isolation=serializable"
    wanted = fault_count(10, share=0.5)
    async with program(strict, pool_max_size=POOL) as one, program(strict, pool_max_size=POOL) as two:
        load = ManagedLoad([one, two], figures, limit=CALL_LIMIT, shared=1, pause=0.005)
        async with load.running(), asyncio.timeout(90 + wanted):
            while races.count("40001") < wanted:
                await load.progress(CALL_LIMIT)
        await load.verify(one)
    figures.faults += races.count("40001")
    assert not load.unknown


async def test_disk_full(server: services.PostgresServer, figures: Figures) -> None:
    figures.name = "PostgreSQL: disk full"
    with small_disk(server, megabytes=24) as disk:
        async with (
            program(disk.dsn, pool_max_size=POOL) as users,
            program(disk.dsn, pool_max_size=1) as late,
        ):
            load = ManagedLoad([users], figures, limit=CALL_LIMIT, padding=4000)
            async with load.running():
                await load.progress(10)
                for number in range(disk.needs >> 20):
                    await users.create(Entry(-3, f"ballast-{number}", load.chance.randbytes(1 << 20).hex()))
                for _ in range(fault_count(2, share=0.05)):
                    await fill_and_free(disk, load, figures)
            await load.verify(late)


async def fill_and_free(disk: SmallDisk, load: ManagedLoad, figures: Figures) -> None:
    disk.fill()
    figures.faults += 1
    await refused(load)
    disk.free()
    await load.progress(CALL_LIMIT)
