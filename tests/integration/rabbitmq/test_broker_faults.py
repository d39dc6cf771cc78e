"""A broker of our own that is killed, restarted, alarmed and made impatient."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

import services
from specstar.backends.rabbitmq.consumer import RabbitMQConsumer
from specstar.backends.rabbitmq.queue import RabbitMQQueue
from specstar.errors import BackendUnavailable
from specstar.roles import Consumer
from tests.integration.rabbitmq.rig import Rig, message, open_rig, raw_channel, some_dead_letters, take, take_and_ack

pytestmark = [pytest.mark.xdist_group("rabbitmq-faults"), pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def broker() -> Iterator[services.RabbitMQServer]:
    """Lets a handler hold a message for two seconds only."""
    with services.rabbitmq(internals={"consumer_timeout": 2000, "channel_tick_interval": 500}) as server:
        yield server


@pytest.fixture
async def own_rig(broker: services.RabbitMQServer, queue_prefix: str) -> AsyncIterator[Rig]:
    async with open_rig(
        broker.url, queue_prefix, keep=True, publish_timeout_seconds=60, delay_queue_expiry_seconds=200
    ) as rig:
        yield rig


@pytest.fixture
async def forgetful_rig(broker: services.RabbitMQServer, queue_prefix: str) -> AsyncIterator[Rig]:
    """What waits may be lost when the broker is killed."""
    async with open_rig(broker.url, queue_prefix, keep=True, delay_queue_type="classic") as rig:
        yield rig


class Load:
    """Publishers and workers that go on whatever happens, and what became of their messages."""

    def __init__(self, rig: Rig) -> None:
        self.queue = rig.queue()
        self.confirmed: set[str] = set()
        self.done: set[str] = set()
        self.refused = 0
        self.stopped = asyncio.Event()

    async def publish(self, caller: int) -> None:
        number = 0
        while not self.stopped.is_set():
            number += 1
            sent = message(f"{caller}-{number}", partition_key=f"k{caller}" if caller % 4 == 0 else None)
            try:
                await self.queue.publish(sent, delay=0.05 if caller % 4 == 1 else 0)
            except BackendUnavailable:
                self.refused += 1
                continue
            self.confirmed.add(sent.id)
            await asyncio.sleep(0.002)

    async def work(self, consumer: Consumer) -> None:
        while True:
            delivery = await consumer.receive()
            self.done.add(delivery.message.id)
            try:
                await delivery.ack()
            except BackendUnavailable:
                continue

    async def finished(self) -> None:
        deadline = time.monotonic() + 60
        while missing := self.confirmed - self.done:
            assert time.monotonic() < deadline, f"confirmed and not received: {sorted(missing)}"
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_nothing_confirmed_is_lost_when_the_node_is_killed_and_restarted_under_load(
    broker: services.RabbitMQServer, own_rig: Rig
) -> None:
    load = Load(own_rig)
    async with load.queue.consume(prefetch=20) as consumer:
        tasks = [asyncio.create_task(load.publish(caller)) for caller in range(16)]
        tasks += [asyncio.create_task(load.work(consumer)) for _ in range(20)]
        await asyncio.sleep(2.5)
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.start)
        await asyncio.sleep(2)
        await asyncio.to_thread(broker.restart)
        await asyncio.sleep(2)
        load.stopped.set()
        await asyncio.wait(tasks[:16])
        await load.finished()
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert not [result for result in results if isinstance(result, Exception)]
    assert len(load.confirmed) > 100


async def test_connections_closed_by_the_broker_come_back_under_load(
    broker: services.RabbitMQServer, own_rig: Rig
) -> None:
    load = Load(own_rig)
    async with load.queue.consume(prefetch=20) as consumer:
        tasks = [asyncio.create_task(load.publish(caller)) for caller in range(8)]
        tasks += [asyncio.create_task(load.work(consumer)) for _ in range(20)]
        await asyncio.sleep(0.5)
        for _ in range(2):
            await asyncio.to_thread(broker.ctl, "close_all_connections", "maintenance")
            await asyncio.sleep(0.5)
        load.stopped.set()
        await asyncio.wait(tasks[:8])
        await load.finished()
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert not [result for result in results if isinstance(result, Exception)]
    assert (load.refused, (await own_rig.connection()).reconnects) == (0, 2)


async def test_a_message_on_its_way_to_the_dead_letters_is_in_hand(
    private_rabbitmq: services.RabbitMQServer,
    queue_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A consumer that can take nothing more while it waits for that is not one that the broker forgot."""
    monkeypatch.setattr("specstar.backends.rabbitmq.consumer._WATCH_SECONDS", 0.2)
    monkeypatch.setattr("specstar.backends.rabbitmq.consumer._POLL_SECONDS", 0.1)
    async with open_rig(private_rabbitmq.url, queue_prefix, keep=True) as rig:
        queue = rig.queue()
        await queue.publish(message("made"))
        async with raw_channel(private_rabbitmq.url) as channel:
            await channel.queue_purge(queue.queues.names.main)
            await channel.basic_publish(b"not ours", routing_key=queue.queues.names.main)
        await queue.publish(message("behind it"))
        # Nobody can send to the dead letters.
        await asyncio.to_thread(private_rabbitmq.ctl, "set_vm_memory_high_watermark", "0.0000001")
        try:
            async with queue.consume(prefetch=1) as consumer:
                assert isinstance(consumer, RabbitMQConsumer)
                looks: set[float] = set()
                async with asyncio.timeout(20):
                    while len(looks) < 10:
                        looks.add(consumer._watched)
                        await asyncio.sleep(0.05)
                assert "consuming anew" not in caplog.text
                await asyncio.to_thread(private_rabbitmq.ctl, "set_vm_memory_high_watermark", "0.4")
                assert [item.id for item in await take_and_ack(consumer, 1)] == ["behind it"]
        finally:
            await asyncio.to_thread(private_rabbitmq.ctl, "set_vm_memory_high_watermark", "0.4")
        assert [letter.message.body for letter in await some_dead_letters(queue)] == [b"not ours"]


async def test_a_memory_alarm_bounds_publishing_and_says_so(broker: services.RabbitMQServer, queue_prefix: str) -> None:
    options = {"publish_timeout_seconds": 1.0, "operation_timeout_seconds": 1.0}
    async with open_rig(broker.url, queue_prefix, keep=True, **options) as rig:
        queue = rig.queue()
        await queue.publish_many([message("before")])
        await asyncio.to_thread(broker.ctl, "set_vm_memory_high_watermark", "0.0000001")
        try:
            for _ in range(2):
                start = time.monotonic()
                results = await asyncio.gather(
                    *[queue.publish(message(number)) for number in range(10)],
                    queue.publish_many([message("many")]),
                    queue.publish(message("later"), delay=5),
                    return_exceptions=True,
                )
                assert time.monotonic() - start < 4
                assert all(isinstance(result, BackendUnavailable) for result in results)
                assert all("blocks publishers" in str(result) for result in results)
            for asking in (queue.depth(), queue.purge(), queue.dead_letters(), queue.requeue_dead()):
                with pytest.raises(BackendUnavailable, match="blocks publishers"):
                    await asking
        finally:
            await asyncio.to_thread(broker.ctl, "set_vm_memory_high_watermark", "0.4")
        async with asyncio.timeout(20):
            while True:
                try:
                    await queue.publish(message("after"))
                    break
                except BackendUnavailable:
                    continue
        async with queue.consume(prefetch=50) as consumer:
            ids = {item.id for item in await take_and_ack(consumer, 2)}
            assert "before" in ids


async def test_a_broker_that_stands_still_is_survived(broker: services.RabbitMQServer, queue_prefix: str) -> None:
    async with open_rig(broker.url, queue_prefix, keep=True, publish_timeout_seconds=1.0) as rig:
        queue = rig.queue()
        async with queue.consume(prefetch=1) as consumer:
            await queue.publish(message("before"))
            await take_and_ack(consumer, 1)
            await asyncio.to_thread(broker.pause)
            try:
                with pytest.raises(BackendUnavailable):
                    await queue.publish(message("during"))
            finally:
                await asyncio.to_thread(broker.resume)
            await queue.publish(message("after"))
            ids = [item.id for item in await take_and_ack(consumer, 1)]
            if ids == ["during"]:
                ids = [item.id for item in await take_and_ack(consumer, 1)]
            assert ids == ["after"]


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
async def test_a_handler_over_the_consumer_timeout_loses_its_delivery_and_nothing_else(
    broker: services.RabbitMQServer, queue_prefix: str, queue_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_rig(broker.url, queue_prefix, keep=True, queue_type=queue_type) as rig:
        queue = rig.queue()
        await queue.publish(message("slow"))
        async with queue.consume(prefetch=2) as consumer:
            slow = await take(consumer)
            if queue_type == "classic" and _version(broker) >= (4, 3):
                await asyncio.sleep(6)  # RabbitMQ 4.3 and later watch quorum queues only
                assert not slow.lost
                await slow.ack()
                return
            async with asyncio.timeout(30):
                while not slow.lost:  # noqa: ASYNC110  the broker checks now and then
                    await asyncio.sleep(0.05)
            again = await take(consumer)
            assert (again.message.id, again.redelivered) == ("slow", True)
            await again.dead(again.message, reason="too slow")
            await queue.publish(message("next"))
            assert (await take_and_ack(consumer, 1))[0].id == "next"
        assert "consumer_timeout" in caplog.text
        assert (await rig.connection()).reconnects == 0
        assert (await some_dead_letters(queue))[0].reason == "too slow"


def _version(broker: services.RabbitMQServer) -> tuple[int, ...]:
    return tuple(int(part) for part in broker.ctl("version").strip().split(".")[:2])


async def test_a_restart_is_noticed_by_all_until_one_has_sent_again_what_may_be_lost(
    broker: services.RabbitMQServer, forgetful_rig: Rig, queue_prefix: str
) -> None:
    queue = forgetful_rig.queue()
    async with open_rig(broker.url, queue_prefix, delay_queue_type="classic") as other_rig:
        other = other_rig.queue()
        assert await queue.may_have_lost()
        await queue.mark_complete()
        assert not await queue.may_have_lost()
        assert not await other.may_have_lost()
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.start)

        async def noticed(queue: RabbitMQQueue) -> None:
            async with asyncio.timeout(30):
                while not await queue.may_have_lost():  # noqa: ASYNC110  asked of a broker
                    await asyncio.sleep(0.05)

        await noticed(queue)
        await noticed(other)
        await queue.mark_complete()
        assert not await queue.may_have_lost()
        assert not await other.may_have_lost()


async def test_a_restart_between_the_question_and_the_answer_is_not_covered_up(
    broker: services.RabbitMQServer, forgetful_rig: Rig
) -> None:
    queue = forgetful_rig.queue()
    assert await queue.may_have_lost()
    await asyncio.to_thread(broker.kill)
    await asyncio.to_thread(broker.start)
    with pytest.raises(BackendUnavailable):
        await queue.mark_complete()
    assert await queue.may_have_lost()
