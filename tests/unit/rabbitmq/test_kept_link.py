"""A link that comes back, and how it is closed."""

from __future__ import annotations

import asyncio

import pytest

from specstar.backends.rabbitmq.kept_link import KeptLink
from specstar.backends.rabbitmq.link import Link
from specstar.backends.rabbitmq.options import RabbitMQOptions


@pytest.fixture
def anyio_backend() -> str:
    """The driver is for asyncio alone."""
    return "asyncio"


async def test_closing_can_be_cancelled_while_an_attempt_to_connect_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    connecting, ending, may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def connect(options: RabbitMQOptions) -> Link:
        connecting.set()
        try:
            await asyncio.sleep(60)
        finally:
            ending.set()
            await may_end.wait()
        raise AssertionError

    monkeypatch.setattr(Link, "connect", connect)
    kept = KeptLink(RabbitMQOptions())
    getting = asyncio.create_task(kept.get(60))
    await connecting.wait()
    closing = asyncio.create_task(kept.aclose())
    await ending.wait()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    may_end.set()
    getting.cancel()
    await asyncio.wait({getting})
