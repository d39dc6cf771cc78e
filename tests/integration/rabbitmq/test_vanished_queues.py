"""Queues that are gone, or full, when something is sent to them: in the frames of our own, and by the driver's calls."""

from __future__ import annotations

import asyncio

import pytest

import services
from specstar.backends.rabbitmq import wire
from specstar.backends.rabbitmq.faults import NotTakenError
from specstar.backends.rabbitmq.queue import RabbitMQQueue
from specstar.errors import BackendError, LimitExceededError
from tests.integration.rabbitmq.rig import Rig, message, nothing_more, open_rig, raw_channel, take_and_ack

pytestmark = pytest.mark.xdist_group("rabbitmq-faults")


@pytest.fixture(params=["frames", "calls"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How messages are sent."""
    if request.param == "calls":
        monkeypatch.setattr(wire, "problem", lambda _channel: "aiormq has changed")
    return str(request.param)


async def _delete(rig: Rig) -> None:
    async with raw_channel(rig.options.amqp_url) as channel:
        for queue in rig.built:
            await channel.queue_delete(queue.queues.names.main)


async def test_a_queue_that_was_deleted_is_declared_again(rig: Rig) -> None:
    queue = rig.queue()
    await queue.publish(message("before"))
    await _delete(rig)
    await queue.publish(message("alone"))
    async with queue.consume(prefetch=10) as consumer:
        assert [found.id for found in await take_and_ack(consumer, 1)] == ["alone"]
    await _delete(rig)
    await queue.publish_many([message(number) for number in range(50)])
    async with queue.consume(prefetch=10) as consumer:
        assert sorted(int(found.id) for found in await take_and_ack(consumer, 50)) == list(range(50))
        assert await nothing_more(consumer)


async def test_a_queue_that_takes_no_more_refuses_what_it_does_not_take(
    private_rabbitmq: services.RabbitMQServer, queue_prefix: str
) -> None:
    policy = '{"max-length": 2, "overflow": "reject-publish"}'
    await asyncio.to_thread(
        private_rabbitmq.ctl, "set_policy", "narrow", f"^{queue_prefix}", policy, "--apply-to", "queues"
    )
    async with open_rig(private_rabbitmq.url, queue_prefix) as rig:
        queue = rig.queue()
        answers = [await _answer(queue, number) for number in range(20)]
        refused = [error for error in answers if error is not None]
        assert {type(error) for error in refused} == {NotTakenError}
        assert all("refused a message for" in str(error) for error in refused)
        with pytest.raises(BackendError, match=r"refused a message for .*the queue is full"):
            await queue.publish_many([message(number) for number in range(20, 40)])
        # It takes a few more before it says so: all that it took are there.
        assert 0 < len(refused) < 20
        assert await queue.depth() >= 20 - len(refused)


async def _answer(queue: RabbitMQQueue, number: int) -> BackendError | None:
    try:
        await queue.publish(message(number))
    except BackendError as error:
        return error
    return None


async def test_a_message_over_the_limit_of_the_broker_fails_alone(
    private_rabbitmq: services.RabbitMQServer, queue_prefix: str
) -> None:
    def limit_to(size: int) -> None:
        private_rabbitmq.ctl("eval", f"application:set_env(rabbit, max_message_size, {size}).")

    await asyncio.to_thread(limit_to, 100_000)
    try:
        async with open_rig(private_rabbitmq.url, queue_prefix) as rig:
            queue = rig.queue()
            big = queue.publish(message("big", body=b"b" * 200_000))
            results = await asyncio.gather(
                *(queue.publish(message(number)) for number in range(10)), big, return_exceptions=True
            )
            assert results[:10] == [None] * 10
            assert isinstance(results[10], LimitExceededError)
            async with queue.consume(prefetch=10) as consumer:
                # Sent again over the new channel, in case the old one did not get them through: some may come twice.
                seen: set[str] = set()
                while len(seen) < 10:
                    seen |= {found.id for found in await take_and_ack(consumer, 1)}
                assert seen == {str(number) for number in range(10)}
    finally:
        await asyncio.to_thread(limit_to, 128 << 20)
