"""Sending, receiving, retrying and parking on a real broker."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from aiormq.abc import AbstractChannel
from msgspec import structs
from pamqp.commands import Basic

from specstar.backends.rabbitmq import wire
from specstar.backends.rabbitmq.envelope import pack
from specstar.backends.rabbitmq.letter_headers import reason_headers
from specstar.backends.rabbitmq.names import LONGEST_DELAY_SECONDS
from specstar.errors import BackendUnavailable, InvalidInputError, LimitExceededError
from specstar.roles import Consumer, Message
from tests.integration.rabbitmq.rig import (
    Rig,
    message,
    nothing_more,
    open_rig,
    raw_channel,
    send_dead,
    some_dead_letters,
    take,
    take_and_ack,
)


async def test_a_message_comes_back_as_it_was_sent(rig: Rig) -> None:
    sent = Message(id="ä-1", body=bytes(range(256)), attempts=2, priority=7)
    queue = rig.queue()
    await queue.publish(sent)
    async with queue.consume(prefetch=1) as consumer:
        delivery = await take(consumer)
        assert (delivery.message, delivery.redelivered, delivery.lost) == (sent, False, False)
        await delivery.ack()
        await delivery.ack()  # a second end does nothing
    assert await queue.depth() == 0


@pytest.mark.parametrize("size", [0, 1, 131_064, 131_065, 1_000_000, 10 << 20])
async def test_a_body_of_any_size_survives(rig: Rig, size: int) -> None:
    queue = rig.queue()
    body = bytes(size)
    await queue.publish(message("large", body=body))
    async with queue.consume(prefetch=1) as consumer:
        delivery = await take(consumer)
        assert delivery.message.body == body
        await delivery.ack()


async def test_a_message_over_the_limit_is_refused(amqp_url: str, queue_prefix: str) -> None:
    async with open_rig(amqp_url, queue_prefix, max_message_bytes=2000) as rig:
        queue = rig.queue()
        with pytest.raises(LimitExceededError, match="max_message_bytes allows 2000"):
            await queue.publish(message("large", body=bytes(2000)))
        await queue.publish(message("small", body=bytes(1900)))
        assert await queue.depth() == 1


@pytest.mark.parametrize("bad", [message(1, priority=10), message(1, priority=-1), message("\ud800")])
async def test_a_message_that_cannot_be_sent_is_refused(rig: Rig, bad: Message) -> None:
    with pytest.raises(InvalidInputError):
        await rig.queue().publish(bad)


async def test_jobs_of_any_name_have_queues_of_their_own(rig: Rig) -> None:
    names = ["a:retry", "a", "", "ä/../%", "x" * 5000, "x" * 4999, "job\0\n", "@", "a b", "\ud800"]
    queues = [rig.queue(name) for name in names]
    for number, queue in enumerate(queues):
        await queue.publish(message(number))
    for number, queue in enumerate(queues):
        async with queue.consume(prefetch=1) as consumer:
            assert [taken.id for taken in await take_and_ack(consumer, 1)] == [str(number)]
            assert await nothing_more(consumer, 0.02)


async def test_many_callers_and_one_of_many_are_all_delivered_once(rig: Rig) -> None:
    queue = rig.queue()
    await asyncio.gather(*[queue.publish(message(number)) for number in range(1500)])
    await queue.publish_many([message(number) for number in range(1500, 3000)])
    assert await queue.depth() == 3000
    async with queue.consume(prefetch=100) as consumer:
        taken = await take_and_ack(consumer, 3000)
        assert sorted(int(item.id) for item in taken) == list(range(3000))
    assert await queue.depth() == 0


async def test_one_caller_keeps_its_order(rig: Rig) -> None:
    queue = rig.queue()
    for number in range(50):
        await queue.publish(message(number))
    await queue.publish_many([message(number) for number in range(50, 100)])
    async with queue.consume(prefetch=10) as consumer:
        assert [int(item.id) for item in await take_and_ack(consumer, 100)] == list(range(100))


async def test_a_cancelled_publish_harms_no_neighbour(rig: Rig) -> None:
    queue = rig.queue()
    await queue.publish(message("first"))
    tasks = [asyncio.create_task(queue.publish(message(number))) for number in range(200)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(result is None for result in results[1::2])
    async with queue.consume(prefetch=300) as consumer:
        await take_and_ack(consumer, 1)
        ids = set[str]()
        while not await _drained(ids, consumer):
            pass
    assert {str(number) for number in range(1, 200, 2)} <= ids


async def _drained(ids: set[str], consumer: Consumer) -> bool:
    try:
        delivery = await take(consumer, 0.2)
    except TimeoutError:
        return True
    ids.add(delivery.message.id)
    await delivery.ack()
    return False


async def test_prefetch_bounds_what_is_in_hand(rig: Rig) -> None:
    queue = rig.queue()
    await queue.publish_many([message(number) for number in range(5)])
    async with queue.consume(prefetch=2) as consumer:
        first, second = await take(consumer), await take(consumer)
        assert await nothing_more(consumer)
        assert await queue.depth() == 3  # the others are left to other workers
        await second.ack()
        third = await take(consumer)
        assert await nothing_more(consumer)
        for delivery in (first, third):
            await delivery.ack()
        await take_and_ack(consumer, 2)


async def test_a_slow_handler_holds_nobody_back(rig: Rig) -> None:
    queue = rig.queue()
    await queue.publish_many([message(number) for number in range(300)])
    async with queue.consume(prefetch=10) as consumer:
        slow = await take(consumer)
        await take_and_ack(consumer, 299)
        await slow.ack()
    assert await queue.depth() == 0


async def test_acks_in_any_order_acknowledge_what_they_name(rig: Rig) -> None:
    queue = rig.queue()
    await queue.publish_many([message(number) for number in range(20)])
    async with queue.consume(prefetch=20) as consumer:
        deliveries = [await take(consumer) for _ in range(20)]
        for number in (5, 19, 0, 1, 2, 7, 3):
            await deliveries[number].ack()
            await asyncio.sleep(0)
        for number in (4, 6, 8):
            await deliveries[number].ack()
    async with queue.consume(prefetch=20) as consumer:
        left = [await take(consumer) for _ in range(10)]
        assert sorted(int(delivery.message.id) for delivery in left) == [*range(9, 19)]
        assert all(delivery.redelivered for delivery in left)
        for delivery in left:
            await delivery.ack()
    assert await queue.depth() == 0


async def test_a_delivery_without_an_end_comes_again_unchanged(rig: Rig) -> None:
    queue = rig.queue()
    await queue.publish(message(1, attempts=1))
    async with queue.consume(prefetch=1) as consumer:
        await take(consumer)
    async with queue.consume(prefetch=1) as consumer:
        again = await take(consumer)
        assert (again.message, again.redelivered) == (message(1, attempts=1), True)
        await again.ack()


async def test_a_retry_comes_after_its_delay_as_a_new_message(rig: Rig) -> None:
    queue = rig.queue()
    await queue.publish(message(1))
    async with queue.consume(prefetch=1) as consumer:
        for attempts, delay in enumerate([0.0, 0.3, 0.1], start=1):
            delivery = await take(consumer)
            start = time.monotonic()
            await delivery.retry(structs.replace(delivery.message, attempts=attempts), delay=delay)
            delivery = await take(consumer)
            assert time.monotonic() - start >= delay
            assert (delivery.message.attempts, delivery.redelivered) == (attempts, False)
            await delivery.retry(delivery.message, delay=0)
        await take_and_ack(consumer, 1)
        assert await nothing_more(consumer, 0.5)


async def test_a_long_delay_does_not_block_a_short_one(rig: Rig) -> None:
    queue = rig.queue()
    start = time.monotonic()
    await queue.publish(message("long"), delay=3)
    await queue.publish(message("short"), delay=1)
    await queue.publish_many([message("now")])
    await queue.publish_many([message("soon")], delay=2)
    assert await queue.depth() == 1
    async with queue.consume(prefetch=4) as consumer:
        assert [item.id for item in await take_and_ack(consumer, 4)] == ["now", "short", "soon", "long"]
    assert time.monotonic() - start >= 3


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), LONGEST_DELAY_SECONDS + 1])
async def test_a_delay_out_of_range_is_refused(rig: Rig, delay: float) -> None:
    with pytest.raises(InvalidInputError):
        await rig.queue().publish(message(1), delay=delay)


async def test_the_longest_delay_is_taken_by_the_broker(rig: Rig) -> None:
    queue = rig.queue()
    await queue.publish(message(1), delay=LONGEST_DELAY_SECONDS)
    assert await queue.purge() == 1


async def test_dead_letters_are_listed_without_being_removed(rig: Rig) -> None:
    queue = rig.queue()
    await queue.publish_many([message(number) for number in range(5)])
    async with queue.consume(prefetch=5) as consumer:
        for _ in range(5):
            delivery = await take(consumer)
            failed = structs.replace(delivery.message, attempts=4)
            await delivery.dead(failed, reason=f"because {delivery.message.id}")
    for _ in range(3):
        letters = await queue.dead_letters()
        assert [letter.message.id for letter in letters] == ["0", "1", "2", "3", "4"]
        assert [letter.reason for letter in letters][:2] == ["because 0", "because 1"]
        assert all(letter.message.attempts == 4 for letter in letters)
        assert all(abs(letter.time - datetime.now(UTC)) < timedelta(minutes=1) for letter in letters)
    assert [letter.message.id for letter in await queue.dead_letters(limit=2)] == ["0", "1"]
    assert await queue.dead_letters(limit=0) == []


async def test_dead_letters_go_back_to_work_or_away_by_id(rig: Rig) -> None:
    queue = rig.queue()
    for number in range(6):
        await send_dead(queue, message(number, attempts=4), "tired")
    assert await queue.requeue_dead(["1", "4", "unknown"]) == 2
    assert await queue.purge_dead(["0", "unknown"]) == 1
    assert [letter.message.id for letter in await queue.dead_letters()] == ["2", "3", "5"]
    async with queue.consume(prefetch=5) as consumer:
        assert await take_and_ack(consumer, 2) == [message(1), message(4)]
    assert await queue.requeue_dead() == 3
    assert await queue.dead_letters() == []
    assert await queue.depth() == 3
    assert await queue.purge_dead() == 0


async def test_two_copies_of_one_dead_letter_count_once_and_show_the_latest(rig: Rig) -> None:
    queue = rig.queue()
    for reason in ("first", "second"):
        await send_dead(queue, message("twice"), reason)
    letters = await queue.dead_letters()
    assert [(letter.message.id, letter.reason) for letter in letters] == [("twice", "second")]
    assert await queue.requeue_dead(["twice"]) == 1
    assert (await queue.depth(), await queue.dead_letters()) == (1, [])


async def test_a_reason_of_any_text_is_kept_or_cut(rig: Rig) -> None:
    queue = rig.queue()
    await send_dead(queue, message(1), "\ud800 \0 ä" + "x" * 300_000)
    [letter] = await queue.dead_letters()
    assert letter.reason.startswith("? \0 ä")
    assert len(letter.reason) < 9000


async def test_a_foreign_message_is_parked_and_goes_back_as_it_is(amqp_url: str, rig: Rig) -> None:
    queue = rig.queue()
    async with raw_channel(amqp_url) as channel, queue.consume(prefetch=1) as consumer:
        await _publish_raw(channel, queue.queues.names.main, b"\xff not ours")
        await queue.publish(message("ours"))
        assert [item.id for item in await take_and_ack(consumer, 1)] == ["ours"]
        letters = await some_dead_letters(queue)
    assert letters[0].message.body == b"\xff not ours"
    assert "not a message of specstar" in letters[0].reason
    assert await queue.requeue_dead([letters[0].message.id]) == 1
    async with raw_channel(amqp_url) as channel:
        again = await channel.basic_get(queue.queues.names.main)
        assert again.body == b"\xff not ours"


async def _publish_raw(channel: AbstractChannel, queue: str, body: bytes) -> None:
    properties = Basic.Properties(delivery_mode=2)
    await channel.basic_publish(body, routing_key=queue, properties=properties, mandatory=True)


async def test_purge_removes_what_waits_and_keeps_the_dead(rig: Rig) -> None:
    queue = rig.queue()
    await queue.publish_many([message(number) for number in range(3)])
    await queue.publish(message("delayed"), delay=1000)
    await queue.publish(message("retried"), delay=rig.options.retry_delay_seconds)
    await queue.publish(message("partitioned", partition_key="k"))
    await queue.publish(message("both", partition_key="k"), delay=1000)
    await send_dead(queue, message("dead"), "tired")
    removed = await queue.purge()
    assert removed in {6, 7}  # the retry may be back by then
    assert await queue.depth() == 0
    assert len(await queue.dead_letters()) == 1
    await queue.publish(message("after"), delay=0.05)  # the delay queues are declared again
    async with queue.consume(prefetch=1) as consumer:
        assert (await take_and_ack(consumer, 1))[0].id == "after"


@pytest.mark.parametrize("delay_queue_type", ["classic", "quorum"])
@pytest.mark.parametrize("changed", [False, True])
async def test_a_dead_letter_that_was_put_aside_is_given_to_nobody_and_sent_on(
    amqp_url: str, queue_prefix: str, monkeypatch: pytest.MonkeyPatch, delay_queue_type: str, changed: bool
) -> None:
    if changed:
        monkeypatch.setattr(wire, "problem", lambda _channel: "aiormq has changed")
    async with open_rig(amqp_url, queue_prefix, delay_queue_type=delay_queue_type) as rig:
        queue = rig.queue()
        ours, foreign = message("failed", attempts=3, partition_key="k"), b"\xff not ours"
        when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        why = reason_headers("tired") | {"x-specstar-time": int(when.timestamp() * 1000)}
        for body in (pack(ours, 1000), foreign):
            await queue.put_aside(body, why, 0.05)
        await queue.put_aside(pack(message("later"), 1000), why, 1000)
        async with queue.consume(prefetch=1) as consumer:
            await queue.publish(message("a job"))
            assert [found.id for found in await take_and_ack(consumer, 1)] == ["a job"]
            while len(letters := await queue.dead_letters()) < 2:
                assert await nothing_more(consumer, 0.05)
        assert {(letter.reason, letter.time) for letter in letters} == {("tired", when)}
        assert letters[0].message == ours
        assert letters[1].message.body == foreign
        # What is still aside is no message that waits.
        assert (await queue.purge(), await queue.depth()) == (0, 0)
        assert await queue.requeue_dead(["failed"]) == 1
        async with queue.consume(prefetch=1) as consumer:
            assert await take_and_ack(consumer, 1) == [message("failed", partition_key="k")]


@pytest.mark.parametrize(("sent", "purged"), [("classic", "quorum"), ("quorum", "classic")])
async def test_purge_removes_what_waits_in_queues_of_the_other_type(
    amqp_url: str, queue_prefix: str, sent: str, purged: str
) -> None:
    async with (
        open_rig(amqp_url, queue_prefix, retry_delay_seconds=600, delay_queue_type=sent) as sender,
        open_rig(amqp_url, queue_prefix, keep=True, retry_delay_seconds=600, delay_queue_type=purged) as purger,
    ):
        queue = sender.queue()
        await queue.publish(message("delayed"), delay=1000)
        await queue.publish(message("retried"), delay=600)
        await queue.publish(message("partitioned", partition_key="k"), delay=1000)
        assert await purger.queue().purge() == 3
        # The sender finds its queues gone, and makes them again.
        await queue.publish(message("delayed again"), delay=1000)
        await queue.publish(message("retried again"), delay=600)
        assert await queue.purge() == 2


async def test_priorities_overtake(rig: Rig) -> None:
    queue = rig.queue(max_priority=9)
    await queue.publish_many([message(number, priority=number) for number in (0, 5, 9, 3)])
    async with queue.consume(prefetch=1) as consumer:
        assert [item.id for item in await take_and_ack(consumer, 4)] == ["9", "5", "3", "0"]


async def test_receivers_share_and_a_cancelled_one_loses_nothing(rig: Rig) -> None:
    queue = rig.queue()
    async with queue.consume(prefetch=50) as consumer:
        waiting = [asyncio.create_task(consumer.receive()) for _ in range(20)]
        await asyncio.sleep(0.05)
        for task in waiting[::2]:
            task.cancel()
        await queue.publish_many([message(number) for number in range(30)])
        await asyncio.sleep(0.2)
        for task in waiting:
            task.cancel()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        taken = {result.message.id for result in results if not isinstance(result, BaseException)}
        rest = {item.id for item in await take_and_ack(consumer, 30 - len(taken))}
        assert len(taken) == 10
        assert taken | rest == {str(number) for number in range(30)}


async def test_stop_gives_back_what_is_not_in_hand_and_lets_the_rest_end(rig: Rig) -> None:
    queue = rig.queue()
    await queue.publish_many([message(number) for number in range(4)])
    async with queue.consume(prefetch=3) as consumer:
        mine = await take(consumer)
        await asyncio.sleep(0.1)  # two more arrive, and are not handed out
        await consumer.stop()
        await consumer.stop()
        with pytest.raises(BackendUnavailable, match="stopped"):
            await consumer.receive()
        await asyncio.sleep(0.1)
        assert await queue.depth() == 3
        await mine.ack()
    assert await queue.depth() == 3


async def test_stop_wakes_those_who_wait(rig: Rig) -> None:
    queue = rig.queue()
    async with queue.consume(prefetch=3) as consumer:
        waiting = [asyncio.create_task(consumer.receive()) for _ in range(3)]
        await asyncio.sleep(0.02)
        await consumer.stop()
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, BackendUnavailable) for result in results)


async def test_leaving_in_the_middle_of_a_cancellation_still_gives_back(rig: Rig) -> None:
    queue = rig.queue()
    await queue.publish(message(1))

    async def work() -> None:
        async with queue.consume(prefetch=1) as consumer:
            await take(consumer)
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with queue.consume(prefetch=1) as consumer:
        assert (await take(consumer)).redelivered


async def test_a_driver_that_has_changed_is_used_by_its_public_calls(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wire, "problem", lambda _channel: "aiormq has changed")
    queue = rig.queue()
    await asyncio.gather(*[queue.publish(message(number)) for number in range(100)])
    await queue.publish_many([message(number) for number in range(100, 200)])
    async with raw_channel(rig.options.amqp_url) as channel:
        await channel.queue_delete(queue.queues.dead.name)
    async with queue.consume(prefetch=20) as consumer:
        delivery = await take(consumer)
        await delivery.dead(delivery.message, reason="returned once, then declared")
        delivery = await take(consumer)
        await delivery.retry(delivery.message, delay=0.05)
        assert len({item.id for item in await take_and_ack(consumer, 199)}) == 199
        await consumer.stop()
    assert (await queue.depth(), len(await queue.dead_letters()), await queue.purge()) == (0, 1, 0)
    assert "publishing call by call: aiormq has changed" in caplog.text


async def test_ping_tells_the_server_version(rig: Rig) -> None:
    info = await (await rig.connection()).ping()
    assert info.version[0].isdigit()
    assert "RabbitMQ at 127.0.0.1" in info.detail


async def test_the_password_is_nowhere(rig: Rig) -> None:
    password = urlsplit(rig.options.amqp_url).password or "?"
    connection = await rig.connection()
    link = await connection.link(1)
    assert password not in f"{rig.options!r} {await connection.ping()} {link.place} {vars(connection)!r}"
