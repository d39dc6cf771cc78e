"""The S3 gateway is killed and started again while managers write, alone and beside PostgreSQL."""

from __future__ import annotations

import asyncio

import pytest

import services
from tests.faults.ledger import Figures, fault_count
from tests.faults.tools import postgres_program
from tests.faults.tools.managed_load import ManagedLoad
from tests.faults.tools.s3_program import CALL_LIMIT, program, s3_backend
from tests.integration.postgres.rig import admin

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


async def test_killed_under_load(private_s3: services.CephS3Server, private_s3_bucket: str, figures: Figures) -> None:
    figures.name = "S3: gateway killed with kill -9"
    endpoint = private_s3.endpoint
    backend = s3_backend(endpoint.endpoint_url, private_s3_bucket, endpoint)
    async with program(backend) as writer, program(backend) as late:
        load = ManagedLoad([writer.users], figures, limit=CALL_LIMIT, pause=0.1)
        async with load.running():
            await load.progress(CALL_LIMIT)
            await kill_and_start(private_s3, load, figures, fault_count(1, share=0.1))
        await load.verify(late.users)


async def kill_and_start(server: services.CephS3Server, load: ManagedLoad, figures: Figures, kills: int) -> None:
    for _ in range(kills):
        await asyncio.sleep(load.chance.uniform(0.1, 0.6))
        await asyncio.to_thread(server.kill)
        figures.faults += 1
        await asyncio.sleep(load.chance.choice([0, 0.5, 1.5]))
        await asyncio.to_thread(server.start)
        await load.progress(CALL_LIMIT)


async def test_payloads_in_s3_and_rows_in_postgresql(
    private_s3: services.CephS3Server, private_s3_bucket: str, postgres_database: str, figures: Figures
) -> None:
    """Both break; every row that is acknowledged has its payload, and every error is one that passes."""
    figures.name = "PostgreSQL + S3: gateway killed, connections ended"
    endpoint = private_s3.endpoint
    payloads = s3_backend(endpoint.endpoint_url, private_s3_bucket, endpoint)
    async with (
        postgres_program.program(postgres_database, resource=payloads) as users,
        admin(postgres_database) as look,
    ):
        load = ManagedLoad([users], figures, limit=CALL_LIMIT + postgres_program.CALL_LIMIT, pause=0.1)
        async with load.running():
            await load.progress(CALL_LIMIT)
            for _ in range(fault_count(1, share=0.05)):
                await postgres_program.end_sessions(look)
                figures.faults += 1
                await kill_and_start(private_s3, load, figures, 1)
        await load.verify(users)
        strange = [text for text in load.refusals if text.startswith("BackendError")]
        assert not strange, f"only BackendUnavailable was to be expected: {strange[:2]} (seed {load.seed})"
