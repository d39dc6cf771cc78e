"""These tests look at the stores from inside their home loop, which is asyncio's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.postgres.rig import Rig, open_rig


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def rig(postgres_database: str) -> AsyncIterator[Rig]:
    """A process on an empty database."""
    async with open_rig(postgres_database) as rig:
        yield rig
