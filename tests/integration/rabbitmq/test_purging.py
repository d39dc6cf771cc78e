"""`purge()` beside programs that declare the queues it deletes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from specstar.backends.rabbitmq import topology
from specstar.backends.rabbitmq.queue import RabbitMQQueue
from specstar.errors import BackendError, BackendUnavailable
from tests.integration.rabbitmq.rig import message, open_rig, raw_channel, take_and_ack

pytestmark = pytest.mark.timeout(120)


async def announced(queue: RabbitMQQueue) -> topology.Topology:
    """Waits until some program tells that it purges."""
    looks = (await queue.live_link()).topology
    async with asyncio.timeout(20):
        while not await looks.declare(queue.queues.purging):  # noqa: ASYNC110  asked of a broker
            await asyncio.sleep(0.01)
    return looks


async def test_nobody_declares_a_delay_queue_while_a_purge_goes_on(
    amqp_url: str, queue_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ 3.10 does not survive that a quorum queue is deleted while it is made."""
    monkeypatch.setattr(topology, "_PURGE_POLL_SECONDS", 0.01)
    monkeypatch.setattr(topology, "_UNDER_WAY_SECONDS", 3.0)
    async with open_rig(amqp_url, queue_prefix) as rig, open_rig(amqp_url, queue_prefix, keep=True) as other:
        queue, purger = rig.queue(), other.queue()
        await queue.publish(message("here"), delay=1000)
        purging = asyncio.create_task(purger.purge())
        looks = await announced(purger)
        sending = asyncio.create_task(queue.publish(message("new"), delay=2000))
        await queue.publish(message("known"), delay=1000)
        await queue.publish(message("at once"))
        assert not sending.done()
        assert await purging >= 1
        await sending
        assert await looks.declare(purger.queues.purging) == 0
        assert await purger.purge() == 1  # the new one alone


async def test_a_purge_that_ended_with_its_program_holds_nobody_up_for_long(
    amqp_url: str, queue_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topology, "_ANNOUNCED_PURGE_MILLISECONDS", 500)
    monkeypatch.setattr(topology, "_UNDER_WAY_SECONDS", 0.0)
    async with open_rig(amqp_url, queue_prefix) as rig, open_rig(amqp_url, queue_prefix, keep=True) as killed:
        queue = rig.queue()
        gone = (await killed.queue().live_link()).topology
        await gone.announce_purge(queue.queues.purging)
        await queue.publish(message("late"), delay=0.05)
        async with queue.consume(prefetch=1) as consumer:
            assert [item.id for item in await take_and_ack(consumer, 1)] == ["late"]


async def test_a_purge_that_is_cancelled_holds_nobody_up(
    amqp_url: str, queue_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the second in which it waits for others to have seen it."""
    monkeypatch.setattr(topology, "_UNDER_WAY_SECONDS", 60.0)
    async with open_rig(amqp_url, queue_prefix) as rig, open_rig(amqp_url, queue_prefix, keep=True) as other:
        queue, purger = rig.queue(), other.queue()
        purging = asyncio.create_task(purger.purge())
        looks = await announced(queue)
        purging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await purging
        assert await looks.declare(queue.queues.purging) == 0


async def test_a_purge_that_is_cancelled_leaves_the_announcement_of_another(amqp_url: str, queue_prefix: str) -> None:
    async with open_rig(amqp_url, queue_prefix) as rig, open_rig(amqp_url, queue_prefix, keep=True) as other:
        queue = rig.queue()
        looks = (await queue.live_link()).topology
        await looks.announce_purge(queue.queues.purging)
        purger = other.queue()
        waits = (await purger.live_link()).topology
        waiting = asyncio.create_task(purger.purge())
        async with asyncio.timeout(20):
            while not waits.purged:  # noqa: ASYNC110  asked of a broker
                await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await looks.declare(queue.queues.purging) == 1


async def test_a_queue_that_cannot_be_deleted_is_told_with_the_brokers_reason(amqp_url: str, queue_prefix: str) -> None:
    """Not as an answer that did not come."""
    async with open_rig(amqp_url, queue_prefix) as rig, raw_channel(amqp_url) as channel:
        looks = (await rig.queue().live_link()).topology
        name = f"{queue_prefix}exclusive"
        await channel.queue_declare(name, exclusive=True)
        with pytest.raises(BackendError, match="RESOURCE_LOCKED"):
            await looks.delete([f"{queue_prefix}none", name, f"{queue_prefix}neither"])
        assert await looks.delete([f"{queue_prefix}none"]) == 0


async def test_who_waits_in_vain_for_the_end_of_a_purge_is_told_of_it(amqp_url: str, queue_prefix: str) -> None:
    options: dict[str, Any] = {"publish_timeout_seconds": 1.0, "operation_timeout_seconds": 1.0}
    async with open_rig(amqp_url, queue_prefix, **options) as rig, open_rig(amqp_url, queue_prefix, keep=True) as other:
        queue = rig.queue()
        purges = (await other.queue().live_link()).topology
        await purges.announce_purge(queue.queues.purging)
        for asking in (queue.publish(message("new"), delay=1), queue.purge()):
            with pytest.raises(BackendUnavailable, match="a purge of its job goes on"):
                await asking
        await purges.purge(queue.queues.names.purging)
        await queue.publish(message("new"), delay=1)


async def test_purges_at_once_take_turns(amqp_url: str, queue_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology, "_UNDER_WAY_SECONDS", 1.5)
    async with open_rig(amqp_url, queue_prefix) as rig, open_rig(amqp_url, queue_prefix, keep=True) as other:
        one, two = rig.queue(), other.queue()
        await one.publish_many([message(number) for number in range(5)], delay=1000)
        await one.publish_many([message(number) for number in range(5)], delay=2000)
        deleting, most = 0, 0
        delete = topology.Topology.delete

        async def counted(self: topology.Topology, *arguments: Any) -> int:
            nonlocal deleting, most
            deleting += 1
            most = max(most, deleting)
            try:
                return await delete(self, *arguments)
            finally:
                deleting -= 1

        monkeypatch.setattr(topology.Topology, "delete", counted)
        first = asyncio.create_task(one.purge())
        await announced(two)
        removed = await two.purge()
        assert removed + await first == 10
        assert most == 1


async def test_what_becomes_due_during_a_purge_goes_too(
    amqp_url: str, queue_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topology, "_UNDER_WAY_SECONDS", 3.0)
    async with open_rig(amqp_url, queue_prefix) as rig:
        queue = rig.queue()
        await queue.publish_many([message(number) for number in range(5)], delay=2)
        assert await queue.purge() == 5
        assert await queue.depth() == 0
