"""Dead letters that are unlike what specstar sends now: from another limit, another program, another version."""

from __future__ import annotations

from tests.integration.rabbitmq.rig import message, open_rig, take_and_ack


async def test_a_dead_letter_over_the_present_limit_goes_back_to_work(amqp_url: str, queue_prefix: str) -> None:
    async with open_rig(amqp_url, queue_prefix, max_message_bytes=2000) as rig:
        queue = rig.queue()
        for number in range(3):
            await queue.send_dead(message(number, body=b"b" * (5000 if number == 1 else 10)), "why")
        assert await queue.requeue_dead() == 3
        assert await queue.dead_letters() == []
        async with queue.consume(prefetch=3) as consumer:
            assert {found.id for found in await take_and_ack(consumer, 3)} == {"0", "1", "2"}
