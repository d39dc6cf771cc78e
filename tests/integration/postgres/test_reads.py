"""Reads that travel together: one statement, but to each caller its own."""

from __future__ import annotations

import asyncio

import pytest

from specstar.errors import DecodeError
from specstar.roles import Storage
from tests.integration.postgres.rig import Rig, admin, ids, new


@pytest.fixture
async def storage(rig: Rig) -> Storage:
    storage = rig.storage()
    for resource_id in ids("r", 3):
        await storage.write(new(resource_id))
    return storage


async def test_callers_who_read_one_damaged_row_together_raise_errors_of_their_own(
    storage: Storage, postgres_database: str
) -> None:
    async with admin(postgres_database) as connection:
        await connection.execute("UPDATE \"User_revision\" SET status = 'odd' WHERE resource_id = 'r00001'")
    wanted = ["r00000", "r00001", "r00002", "r00001", "r00001", "none"]
    found = await asyncio.gather(*(storage.read(resource_id) for resource_id in wanted), return_exceptions=True)
    errors = [entry for entry in found if isinstance(entry, DecodeError)]
    assert len(errors) == 3
    assert len({id(error) for error in errors}) == 3
    assert {error.resource_id for error in errors} == {"r00001"}
    assert [isinstance(entry, BaseException) for entry in found] == [False, True, False, True, True, False]
