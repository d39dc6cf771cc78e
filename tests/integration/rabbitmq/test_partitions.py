"""Messages of one partition key: one at a time over all consumers, in order."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

import pytest

from specstar.backends.rabbitmq import consumer as consumer_module
from specstar.backends.rabbitmq import topology
from specstar.backends.rabbitmq.faults import QueueMismatchError
from specstar.backends.rabbitmq.names import shard_of
from specstar.roles import Consumer, Delivery
from tests.integration.rabbitmq.rig import Rig, message, nothing_more, open_rig, raw_channel, take, take_and_ack


async def test_one_key_is_handled_one_at_a_time_in_order(rig: Rig) -> None:
    queue = rig.queue()
    await queue.publish_many([message(number, partition_key="k", priority=number % 10) for number in range(12)])
    async with queue.consume(prefetch=5) as consumer:
        for number in range(12):
            delivery = await take(consumer)
            assert delivery.message.id == str(number)
            assert await nothing_more(consumer, 0.02)
            await delivery.ack()
    assert await queue.depth() == 0


@pytest.mark.parametrize("partition_prefetch", [1, 8])
async def test_with_prefetch_a_key_does_not_hold_up_another_one_of_its_queue(
    amqp_url: str, queue_prefix: str, partition_prefetch: int
) -> None:
    async with open_rig(amqp_url, queue_prefix, partition_prefetch=partition_prefetch) as rig:
        queue = rig.queue()
        first, second = _neighbours(rig.options.partition_shards)
        await queue.publish_many([message(f"{key}{n}", partition_key=key) for key in (first, second) for n in range(2)])
        async with queue.consume(prefetch=4) as consumer:
            slow = await take(consumer)
            assert slow.message.id == f"{first}0"
            if partition_prefetch == 1:
                assert await nothing_more(consumer)
                await slow.ack()
                order = [f"{first}1", f"{second}0", f"{second}1"]
                assert [item.id for item in await take_and_ack(consumer, 3)] == order
            else:
                assert [item.id for item in await take_and_ack(consumer, 2)] == [f"{second}0", f"{second}1"]
                await slow.ack()
                assert (await take_and_ack(consumer, 1))[0].id == f"{first}1"


def _neighbours(shards: int) -> tuple[str, str]:
    keys = [f"key-{number}" for number in range(100)]
    other = next(key for key in keys[1:] if shard_of(key, shards) == shard_of(keys[0], shards))
    return keys[0], other


async def test_a_worker_from_before_the_first_key_finds_the_partitions(rig: Rig) -> None:
    queue = rig.queue()
    async with queue.consume(prefetch=2) as consumer:
        waiting = asyncio.create_task(take(consumer))
        await asyncio.sleep(0.1)
        await queue.publish(message(1, partition_key="k"))
        await (await waiting).ack()
    assert await queue.depth() == 0


async def test_partitions_are_not_declared_before_a_key_is_used(rig: Rig) -> None:
    queue = rig.queue()
    await queue.publish(message(1))
    async with queue.consume(prefetch=1) as consumer:
        await take_and_ack(consumer, 1)
        link = await queue.live_link()
        assert not link.topology.fresh(queue.queues.shard(0))
        assert await link.topology.declare(queue.queues.partitions) == 0


async def test_a_delayed_or_retried_message_comes_back_to_its_partition(rig: Rig) -> None:
    queue = rig.queue()
    await queue.publish(message("later", partition_key="k"), delay=0.2)
    await queue.publish(message("now", partition_key="k"))
    async with queue.consume(prefetch=2) as consumer:
        delivery = await take(consumer)
        assert delivery.message.id == "now"
        await delivery.retry(message("now", attempts=1, partition_key="k"), delay=rig.options.retry_delay_seconds)
        taken = await take_and_ack(consumer, 2)
        assert {(item.id, item.attempts, item.partition_key) for item in taken} == {("later", 0, "k"), ("now", 1, "k")}


@pytest.mark.parametrize("partition_prefetch", [1, 8])
@pytest.mark.parametrize("shares", [False, True])
async def test_two_workers_never_run_one_key_at_once_also_while_they_stop(
    amqp_url: str, queue_prefix: str, partition_prefetch: int, shares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "_SHARE_SECONDS", 0.02)
    running: dict[str, int] = {}
    seen: dict[str, list[int]] = {}
    total, done = 300, asyncio.Event()

    async with (
        open_rig(amqp_url, queue_prefix, partition_prefetch=partition_prefetch) as one,
        open_rig(amqp_url, queue_prefix, keep=True, partition_prefetch=partition_prefetch) as two,
    ):
        sent: dict[str, int] = {}
        messages = []
        for number in range(total):
            key = f"key-{random.Random(number).randrange(12)}"
            sent[key] = sent.get(key, -1) + 1
            messages.append(message(f"{key}/{sent[key]}", partition_key=key))
        await one.queue().publish_many(messages)

        async def handle(delivery: Delivery) -> None:
            key, _, number = delivery.message.id.partition("/")
            assert not running.get(key)
            running[key] = 1
            await asyncio.sleep(random.uniform(0, 0.004))
            running[key] = 0
            seen.setdefault(key, []).append(int(number))
            await delivery.ack()
            if sum(map(len, seen.values())) == total:
                done.set()

        async def receive(consumer: Consumer) -> None:
            while True:
                await handle(await consumer.receive())

        async def worker(rig: Rig, seconds: float) -> None:
            while not done.is_set():
                async with rig.queue().consume(prefetch=4) as consumer:
                    if shares:
                        consumer.share_partitions()
                    tasks = [asyncio.create_task(receive(consumer)) for _ in range(4)]
                    await asyncio.wait([asyncio.create_task(done.wait())], timeout=seconds)
                    await consumer.stop()
                    results = await asyncio.gather(*tasks, return_exceptions=True)
                    assert not [result for result in results if isinstance(result, AssertionError)]

        async with asyncio.timeout(60):
            await asyncio.gather(worker(one, 0.15), worker(two, 0.2))
        one.built[1:] = []
        two.built.clear()
    assert {key: sorted(set(numbers)) for key, numbers in seen.items()} == {
        key: list(range(last + 1)) for key, last in sent.items()
    }
    assert all(numbers == sorted(numbers) for numbers in seen.values())


@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_workers_that_come_later_get_their_share_of_the_partitions(
    amqp_url: str, queue_prefix: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, and none of them twice at once."""
    monkeypatch.setattr(consumer_module, "_SHARE_SECONDS", 0.1)
    options: dict[str, Any] = {"queue_type": kind, "partition_shards": 6}
    handled: dict[str, set[str]] = {"first": set(), "second": set(), "third": set()}
    seen: dict[str, list[int]] = {}
    running: set[str] = set()
    all_work = asyncio.Event()

    async with (
        open_rig(amqp_url, queue_prefix, **options) as one,
        open_rig(amqp_url, queue_prefix, keep=True, **options) as two,
        open_rig(amqp_url, queue_prefix, keep=True, **options) as three,
    ):

        async def send() -> None:
            for number in itertools.count():
                keys = [f"key-{key}" for key in range(24)]
                await one.queue().publish_many([message(f"{key}/{number}", partition_key=key) for key in keys])
                await asyncio.sleep(0.05)

        async def work(rig: Rig, name: str) -> None:
            async with rig.queue().consume(prefetch=6) as consumer:
                consumer.share_partitions()

                async def handle() -> None:
                    while True:
                        delivery = await consumer.receive()
                        key, _, number = delivery.message.id.partition("/")
                        assert key not in running
                        running.add(key)
                        await asyncio.sleep(0.002)
                        running.discard(key)
                        seen.setdefault(key, []).append(int(number))
                        await delivery.ack()
                        handled[name].add(key)
                        if all(handled.values()):
                            all_work.set()

                async with asyncio.TaskGroup() as slots:
                    for _ in range(6):
                        slots.create_task(handle())

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            tasks = [group.create_task(send()), group.create_task(work(one, "first"))]
            while len(handled["first"]) < 12:  # noqa: ASYNC110  counted by others
                await asyncio.sleep(0.01)
            tasks += [group.create_task(work(two, "second")), group.create_task(work(three, "third"))]
            await all_work.wait()
            for task in tasks:
                task.cancel()
    assert all(numbers == sorted(numbers) for numbers in seen.values())


async def test_another_number_of_shards_is_refused_with_advice(amqp_url: str, queue_prefix: str) -> None:
    async with open_rig(amqp_url, queue_prefix, partition_shards=4) as rig:
        await rig.queue().publish(message(1, partition_key="k"))
        async with open_rig(amqp_url, queue_prefix, keep=True, partition_shards=5) as other:
            with pytest.raises(QueueMismatchError, match=r"option partition_shards.*here 5, there 4.*delete_queue"):
                await other.queue().publish(message(2, partition_key="k"))
            with pytest.raises(QueueMismatchError, match="partition_shards"):
                async with other.queue().consume(prefetch=1):
                    pass


async def test_partitions_are_found_again_after_an_operator_purged_the_queues(
    amqp_url: str, queue_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_rig(amqp_url, queue_prefix) as one, open_rig(amqp_url, queue_prefix, keep=True) as two:
        queue = one.queue()
        await queue.publish(message(1, partition_key="k"))
        async with raw_channel(amqp_url) as channel:
            for name in (queue.queues.names.partitions, queue.queues.names.shard(shard_of("k", queue.queues.shards))):
                await channel.queue_purge(name)
        assert await queue.depth() == 0
        await queue.publish(message(2, partition_key="k"))
        monkeypatch.setattr(topology, "_ANNOUNCED_SECONDS", 0.0)
        await asyncio.gather(*[queue.publish(message(number, partition_key="k")) for number in range(3, 6)])
        assert await two.queue().depth() == 4
        async with two.queue().consume(prefetch=1) as consumer:
            assert {found.id for found in await take_and_ack(consumer, 4)} == {"2", "3", "4", "5"}
