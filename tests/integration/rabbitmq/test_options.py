"""Every option has its effect on a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from specstar.backends.rabbitmq.faults import QueueMismatchError
from specstar.backends.rabbitmq.names import shard_of
from specstar.errors import BackendError, BackendUnavailable
from tests.faults.tools.tcp_proxy import TcpProxy
from tests.integration.rabbitmq.rig import (
    Rig,
    message,
    open_rig,
    raw_channel,
    send_dead,
    some_dead_letters,
    take,
    take_and_ack,
)


async def test_queue_prefix_begins_the_names_of_all_queues(amqp_url: str, queue_prefix: str, rig: Rig) -> None:
    queue = rig.queue("send email")
    await queue.publish(message(1))
    async with queue.consume(prefetch=1), raw_channel(amqp_url) as channel:
        for suffix in ("", ":retry:q", ":dead", ":partitions"):
            await channel.queue_declare(f"{queue_prefix}send@20email{suffix}", passive=True)


async def test_queues_and_messages_are_durable(amqp_url: str, rig: Rig) -> None:
    queue = rig.queue()
    await queue.publish(message(1))
    await send_dead(queue, message(2), "why")
    async with raw_channel(amqp_url) as channel:
        for name in (queue.queues.names.main, queue.queues.names.dead):
            await channel.queue_declare(name, passive=True, durable=True)
            assert (await channel.basic_get(name)).header.properties.delivery_mode == 2


async def test_factory_carries_the_retry_options(amqp_url: str, queue_prefix: str) -> None:
    async with open_rig(amqp_url, queue_prefix, keep=True, max_retries=7, retry_delay_seconds=1.5) as rig:
        factory = rig.provider.message_queue_factory(rig.context)
        assert (factory.max_retries, factory.retry_delay_seconds, factory.durable) == (7, 1.5, True)


async def test_retry_delay_is_the_ttl_of_the_retry_queue(amqp_url: str, queue_prefix: str) -> None:
    async with open_rig(amqp_url, queue_prefix, retry_delay_seconds=12.34) as rig:
        queue = rig.queue()
        await queue.publish(message(1), delay=12.34)
        async with raw_channel(amqp_url) as channel:
            assert (await channel.queue_declare(queue.queues.names.retry, passive=True)).message_count == 1


async def test_another_retry_delay_on_the_same_queues_works_beside_it(
    amqp_url: str, queue_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_rig(amqp_url, queue_prefix, retry_delay_seconds=30) as first:
        await first.queue().publish(message(1), delay=30)
        async with open_rig(amqp_url, queue_prefix, keep=True, retry_delay_seconds=0.2) as second:
            queue = second.queue()
            async with queue.consume(prefetch=1) as consumer:
                await queue.publish(message(2), delay=0.2)
                assert (await take_and_ack(consumer, 1))[0].id == "2"
    assert "retry_delay_seconds" in caplog.text


async def test_delay_queue_type_is_that_of_what_waits_and_both_work_side_by_side(
    amqp_url: str, queue_prefix: str
) -> None:
    async with (
        open_rig(amqp_url, queue_prefix, retry_delay_seconds=0.2, delay_queue_type="classic") as classic,
        open_rig(amqp_url, queue_prefix, keep=True, retry_delay_seconds=0.2) as quorum,
    ):
        waits = []
        for number, rig in enumerate((classic, quorum)):
            queue = rig.queue()
            await queue.publish(message(f"delayed {number}"), delay=0.3)
            await queue.publish(message(f"retried {number}"), delay=0.2)
            waits += [queue.queues.retry, queue.queues.delay(queue.queues.names.main, 300)]
        assert [spec.arguments["x-queue-type"] for spec in waits] == ["classic"] * 2 + ["quorum"] * 2
        async with raw_channel(amqp_url) as channel:
            for spec in waits:
                await channel.queue_declare(spec.name, durable=True, arguments=spec.arguments)
        async with quorum.queue().consume(prefetch=4) as consumer:
            ids = sorted(item.id for item in await take_and_ack(consumer, 4))
    assert ids == ["delayed 0", "delayed 1", "retried 0", "retried 1"]


async def test_heartbeat_is_agreed_with_the_broker(amqp_url: str, queue_prefix: str) -> None:
    async with open_rig(amqp_url, queue_prefix, keep=True, amqp_heartbeat_seconds=17) as rig:
        link = await (await rig.connection()).link(1)
        assert link._connection.heartbeat_timeout == 17
        assert link._connection.connection_tune.heartbeat == 17


async def test_max_priority_of_the_options_is_the_default(amqp_url: str, queue_prefix: str) -> None:
    async with open_rig(amqp_url, queue_prefix, max_priority=5) as rig:
        queue = rig.queue()
        await queue.publish_many([message("low", priority=0), message("high", priority=5)])
        async with queue.consume(prefetch=1) as consumer:
            assert [item.id for item in await take_and_ack(consumer, 2)] == ["high", "low"]
        with pytest.raises(
            QueueMismatchError, match=r"x-max-priority \(option max_priority\): here 3, there 5.*rabbitmqctl"
        ):
            async with open_rig(amqp_url, queue_prefix, keep=True) as other:
                await other.queue(max_priority=3).publish(message(1))


async def test_a_priority_that_the_queue_does_not_have_is_logged_once(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    plain, some = rig.queue("plain"), rig.queue("some", max_priority=5)
    await plain.publish(message(1))
    await some.publish_many([message(number, priority=number) for number in (0, 5)])
    assert caplog.messages == []
    for _ in range(2):
        await plain.publish(message(2, priority=3))
        await some.publish_many([message(number, priority=number) for number in (1, 9)])
    assert [text.partition(", the max_priority of its queue")[0] for text in caplog.messages] == [
        "job 'plain': priority 3 counts as 0",
        "job 'some': priority 9 counts as 5",
    ]


async def test_work_and_dead_letters_do_not_fill_the_memory_of_older_brokers(amqp_url: str, rig: Rig) -> None:
    queue = rig.queue()
    await queue.publish(message(1))
    await queue.publish(message(2, partition_key="k"))
    await send_dead(queue, message(3), "why")
    shard = queue.queues.shard(shard_of("k", queue.queues.shards))
    for spec in (queue.queues.main, queue.queues.dead, shard):
        async with raw_channel(amqp_url) as channel:
            with pytest.raises(Exception, match=r"inequivalent arg 'x-queue-mode'.*current is the value 'lazy'"):
                await channel.queue_declare(spec.name, durable=True, arguments=spec.without({"x-queue-mode"}).arguments)


async def test_queues_that_are_there_without_the_lazy_mode_are_used_as_they_are(
    amqp_url: str, queue_prefix: str
) -> None:
    async with open_rig(amqp_url, queue_prefix) as rig:
        queue = rig.queue()
        async with raw_channel(amqp_url) as channel:
            for spec in (queue.queues.main, queue.queues.dead, queue.queues.shard(0)):
                await channel.queue_declare(spec.name, durable=True, arguments=spec.without({"x-queue-mode"}).arguments)
        await asyncio.gather(*(queue.publish(message(number)) for number in range(10)))
        await queue.publish_many([message(number, partition_key=str(number)) for number in range(10, 30)])
        assert await queue.depth() == await queue.depth() == 30
        async with queue.consume(prefetch=30) as consumer:
            taken = {item.id for item in await take_and_ack(consumer, 30)}
        assert taken == {str(number) for number in range(30)}
        await send_dead(queue, message("dead"), "why")
        assert len(await queue.dead_letters()) == 1


async def test_queue_type_quorum_does_all_that_classic_does(amqp_url: str, queue_prefix: str) -> None:
    options: dict[str, Any] = {
        "queue_type": "quorum",
        "retry_delay_seconds": 0.2,
        "quorum_delivery_limit": 3,
        "partition_shards": 2,
    }
    async with open_rig(amqp_url, queue_prefix, **options) as rig:
        queue = rig.queue()
        await queue.publish(message(1))
        await queue.publish(message("p", partition_key="k"))
        await queue.publish(message("later"), delay=0.3)
        seen: set[tuple[str, int]] = set()
        async with queue.consume(prefetch=3) as consumer:
            while len(seen) < 3:
                delivery = await take(consumer)
                if delivery.message == message(1):
                    await delivery.retry(message(1, attempts=1), delay=0.2)
                else:
                    seen.add((delivery.message.id, delivery.message.attempts))
                    await delivery.ack()
        assert seen == {("1", 1), ("p", 0), ("later", 0)}
        await queue.publish(message("poison", attempts=1))
        for _ in range(4):
            async with queue.consume(prefetch=1) as consumer:
                assert (await take(consumer)).message.id == "poison"
        letters = await some_dead_letters(queue)
        assert (letters[0].message.id, letters[0].message.attempts) == ("poison", 1 + 4)
        assert "more than 3 times" in letters[0].reason
        for _ in range(30):
            assert len(await queue.dead_letters()) == 1  # looking does not wear it out
        with pytest.raises(QueueMismatchError, match=r"\(option queue_type\): here none, there ''"):
            async with open_rig(amqp_url, queue_prefix, keep=True, partition_shards=2) as other:
                await other.queue().publish(message(1))


async def test_queues_of_the_other_type_are_told_by_the_option(amqp_url: str, queue_prefix: str) -> None:
    async with open_rig(amqp_url, queue_prefix) as rig:
        await rig.queue().publish(message(1))
        with pytest.raises(QueueMismatchError, match=r"\(option queue_type\)"):
            async with open_rig(amqp_url, queue_prefix, keep=True, queue_type="quorum") as other:
                await other.queue().publish(message(1))


async def test_connect_timeout_bounds_a_silent_server(queue_prefix: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"amqp://guest:guest@127.0.0.1:{silent.getsockname()[1]}/"
        async with open_rig(url, queue_prefix, keep=True, connect_timeout_seconds=0.3) as rig:
            start = time.monotonic()
            with pytest.raises(BackendUnavailable, match=r"no connection to 127.0.0.1:\d+ within 0.3 s"):
                await rig.queue().publish(message(1))
            assert time.monotonic() - start < 3


async def test_publish_timeout_bounds_a_broker_that_went_silent(amqp_url: str, queue_prefix: str) -> None:
    async with (
        TcpProxy.before(amqp_url) as proxy,
        open_rig(proxy.url_of(amqp_url), queue_prefix, publish_timeout_seconds=0.5) as rig,
    ):
        queue = rig.queue()
        await queue.publish(message(1))
        proxy.hold()
        start = time.monotonic()
        for publish in (queue.publish(message(2)), queue.publish_many([message(3), message(4)])):
            with pytest.raises(BackendUnavailable, match="did not confirm in time"):
                await publish
        assert time.monotonic() - start < 5
        proxy.heal()
        await queue.publish(message(5))


async def test_operation_timeout_bounds_a_request(amqp_url: str, queue_prefix: str) -> None:
    async with (
        TcpProxy.before(amqp_url) as proxy,
        open_rig(proxy.url_of(amqp_url), queue_prefix, operation_timeout_seconds=0.5) as rig,
    ):
        queue = rig.queue()
        await queue.publish(message(1))
        proxy.hold()
        start = time.monotonic()
        with pytest.raises(BackendUnavailable):
            await queue.depth()
        assert time.monotonic() - start < 5
        proxy.heal()
        assert await queue.depth() == 1


async def test_max_unconfirmed_bounds_what_is_in_flight(amqp_url: str, queue_prefix: str) -> None:
    async with (
        TcpProxy.before(amqp_url) as proxy,
        open_rig(proxy.url_of(amqp_url), queue_prefix, max_unconfirmed=10) as rig,
    ):
        queue = rig.queue()
        await queue.publish(message("first"))
        publisher = (await queue.live_link()).publisher
        assert publisher is not None
        proxy.hold()
        tasks = [asyncio.create_task(queue.publish(message(number))) for number in range(100)]
        await asyncio.sleep(0.1)
        assert publisher._in_flight == 10
        proxy.heal()
        await asyncio.gather(*tasks)
        assert await queue.depth() == 101


async def test_a_delay_queue_expires_and_is_renewed_in_time(amqp_url: str, queue_prefix: str) -> None:
    options: dict[str, Any] = {"delay_queue_expiry_seconds": 2.2, "publish_timeout_seconds": 1.0}
    async with open_rig(amqp_url, queue_prefix, **options) as rig:
        queue = rig.queue()
        async with queue.consume(prefetch=10) as consumer:
            # Twice the life of the queue: only renewing keeps it, and with it what is inside.
            for number in range(11):
                await queue.publish(message(number), delay=0.5)
                await asyncio.sleep(0.4)
            assert [int(item.id) for item in await take_and_ack(consumer, 11)] == list(range(11))
        name = queue.queues.delay(queue.queues.names.main, 500).name
        await asyncio.sleep(3.5)
        async with raw_channel(amqp_url) as channel:
            with pytest.raises(Exception, match="no queue"):
                await channel.queue_declare(name, passive=True)
        await queue.publish(message("again"), delay=0.01)
        await queue.publish(message("again"), delay=0.5)


async def test_the_expiry_can_change_while_jobs_wait(amqp_url: str, queue_prefix: str) -> None:
    """From the default of earlier versions to that of now."""
    async with (
        open_rig(amqp_url, queue_prefix, delay_queue_expiry_seconds=300) as earlier,
        open_rig(amqp_url, queue_prefix) as now,
    ):
        queue = now.queue()
        async with queue.consume(prefetch=2) as consumer:
            await earlier.queue().publish(message("earlier"), delay=0.5)
            await queue.publish(message("now"), delay=0.5)
            assert {item.id for item in await take_and_ack(consumer, 2)} == {"earlier", "now"}
        await earlier.queue().publish(message("earlier"), delay=60)
        await queue.publish(message("now"), delay=60)
        assert await queue.purge() == 2


async def test_consumer_timeout_is_written_to_the_queue(amqp_url: str, queue_prefix: str) -> None:
    async with open_rig(amqp_url, queue_prefix, consumer_timeout_seconds=7200) as rig:
        queue = rig.queue()
        assert queue.queues.main.arguments["x-consumer-timeout"] == 7_200_000
        await queue.publish(message(1))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda url: url.replace("specstar_owner", "nobody"), "refused the login: check user and password"),
        (lambda url: f"{url}missing%2Fvhost", "refused the vhost"),
    ],
)
async def test_a_wrong_login_is_said_at_once(
    amqp_url: str, queue_prefix: str, change: Callable[[str], str], expected: str
) -> None:
    url = change(amqp_url)
    password = urlsplit(amqp_url).password or "?"
    async with open_rig(url, queue_prefix, keep=True) as rig:
        with pytest.raises(BackendError, match=expected) as caught:
            await rig.queue().publish(message(1))
    assert password not in str(caught.value)


async def test_a_port_where_nothing_listens_is_said_at_once(unused_port: int, queue_prefix: str) -> None:
    async with open_rig(f"amqp://u:secret@127.0.0.1:{unused_port}/", queue_prefix, keep=True) as rig:
        with pytest.raises(BackendUnavailable, match=f"cannot connect to 127.0.0.1:{unused_port}") as caught:
            await rig.queue().publish(message(1))
    assert "secret" not in str(caught.value)
    assert str(caught.value).endswith("is the broker running?")
    assert "111" not in str(caught.value).replace(str(unused_port), "")


@pytest.fixture
def silent_address() -> Iterator[str]:
    """An address of this machine that answers no attempt to connect at `port`, as that of a host that is down."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.2", 0))
        listener.listen(0)
        for _ in range(8):  # its queue is full then
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"127.0.0.2:{listener.getsockname()[1]}"


async def test_a_host_with_several_addresses_is_reached_by_the_one_that_answers(
    amqp_url: str, queue_prefix: str, silent_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = silent_address.split(":")
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo

    async def resolve(*args: Any, **kwargs: Any) -> list[Any]:
        (found,) = await real(*args, **kwargs)
        return [(*found[:4], (host, int(port))), found]

    async with open_rig(amqp_url, queue_prefix, connect_timeout_seconds=1.0) as rig:
        with monkeypatch.context() as patched:
            patched.setattr(loop, "getaddrinfo", resolve)
            await rig.queue().publish(message(1))


async def test_a_host_that_is_down_is_given_up_in_time(queue_prefix: str, silent_address: str) -> None:
    url = f"amqp://guest:guest@{silent_address}/"
    async with open_rig(url, queue_prefix, keep=True, connect_timeout_seconds=0.3) as rig:
        with pytest.raises(BackendUnavailable, match=f"no connection to {silent_address} within 0.3 s"):
            await rig.queue().publish(message(1))


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


async def test_tls_against_a_plain_port_is_refused_with_advice(amqp_url: str, queue_prefix: str) -> None:
    async with open_rig(amqp_url.replace("amqp://", "amqps://"), queue_prefix, keep=True) as rig:
        with pytest.raises(BackendError, match=r"127\.0\.0\.1"):
            await rig.queue().publish(message(1))
