"""Messages and dead letters that are unlike what specstar sends now: from another limit, another program, another version."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from pamqp.commands import Basic

from tests.integration.rabbitmq.rig import Rig, message, nothing_more, open_rig, raw_channel, take, take_and_ack

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


async def test_a_dead_letter_over_the_present_limit_goes_back_to_work(amqp_url: str, queue_prefix: str) -> None:
    async with open_rig(amqp_url, queue_prefix, max_message_bytes=2000) as rig:
        queue = rig.queue()
        for number in range(3):
            await queue.send_dead(message(number, body=b"b" * (5000 if number == 1 else 10)), "why")
        assert await queue.requeue_dead() == 3
        assert await queue.dead_letters() == []
        async with queue.consume(prefetch=3) as consumer:
            assert {found.id for found in await take_and_ack(consumer, 3)} == {"0", "1", "2"}


async def test_a_message_with_a_priority_out_of_range_can_be_tried_again(amqp_url: str, rig: Rig) -> None:
    queue = rig.queue()
    async with raw_channel(amqp_url) as channel, queue.consume(prefetch=1) as consumer:
        packed = msgspec.msgpack.encode([1, "odd", 0, 77, None, b""])
        await channel.basic_publish(packed, routing_key=queue.queues.names.main)
        delivery = await take(consumer)
        await delivery.retry(delivery.message, delay=0)
        assert [found.id for found in await take_and_ack(consumer, 1)] == ["odd"]
        assert await nothing_more(consumer)


@pytest.mark.parametrize(
    ("headers", "reason", "time"),
    [
        ({"x-specstar-reason": "r", "x-specstar-time": "yesterday"}, "r", None),
        ({"x-specstar-reason": "r", "x-specstar-time": MOMENT}, "r", MOMENT),
        ({"x-specstar-reason": "r", "x-specstar-time": 2**60}, "r", None),
        ({"x-specstar-reason": 7}, "7", None),
        ({"x-death": ["a"]}, "parked by the broker: unknown", None),
        ({"x-death": {"reason": "expired"}}, "parked by the broker: unknown", None),
        ({"x-death": [{"reason": "expired", "time": "yesterday"}]}, "parked by the broker: expired", None),
        ({"x-death": [{"reason": "expired", "time": MOMENT}]}, "parked by the broker: expired", MOMENT),
    ],
)
async def test_odd_headers_stand_in_nobodys_way(
    amqp_url: str, rig: Rig, headers: dict[str, Any], reason: str, time: datetime | None
) -> None:
    queue = rig.queue()
    await queue.send_dead(message("ours"), "why")
    async with raw_channel(amqp_url) as channel:
        await channel.basic_publish(
            b"odd", routing_key=queue.queues.names.dead, properties=Basic.Properties(headers=headers)
        )
    ours, odd = await queue.dead_letters()
    assert odd.reason == reason
    assert time in {None, odd.time}
    assert await queue.requeue_dead([ours.message.id]) == 1
    assert await queue.purge_dead([odd.message.id]) == 1
