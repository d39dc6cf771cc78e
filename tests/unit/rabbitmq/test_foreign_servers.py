"""Servers of another protocol at the place that `amqp_url` names."""

from __future__ import annotations

import asyncio

import pytest

from specstar.backends.rabbitmq.link import Link
from specstar.backends.rabbitmq.options import RabbitMQOptions
from specstar.errors import BackendError, BackendUnavailable


@pytest.fixture
def anyio_backend() -> str:
    """The driver is for asyncio alone."""
    return "asyncio"


async def _connect(server: asyncio.Server, *, seconds: float = 20) -> None:
    port = server.sockets[0].getsockname()[1]
    async with server:
        url = f"amqp://guest:guest@127.0.0.1:{port}/"
        await Link.connect(RabbitMQOptions(amqp_url=url, connect_timeout_seconds=seconds))


@pytest.mark.parametrize("hangs_up", [True, False])
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",  # the port of the management page
        b"AMQP\x00\x01\x00\x00",  # a broker for AMQP 1.0 alone
        b"\x15\x03\x03\x00\x02\x02\x46",  # a port for TLS: its alert is shorter than any frame
        b"SSH-2.0-OpenSSH_9.9\r\n",
    ],
    ids=["http", "amqp-1.0", "tls", "ssh"],
)
async def test_another_protocol_is_told_as_that(answer: bytes, hangs_up: bool) -> None:
    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(answer)
        if not hangs_up:
            await reader.read()
        writer.close()

    with pytest.raises(BackendError, match=r"127\.0\.0\.1:\d+ does not speak AMQP 0-9-1, .*check host, port") as caught:
        await _connect(await asyncio.start_server(answers, "127.0.0.1", 0), seconds=20 if hangs_up else 0.5)
    assert not isinstance(caught.value, BackendUnavailable)


async def test_a_broker_that_hangs_up_may_come_back() -> None:
    async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    with pytest.raises(BackendUnavailable, match="is the broker up"):
        await _connect(await asyncio.start_server(hangs_up, "127.0.0.1", 0))
