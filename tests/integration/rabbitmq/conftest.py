"""These tests look at the queues from inside their home loop, which is asyncio's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.rabbitmq.rig import Rig, open_rig


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def rig(amqp_url: str, queue_prefix: str) -> AsyncIterator[Rig]:
    """A process on the shared broker."""
    async with open_rig(amqp_url, queue_prefix, retry_delay_seconds=0.3) as rig:
        yield rig
