"""Queues that the broker cannot make, and that vanish when they are made.

RabbitMQ 3.10 leaves a name behind that no declaration brings back, and for which it closes the connection, when a quorum queue
is deleted in the moment in which it is declared: seen where `purge()` ran beside many senders with delays.
"""

from __future__ import annotations

import asyncio

import pytest

import services
from specstar.backends.rabbitmq.job_queues import QueueSpec
from specstar.backends.rabbitmq.topology import Topology
from specstar.errors import BackendError, BackendUnavailable
from tests.integration.rabbitmq.rig import message, open_rig, raw_channel, take, take_and_ack

pytestmark = [pytest.mark.xdist_group("rabbitmq-faults"), pytest.mark.timeout(180)]


async def stand_in_the_way(broker: services.RabbitMQServer, name: str) -> None:
    """A process that has the name of the queue's own, as the one that is left behind."""
    process = f'list_to_atom("%2F_{name}")'
    await asyncio.to_thread(broker.ctl, "eval", f"register({process}, spawn(timer, sleep, [infinity])).")


async def test_a_job_waits_longer_where_its_delay_queue_cannot_be_made(
    private_rabbitmq: services.RabbitMQServer, queue_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_rig(private_rabbitmq.url, queue_prefix, partition_shards=1) as rig:
        queue = rig.queue()
        main = queue.queues.names.main
        for target, step in ((main, 100), (main, 110), (queue.queues.names.shard(0), 100)):
            await stand_in_the_way(private_rabbitmq, queue.queues.delay(target, step).name)
        await asyncio.gather(*[queue.publish(message(number), delay=0.1) for number in range(10)])
        await queue.publish_many([message(number) for number in range(10, 15)], delay=0.11)
        await queue.publish(message(15, partition_key="k"), delay=0.1)
        connection = await rig.connection()
        lost = connection.reconnects
        await queue.publish(message(16), delay=0.1)
        await queue.publish(message(17, partition_key="k"), delay=0.1)
        assert connection.reconnects == lost
        async with queue.consume(prefetch=20) as consumer:
            arrived: set[str] = set()  # what was on its way when the connection closed may come twice
            while len(arrived) < 18:
                arrived |= {item.id for item in await take_and_ack(consumer, 1)}
        assert "waits in" in caplog.text


async def test_a_retry_waits_elsewhere_where_its_queue_cannot_be_made(
    private_rabbitmq: services.RabbitMQServer, queue_prefix: str
) -> None:
    async with open_rig(private_rabbitmq.url, queue_prefix, retry_delay_seconds=0.2) as rig:
        queue = rig.queue()
        await stand_in_the_way(private_rabbitmq, queue.queues.names.retry)
        async with queue.consume(prefetch=1) as consumer:
            await queue.publish(message(1))
            first = await take(consumer)
            await first.retry(first.message, delay=0.2)
            assert [item.id for item in await take_and_ack(consumer, 1)] == ["1"]
        await queue.publish(message(2), delay=0.2)
        await queue.publish(message(3), delay=1000)
        assert await queue.purge() >= 1
        assert await queue.purge() == 0


async def test_a_queue_of_work_that_cannot_be_made_is_named(
    private_rabbitmq: services.RabbitMQServer, queue_prefix: str
) -> None:
    async with open_rig(private_rabbitmq.url, queue_prefix, keep=True, queue_type="quorum") as rig:
        queue = rig.queue()
        await stand_in_the_way(private_rabbitmq, queue.queues.names.main)
        with pytest.raises(BackendUnavailable, match=r"cannot make queue .*:job' until its node is restarted"):
            await queue.publish(message(1))
        with pytest.raises(BackendUnavailable, match=r"cannot make queue .*:job' until its node is restarted"):
            async with queue.consume(prefetch=1):
                pass


@pytest.mark.parametrize("times", [3, 100])
async def test_a_queue_that_is_deleted_whenever_it_was_declared(
    private_rabbitmq: services.RabbitMQServer, queue_prefix: str, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Some times: another program purges. Always: an error says so."""
    async with (
        open_rig(private_rabbitmq.url, queue_prefix, keep=True) as rig,
        raw_channel(private_rabbitmq.url) as channel,
    ):
        queue = rig.queue()
        name = queue.queues.delay(queue.queues.names.main, 100).name
        ensure, deleted = Topology.ensure, 0

        async def ensure_and_delete(self: Topology, *specs: QueueSpec) -> None:
            nonlocal deleted
            await ensure(self, *specs)
            if deleted < times and name in [spec.name for spec in specs]:
                deleted += 1
                await channel.queue_delete(name)

        monkeypatch.setattr(Topology, "ensure", ensure_and_delete)
        sending = queue.publish(message(1), delay=0.1)
        if times < 100:
            await sending
            assert deleted == times
            async with queue.consume(prefetch=1) as consumer:
                assert [item.id for item in await take_and_ack(consumer, 1)] == ["1"]
        else:
            with pytest.raises(BackendError, match="vanishes as soon as it is declared"):
                await sending
