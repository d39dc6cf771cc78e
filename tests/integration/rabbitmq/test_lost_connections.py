"""The connection breaks between the program and the broker."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from specstar.backends.rabbitmq.delivery import RabbitMQDelivery
from specstar.errors import BackendUnavailable
from specstar.roles import Consumer
from tests.faults.tools.tcp_proxy import TcpProxy
from tests.integration.rabbitmq.rig import Rig, message, nothing_more, open_rig, raw_channel, take, take_and_ack


@pytest.fixture
async def proxy(amqp_url: str) -> AsyncIterator[TcpProxy]:
    async with TcpProxy.before(amqp_url) as proxy:
        yield proxy


@pytest.fixture
async def far_rig(proxy: TcpProxy, amqp_url: str, queue_prefix: str) -> AsyncIterator[Rig]:
    """A process that reaches the broker through the proxy."""
    async with open_rig(
        proxy.url_of(amqp_url), queue_prefix, publish_timeout_seconds=10, delay_queue_expiry_seconds=30
    ) as rig:
        yield rig


async def test_publishers_survive_cuts_and_nothing_confirmed_is_lost(proxy: TcpProxy, far_rig: Rig) -> None:
    queue = far_rig.queue()
    confirmed: set[str] = set()
    stop = asyncio.Event()

    async def publish(caller: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await queue.publish(message(f"{caller}-{number}"))
            confirmed.add(f"{caller}-{number}")

    callers = [asyncio.create_task(publish(caller)) for caller in range(16)]
    connection = await far_rig.connection()
    for cut in range(1, 6):
        before = len(confirmed)
        async with asyncio.timeout(20):
            while len(confirmed) < before + 20:  # noqa: ASYNC110  counted from outside
                await asyncio.sleep(0.01)
            await proxy.cut()
            while connection.reconnects < cut:  # noqa: ASYNC110  the same
                await asyncio.sleep(0.01)
    stop.set()
    await asyncio.gather(*callers)
    assert connection.reconnects == 5
    found: set[str] = set()
    async with queue.consume(prefetch=200) as consumer:
        while not await nothing_more_after_all(consumer, found):
            pass
    assert confirmed <= found


async def nothing_more_after_all(consumer: Consumer, found: set[str]) -> bool:
    try:
        delivery = await take(consumer, 0.3)
    except TimeoutError:
        return True
    found.add(delivery.message.id)
    await delivery.ack()
    return False


async def test_a_publish_in_flight_is_sent_again(proxy: TcpProxy, far_rig: Rig) -> None:
    queue = far_rig.queue()
    await queue.publish(message("first"))
    proxy.hold()
    tasks = [asyncio.create_task(queue.publish(message(number))) for number in range(50)]
    tasks.append(asyncio.create_task(queue.publish_many([message(f"many-{number}") for number in range(50)])))
    await asyncio.sleep(0.1)
    await proxy.cut()
    proxy.heal()
    await asyncio.gather(*tasks)
    assert await queue.depth() == 101


async def test_publishing_while_the_broker_is_down_waits_and_goes_on(proxy: TcpProxy, far_rig: Rig) -> None:
    queue = far_rig.queue()
    await queue.publish(message("before"))
    await proxy.shut()
    await proxy.cut()
    tasks = [asyncio.create_task(queue.publish(message(number))) for number in range(20)]
    await asyncio.sleep(0.4)
    assert not any(task.done() for task in tasks)
    await proxy.listen()
    await asyncio.gather(*tasks)
    assert await queue.depth() == 21


async def test_publishing_while_the_broker_is_down_ends_within_its_timeout(
    proxy: TcpProxy, amqp_url: str, queue_prefix: str
) -> None:
    async with open_rig(proxy.url_of(amqp_url), queue_prefix, publish_timeout_seconds=0.7) as rig:
        queue = rig.queue()
        await queue.publish(message("before"))
        await proxy.shut()
        await proxy.cut()
        publishes: list[Callable[[], Coroutine[Any, Any, None]]] = [
            lambda: queue.publish(message(1)),
            lambda: queue.publish_many([message(2), message(3)]),
            lambda: queue.publish(message(4), delay=3),
            lambda: queue.publish(message(5, partition_key="k")),
        ]
        for publish in publishes:
            start = time.monotonic()
            with pytest.raises(BackendUnavailable):
                await publish()
            assert 0.5 < time.monotonic() - start < 3
        await proxy.listen()
        await asyncio.sleep(2)  # the longest pause between attempts to connect
        await queue.publish(message("after"))
        assert await queue.depth() == 2


async def test_a_consumer_resumes_and_its_old_deliveries_are_lost(proxy: TcpProxy, far_rig: Rig) -> None:
    queue = far_rig.queue()
    await queue.publish_many([message(1), message(2)])
    async with queue.consume(prefetch=1) as consumer:
        delivery = await take(consumer)
        await proxy.cut()
        again = await take(consumer)
        assert delivery.lost
        assert not again.lost
        assert (again.message.id, again.redelivered) == (delivery.message.id, True)
        for end in (
            delivery.ack(),
            delivery.retry(delivery.message, delay=0),
            delivery.dead(delivery.message, reason="x"),
        ):
            with pytest.raises(BackendUnavailable, match="delivered again"):
                await end
        await again.ack()
        await take_and_ack(consumer, 1)
        assert await nothing_more(consumer)
    assert await queue.dead_letters() == []


async def test_a_consumer_resumes_all_it_had(proxy: TcpProxy, far_rig: Rig) -> None:
    queue = far_rig.queue()
    await queue.publish(message("k", partition_key="k"))
    async with queue.consume(prefetch=3) as consumer:
        await take_and_ack(consumer, 1)
        for round_ in range(3):
            await asyncio.sleep(0.1)  # acks are not confirmed: let the broker read them
            await proxy.cut()
            await queue.publish(message(f"plain {round_}"))
            await queue.publish(message(f"keyed {round_}", partition_key="k"))
            await queue.publish(message(f"later {round_}"), delay=0.05)
            ids = {item.id for item in await take_and_ack(consumer, 3)}
            assert ids == {f"plain {round_}", f"keyed {round_}", f"later {round_}"}


async def test_receivers_waiting_during_an_outage_get_what_comes_after(proxy: TcpProxy, far_rig: Rig) -> None:
    queue = far_rig.queue()
    async with queue.consume(prefetch=5) as consumer:
        waiting = [asyncio.create_task(take(consumer)) for _ in range(5)]
        await asyncio.sleep(0.05)
        await proxy.shut()
        await proxy.cut()
        await asyncio.sleep(0.3)
        await proxy.listen()
        await queue.publish_many([message(number) for number in range(5)])
        for delivery in await asyncio.gather(*waiting):
            await delivery.ack()
    assert await queue.depth() == 0


async def test_closing_with_a_silent_broker_ends_in_time(proxy: TcpProxy, amqp_url: str, queue_prefix: str) -> None:
    async with open_rig(proxy.url_of(amqp_url), queue_prefix, keep=True) as rig:
        queue = rig.queue()
        await queue.publish(message(1))
        proxy.hold()
        task = asyncio.create_task(queue.publish(message(2)))
        await asyncio.sleep(0.05)
        start = time.monotonic()
        await rig.lazy.aclose(0.5)
        assert time.monotonic() - start < 3
        with pytest.raises(BackendUnavailable):
            await task
        with pytest.raises(BackendUnavailable, match="closed"):
            await queue.publish(message(3))


async def test_cancelled_at_any_moment_leaks_nothing(amqp_url: str, queue_prefix: str) -> None:
    before = _open_sockets()
    for moment in range(25):
        async with open_rig(amqp_url, f"{queue_prefix}{moment}:", keep=True) as rig:
            queue = rig.queue()

            async def work(rig: Rig = rig) -> None:
                queue = rig.queue()
                await queue.publish(message(1))
                async with queue.consume(prefetch=1) as consumer:
                    delivery = await consumer.receive()
                    await delivery.retry(delivery.message, delay=0.01)
                    await (await consumer.receive()).dead(delivery.message, reason="enough")
                await queue.dead_letters()
                await queue.purge_dead()

            task = asyncio.create_task(work())
            for _ in range(moment * 12):
                await asyncio.sleep(0.0002)
            task.cancel()
            await asyncio.wait([task])
            async with asyncio.timeout(10):
                await queue.publish(message("after"))  # all works on
                async with queue.consume(prefetch=1) as consumer:
                    await (await take(consumer)).ack()
            if rig.built:
                await rig.remove_queues()
    await asyncio.sleep(0.05)
    assert _open_sockets() <= before
    assert len(asyncio.all_tasks()) <= 3


def _open_sockets() -> int:
    count = 0
    for descriptor in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            count += os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")  # noqa: PTH115
        except OSError:
            continue
    return count


async def test_a_channel_error_of_the_publisher_is_healed(rig: Rig) -> None:
    queue = rig.queue()
    await queue.publish(message(1))
    publisher = (await queue.live_link()).publisher
    assert publisher is not None
    tasks = [asyncio.create_task(queue.publish(message(number))) for number in range(2, 50)]
    # An exchange that is not there: the broker closes the channel.
    with pytest.raises(Exception, match="no exchange"):
        await publisher.channel.exchange_declare("missing", passive=True)
    await asyncio.gather(*tasks)
    await queue.publish(message(50))
    assert await queue.depth() >= 50
    assert (await rig.connection()).reconnects == 0


async def test_a_queue_deleted_under_publisher_and_consumer_comes_back(amqp_url: str, rig: Rig) -> None:
    queue = rig.queue()
    await queue.publish(message("first"))
    await queue.publish(message("later"), delay=50)
    names = queue.queues.names
    async with queue.consume(prefetch=2) as consumer:
        await take_and_ack(consumer, 1)
        async with raw_channel(amqp_url) as channel:
            await channel.queue_delete(names.main)
            await channel.queue_delete(queue.queues.delay(names.main, 100).name)
        await queue.publish(message("second"))
        await queue.publish(message("third"), delay=0.1)
        assert {item.id for item in await take_and_ack(consumer, 2)} == {"second", "third"}
        async with raw_channel(amqp_url) as channel:
            await channel.queue_delete(names.main)
        await asyncio.gather(*[queue.publish(message(number)) for number in range(20)])
        assert len(await take_and_ack(consumer, 20)) == 20


@pytest.mark.parametrize("partition_key", [None, "k"])
@pytest.mark.parametrize("gone", [False, True])
async def test_a_consumer_that_the_broker_forgot_consumes_anew(
    amqp_url: str,
    rig: Rig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    partition_key: str | None,
    gone: bool,
) -> None:
    """As that of a quorum queue that was deleted, and at once declared again by a sender."""
    monkeypatch.setattr("specstar.backends.rabbitmq.consumer._WATCH_SECONDS", 0.2)
    queue = rig.queue()
    async with queue.consume(prefetch=2) as consumer:
        await queue.publish(message("first", partition_key=partition_key))
        first = await take(consumer)
        assert isinstance(first, RabbitMQDelivery)
        subscription = first.subscription
        await first.ack()
        await subscription._channel.basic_cancel(subscription._consumer_tag)
        if gone:
            async with raw_channel(amqp_url) as channel:
                await channel.queue_delete(subscription.queue.name)
            async with asyncio.timeout(20):
                while not subscription.lost:  # noqa: ASYNC110  it looks now and then
                    await asyncio.sleep(0.05)
        await queue.publish(message("second", partition_key=partition_key))
        assert [item.id for item in await take_and_ack(consumer, 1)] == ["second"]
    assert subscription.lost
    assert "consuming anew" in caplog.text


async def test_a_forked_child_lets_go_and_leaves_the_parent_alone(rig: Rig) -> None:
    queue = rig.queue()
    await queue.publish(message(1))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            rig.lazy.abandon()
            code = 0
        finally:
            os._exit(code)
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    await queue.publish(message(2))
    assert await queue.depth() == 2
    assert (await rig.connection()).reconnects == 0
