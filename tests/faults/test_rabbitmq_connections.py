"""Connections and channels to RabbitMQ break while jobs are sent and run: each confirmed job runs, consumers come back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiormq
import pytest

from tests.faults.ledger import Figures, fault_count
from tests.faults.tools.job_load import JobLoad, job_load
from tests.faults.tools.tcp_proxy import TcpProxy
from tests.integration.rabbitmq.rig import raw_channel

pytestmark = pytest.mark.timeout(1800)

Break = Callable[[TcpProxy, JobLoad], Awaitable[None]]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


async def cut(proxy: TcpProxy, load: JobLoad) -> None:
    await proxy.cut()


async def shut(proxy: TcpProxy, load: JobLoad) -> None:
    await proxy.shut()
    await proxy.cut()
    await asyncio.sleep(load.chance.uniform(0, 2))
    await proxy.listen()


async def stall(proxy: TcpProxy, load: JobLoad) -> None:
    proxy.hold()
    await asyncio.sleep(load.chance.choice([0.3, 4.0]))


async def black_hole(proxy: TcpProxy, load: JobLoad) -> None:
    proxy.swallow()
    await asyncio.sleep(load.chance.uniform(0.1, 2))
    await proxy.cut()


async def lose_answers(proxy: TcpProxy, load: JobLoad) -> None:
    """Jobs arrive and are confirmed, and nobody hears of it."""
    proxy.answers.dropping = True
    async with asyncio.timeout(10):
        await proxy.answers.dropped.wait()
    await asyncio.sleep(load.chance.choice([0, 0.1]))
    await proxy.cut()


async def closed_by_the_broker(proxy: TcpProxy, load: JobLoad) -> None:
    """What it cannot read makes the broker close the connection, with a reason."""
    proxy.requests.poison = b"\xff" * 16
    await asyncio.sleep(0.2)
    proxy.requests.poison = b""


async def unknown_delivery_tag(proxy: TcpProxy, load: JobLoad) -> None:
    """The broker closes the channel of a consumer."""
    for lane in [lane for queue in load.worker._jobs.queues.values() for lane in queue._lanes]:
        for subscription in _subscriptions(lane):
            # One that the fault before has closed is on its way back.
            if not subscription._channel.is_closed:
                await subscription._channel.basic_ack(4_000_000, wait=False)


def _subscriptions(lane: Any) -> list[Any]:
    session = lane._session
    return session.consumer._subscriptions() if session is not None else []


BREAKS: list[Break] = [cut, shut, stall, black_hole, lose_answers, closed_by_the_broker, unknown_delivery_tag]


async def test_connections_break_under_load(amqp_url: str, queue_prefix: str, figures: Figures) -> None:
    figures.name = "RabbitMQ: connections and channels broken"
    async with (
        TcpProxy.before(amqp_url) as proxy,
        job_load(figures, proxy.url_of(amqp_url), queue_prefix) as load,
    ):
        async with load.sending():
            await load.progress()
            ways: list[Break] = []
            for _ in range(fault_count(4, share=0.4)):
                ways = ways or load.chance.sample(BREAKS, len(BREAKS))
                await ways.pop()(proxy, load)
                proxy.heal()
                figures.faults += 1
                await load.progress()
        await load.finished()


async def test_jobs_that_end_slowly_when_their_delivery_is_lost_run_again(
    amqp_url: str, queue_prefix: str, figures: Figures
) -> None:
    """Their messages come back while the handlers are still on their way out: neither may wait for the other for ever."""
    figures.name = "RabbitMQ: connection lost under handlers that end slowly"
    async with (
        TcpProxy.before(amqp_url) as proxy,
        job_load(figures, proxy.url_of(amqp_url), queue_prefix) as load,
    ):
        load.cleanup_seconds = 1.5
        for number in range(fault_count(1, share=0.05)):
            load.gate.clear()
            for key in range(3):
                assert await load.enqueue(load.kept, partition_key=f"key {number} {key}")
            assert await load.enqueue(load.kept)
            # The plain one, and at least one of a partition: the others may wait behind it.
            await load.until(lambda: len(set(load.runs) - load.done) >= 2, 10.0)
            await proxy.shut()
            await proxy.cut()
            # Until the worker has noticed, and begun to stop what runs.
            await asyncio.sleep(0.7)
            await proxy.listen()
            figures.faults += 1
            await asyncio.sleep(0.5)
            load.gate.set()
            with figures.stall():
                await load.finished(20.0)


async def delete_queue(proxy: TcpProxy, load: JobLoad) -> None:
    async with raw_channel(load.broker_url) as channel:
        for name in names(load):
            await channel.queue_delete(name)


async def shut_for_long(proxy: TcpProxy, load: JobLoad) -> None:
    await proxy.shut()
    await proxy.cut()
    await asyncio.sleep(3)
    await proxy.listen()


async def test_consumers_come_back_when_nothing_else_is_called(
    amqp_url: str, queue_prefix: str, figures: Figures
) -> None:
    """A program that only works, and sends nothing, is back after every loss; another sends it jobs."""
    figures.name = "RabbitMQ: consumers lost their queue, channel or connection"
    alone: list[Break] = [delete_queue, unknown_delivery_tag, shut_for_long, closed_by_a_heartbeat]
    async with (
        TcpProxy.before(amqp_url) as proxy,
        job_load(figures, proxy.url_of(amqp_url), queue_prefix, sender_url=amqp_url) as load,
    ):
        for _ in range(5):
            await load.enqueue(load.plain)
        await load.finished()
        for number in range(fault_count(len(alone), share=0.1)):
            await alone[number % len(alone)](proxy, load)
            figures.faults += 1
            with figures.stall():
                await consumed(amqp_url, load)
            for _ in range(5):
                assert await load.enqueue(load.plain)
            await load.finished()


async def closed_by_a_heartbeat(proxy: TcpProxy, load: JobLoad) -> None:
    """The connection breaks on the broker's side alone: only what comes next from it tells."""
    proxy.answers.budget = 1
    await unknown_delivery_tag(proxy, load)
    await asyncio.sleep(0.2)
    proxy.heal()


async def consumed(url: str, load: JobLoad) -> None:
    """Wait until each queue has its consumer, asking the broker by another connection."""
    async with asyncio.timeout(20):
        for name in names(load):
            while await consumers(url, name) != 1:  # noqa: ASYNC110  the broker tells nobody
                await asyncio.sleep(0.1)


async def consumers(url: str, name: str) -> int:
    async with raw_channel(url) as channel:
        try:
            return (await channel.queue_declare(name, passive=True)).consumer_count or 0
        except aiormq.exceptions.ChannelNotFoundEntity:
            return 0


def names(load: JobLoad) -> list[str]:
    return [queue._messages().queues.names.main for queue in load.worker._jobs.queues.values()]  # type: ignore[attr-defined]
