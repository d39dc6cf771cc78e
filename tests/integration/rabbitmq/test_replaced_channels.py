"""A publishing channel that may not reach a queue's leader gives way to another, and what is on its way over it gets through."""

from __future__ import annotations

import asyncio

import pytest

import services
from specstar.backends.rabbitmq import link as link_module
from specstar.backends.rabbitmq import outbox
from specstar.backends.rabbitmq.faults import NotTakenError
from specstar.backends.rabbitmq.link import Link
from specstar.backends.rabbitmq.queue import RabbitMQQueue
from specstar.errors import BackendUnavailable
from tests.conformance.jobs.harness import eventually, eventually_gives
from tests.integration.rabbitmq.rig import Rig, message, nothing_more, open_rig, take_and_ack

pytestmark = pytest.mark.xdist_group("rabbitmq-faults")


async def _link(rig: Rig) -> Link:
    return await rig.built[0].live_link()


async def _fill(queue: RabbitMQQueue) -> None:
    for number in range(100):
        await queue.publish(message(number))


async def test_what_is_under_way_over_a_replaced_channel_is_confirmed_once(rig: Rig) -> None:
    queue = rig.queue()
    await queue.publish(message("first"))
    link = await _link(rig)
    replaced = link.publisher
    assert replaced is not None
    async with asyncio.TaskGroup() as group:
        for number in range(500):
            group.create_task(queue.publish(message(number)))
        await asyncio.sleep(0)
        link.replace_publisher(replaced)
        link.replace_publisher(replaced)
        for number in range(500, 1000):
            group.create_task(queue.publish(message(number)))
    assert link.publisher is not replaced
    assert link.publisher is not None
    await eventually(lambda: replaced.channel.is_closed)
    assert link.live
    async with queue.consume(prefetch=100) as consumer:
        taken = await take_and_ack(consumer, 1001)
        assert await nothing_more(consumer)
    assert {item.id for item in taken} == {"first", *map(str, range(1000))}


async def test_closing_waits_for_what_is_under_way_over_a_replaced_channel(amqp_url: str, queue_prefix: str) -> None:
    async with open_rig(amqp_url, queue_prefix, keep=True) as rig:
        queue = rig.queue()
        await queue.publish(message("first"))
        link = await _link(rig)
        assert link.publisher is not None
        sent = [asyncio.create_task(queue.publish(message(number))) for number in range(300)]
        await asyncio.sleep(0)
        link.replace_publisher(link.publisher)
        await rig.close()
        assert await asyncio.gather(*sent) == [None] * 300
    async with open_rig(amqp_url, queue_prefix) as rig, rig.queue().consume(prefetch=100) as consumer:
        assert len(await take_and_ack(consumer, 301)) == 301


async def test_a_quorum_queue_that_was_full_takes_more_once_its_policy_is_gone(
    private_rabbitmq: services.RabbitMQServer, queue_prefix: str
) -> None:
    """The broker would go on to refuse, over the channel over which it has refused."""
    policy = '{"max-length": 2}'
    await asyncio.to_thread(private_rabbitmq.ctl, "set_policy", "narrow", f"^{queue_prefix}job$", policy)
    async with open_rig(private_rabbitmq.url, queue_prefix, queue_type="quorum") as rig:
        queue = rig.queue()
        for _ in range(2):
            with pytest.raises(NotTakenError):
                await _fill(queue)
        await asyncio.to_thread(private_rabbitmq.ctl, "clear_policy", "narrow")
        await eventually_gives(lambda: _takes(queue))
        async with asyncio.timeout(outbox._PATIENCE_SECONDS):
            await _fill(queue)


async def _takes(queue: RabbitMQQueue) -> bool:
    try:
        await queue.publish(message("again"))
    except NotTakenError:
        return False
    return True


async def test_a_full_quorum_queue_is_told_to_programs_that_come_later(
    private_rabbitmq: services.RabbitMQServer, queue_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks like one without a leader at first: they try for a while, over few channels, and are told to come later."""
    monkeypatch.setattr(outbox, "_PATIENCE_SECONDS", 1.0)
    policy = '{"max-length": 2}'
    await asyncio.to_thread(private_rabbitmq.ctl, "set_policy", "narrow", f"^{queue_prefix}job$", policy)
    opened: list[bool] = []
    open_channel = Link.open_channel

    async def counted(link: Link, *, confirms: bool) -> object:
        opened.append(confirms)
        return await open_channel(link, confirms=confirms)

    async with open_rig(private_rabbitmq.url, queue_prefix, queue_type="quorum") as first:
        queue = first.queue()
        with pytest.raises(NotTakenError):
            await _fill(queue)
        monkeypatch.setattr(Link, "open_channel", counted)
        async with open_rig(private_rabbitmq.url, queue_prefix, keep=True, queue_type="quorum") as later:
            full, other = later.queue(), later.queue("other")
            answers = await asyncio.gather(
                *(full.publish(message(number)) for number in range(200)),
                full.publish_many([message(number) for number in range(200, 400)]),
                return_exceptions=True,
            )
            assert {type(answer) for answer in answers} == {NotTakenError}
            assert all(isinstance(answer, BackendUnavailable) for answer in answers)
            await other.publish_many([message(number) for number in range(50)])
            async with other.consume(prefetch=10) as consumer:
                assert len(await take_and_ack(consumer, 50)) == 50
            # Each took as long as it was told to: a channel at most for each of these times.
            assert 2 <= opened.count(True) <= 2 + 3 * outbox._PATIENCE_SECONDS / link_module._REPLACE_SECONDS
            async with queue.consume(prefetch=100) as consumer:
                await take_and_ack(consumer, 2)
            await full.publish(message("now"))
