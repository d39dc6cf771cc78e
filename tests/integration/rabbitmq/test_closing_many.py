"""Many consumers close at once, as those of a worker of many jobs do."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from tests.integration.rabbitmq.rig import Rig, message, take

QUEUES = 60
EACH = 3


async def test_acks_are_sent_before_the_channels_close(rig: Rig) -> None:
    queues = [rig.queue(f"jobs{number}") for number in range(QUEUES)]
    for queue in queues:
        await queue.publish_many([message(f"{queue.name}-{number}") for number in range(EACH)])
    ready = asyncio.Barrier(QUEUES)

    async def work(stack: AsyncExitStack, place: int) -> None:
        consumer = await stack.enter_async_context(queues[place].consume(prefetch=EACH))
        taken = [await take(consumer) for _ in range(EACH)]
        await consumer.stop()
        await ready.wait()
        for delivery in taken:
            await delivery.ack()

    async def work_and_leave(place: int) -> None:
        async with AsyncExitStack() as stack:
            await work(stack, place)

    async with asyncio.TaskGroup() as group:
        for place in range(QUEUES):
            group.create_task(work_and_leave(place))
    assert [await queue.depth() for queue in queues] == [0] * QUEUES
