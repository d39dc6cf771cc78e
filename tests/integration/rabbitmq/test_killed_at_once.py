"""What a node has confirmed in queues that are new is there after a kill: RabbitMQ 3.10 writes such queues down late."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import services
from tests.integration.rabbitmq.rig import message, open_rig, send_dead, take_and_ack

pytestmark = [pytest.mark.xdist_group("rabbitmq-faults"), pytest.mark.timeout(180)]


@pytest.mark.parametrize("delay_queue_type", ["quorum", "classic"])
async def test_a_node_that_is_killed_at_once_keeps_what_is_in_new_queues(
    private_rabbitmq: services.RabbitMQServer, queue_prefix: str, delay_queue_type: str
) -> None:
    options: dict[str, Any] = {"queue_type": "quorum", "delay_queue_type": delay_queue_type, "partition_shards": 4}
    async with open_rig(private_rabbitmq.url, queue_prefix, **options) as rig:
        queue = rig.queue()
        topology = (await queue.live_link()).topology
        await queue.routes.declare_all(topology)
        await topology.ensure(*[queue.queues.shard(number) for number in range(4)])
        sent = [
            message(0),
            message("retried"),
            *[message(f"k{number}", partition_key=f"k{number}") for number in range(9)],
        ]
        await queue.publish_many(sent)
        await send_dead(queue, message("dead"), "why")
        await asyncio.to_thread(private_rabbitmq.kill)
        await asyncio.to_thread(private_rabbitmq.start)
        async with queue.consume(prefetch=20) as consumer:
            assert {found.id for found in await take_and_ack(consumer, len(sent))} == {each.id for each in sent}
        assert [letter.message.id for letter in await queue.dead_letters()] == ["dead"]


@pytest.mark.parametrize("delay_queue_type", ["quorum", "classic"])
async def test_the_queue_that_announces_purges_takes_messages_afterwards(
    private_rabbitmq: services.RabbitMQServer, queue_prefix: str, delay_queue_type: str
) -> None:
    options: dict[str, Any] = {"queue_type": "quorum", "delay_queue_type": delay_queue_type}
    async with open_rig(private_rabbitmq.url, queue_prefix, keep=True, **options) as rig:
        queue = rig.queue()
        await queue.publish(message("waits"), delay=1000)
        await asyncio.to_thread(private_rabbitmq.kill)
        await asyncio.to_thread(private_rabbitmq.start)
        topology = (await queue.live_link()).topology
        await topology.announce_purge(queue.queues.purging)
        assert await topology.declare(queue.queues.purging) == 1
