"""A link that comes back, and how it is closed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from specstar.backends.rabbitmq.kept_link import KeptLink
from specstar.backends.rabbitmq.link import Link
from specstar.backends.rabbitmq.options import RabbitMQOptions
from specstar.errors import BackendUnavailable


@pytest.fixture
def anyio_backend() -> str:
    """The driver is for asyncio alone."""
    return "asyncio"


@pytest.fixture
def nowhere() -> Iterator[str]:
    """A broker that is down: nobody listens on this port, and nobody else gets it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"amqp://guest:guest@127.0.0.1:{taken.getsockname()[1]}/"


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


async def test_who_asks_once_is_told_why_the_attempt_failed(nowhere: str) -> None:
    kept = KeptLink(RabbitMQOptions(amqp_url=nowhere))
    for _ in range(2):
        with pytest.raises(BackendUnavailable, match=r"cannot connect to 127\.0\.0\.1.*is the broker running\?"):
            await kept.get(60, once=True)
    with pytest.raises(BackendUnavailable, match=r"^mq on rabbitmq: no connection to .* within 0\.1 s"):
        await kept.get(0.1)
    await kept.aclose()
