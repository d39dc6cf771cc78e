"""The mq role itself: what every message queue keeps to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import anyio
import msgspec
import pytest

from specstar import SpecStar
from specstar.errors import BackendUnavailable, InvalidInputError
from specstar.roles import Consumer, Delivery, Message, MessageQueue, MessageQueueFactory
from tests.conformance.jobs.harness import eventually_gives

R = TypeVar("R")
Home = Callable[[Callable[[MessageQueue], Awaitable[R]]], Awaitable[R]]


@pytest.fixture
def on_home(spec: SpecStar, queues: MessageQueueFactory) -> Home[Any]:
    """Run a test body on the home loop, with a queue of its own."""

    async def run(body: Callable[[MessageQueue], Awaitable[R]]) -> R:
        async def there() -> R:
            return await body(queues.build("letters", max_priority=9))

        return await spec._gate.run(there)

    return run


def letter(number: int, **more: Any) -> Message:
    return Message(id=f"id-{number}", body=f"body {number}".encode(), **more)


async def receive(consumer: Consumer, within: float = 10.0) -> Delivery:
    with anyio.fail_after(within):
        return await consumer.receive()


async def nothing_comes(consumer: Consumer, seconds: float = 0.3) -> bool:
    with anyio.move_on_after(seconds):
        await consumer.receive()
        return False
    return True


async def test_messages_come_in_order_and_an_acknowledged_one_is_gone(on_home: Home[None]) -> None:
    async def body(queue: MessageQueue) -> None:
        await queue.publish_many([letter(number) for number in range(5)])
        async with queue.consume(prefetch=5) as consumer:
            for number in range(5):
                delivery = await receive(consumer)
                assert delivery.message == letter(number)
                assert not delivery.redelivered
                assert not delivery.lost
                await delivery.ack()
            assert await nothing_comes(consumer)
        assert await queue.depth() == 0

    await on_home(body)


async def test_depth_counts_what_is_ready(on_home: Home[None]) -> None:
    async def body(queue: MessageQueue) -> None:
        await queue.publish_many([letter(number) for number in range(3)])
        await queue.publish(letter(9), delay=60)
        assert await queue.depth() == 3

    await on_home(body)


async def test_a_message_without_end_comes_again_when_its_consumer_is_left(on_home: Home[None]) -> None:
    async def body(queue: MessageQueue) -> None:
        await queue.publish(letter(1, attempts=2))
        async with queue.consume(prefetch=1) as consumer:
            first = await receive(consumer)
        assert first.lost
        async with queue.consume(prefetch=1) as consumer:
            again = await receive(consumer)
            assert again.redelivered
            assert again.message == letter(1, attempts=2)
            await again.ack()
        async with queue.consume(prefetch=1) as consumer:
            assert await nothing_comes(consumer)

    await on_home(body)


async def test_prefetch_bounds_the_deliveries_in_hand(on_home: Home[None]) -> None:
    async def body(queue: MessageQueue) -> None:
        await queue.publish_many([letter(number) for number in range(3)])
        async with queue.consume(prefetch=2) as consumer:
            first = await receive(consumer)
            second = await receive(consumer)
            assert await nothing_comes(consumer)
            await first.ack()
            third = await receive(consumer)
            assert third.message == letter(2)
            await second.ack()
            await third.ack()

    await on_home(body)


async def test_a_retried_message_is_a_new_one_after_its_delay(on_home: Home[None]) -> None:
    async def body(queue: MessageQueue) -> None:
        await queue.publish(letter(1))
        async with queue.consume(prefetch=1) as consumer:
            delivery = await receive(consumer)
            began = anyio.current_time()
            await delivery.retry(msgspec.structs.replace(delivery.message, attempts=1), delay=1.0)
            again = await receive(consumer)
            assert 0.9 <= anyio.current_time() - began < 5
            assert again.message == letter(1, attempts=1)
            assert not again.redelivered
            await again.ack()

    await on_home(body)


async def test_a_long_delay_does_not_hold_back_a_short_one(on_home: Home[None]) -> None:
    async def body(queue: MessageQueue) -> None:
        await queue.publish(letter(1), delay=2.0)
        await queue.publish(letter(2), delay=0.5)
        await queue.publish(letter(3))
        async with queue.consume(prefetch=3) as consumer:
            order = []
            for _ in range(3):
                delivery = await receive(consumer)
                order.append(delivery.message.id)
                await delivery.ack()
        assert order == ["id-3", "id-2", "id-1"]

    await on_home(body)


async def test_a_partition_is_handled_one_at_a_time_in_order_over_all_consumers(on_home: Home[None]) -> None:
    async def body(queue: MessageQueue) -> None:
        keys = ["red", "blue", "green"]
        await queue.publish_many([letter(number, partition_key=keys[number % 3]) for number in range(30)])
        at_work: set[str] = set()
        done: dict[str, list[int]] = {key: [] for key in keys}

        async def work(group: anyio.abc.TaskGroup, consumer: Consumer) -> None:
            while True:
                delivery = await consumer.receive()
                key = delivery.message.partition_key
                assert key is not None
                assert key not in at_work, "two messages of one partition at once"
                at_work.add(key)
                await anyio.sleep(0.002)
                at_work.discard(key)
                done[key].append(int(delivery.message.id.removeprefix("id-")))
                await delivery.ack()
                if sum(map(len, done.values())) == 30:
                    group.cancel_scope.cancel()

        async with queue.consume(prefetch=4) as one, queue.consume(prefetch=4) as two:
            with anyio.fail_after(30):
                async with anyio.create_task_group() as group:
                    for consumer in (one, two, one, two, one, two):
                        group.start_soon(work, group, consumer)
        assert all(numbers == sorted(numbers) and len(numbers) == 10 for numbers in done.values())

    await on_home(body)


async def test_a_stopped_consumer_takes_no_more_and_ends_what_it_has(on_home: Home[None]) -> None:
    async def body(queue: MessageQueue) -> None:
        await queue.publish_many([letter(1), letter(2)])
        async with queue.consume(prefetch=1) as consumer:
            delivery = await receive(consumer)
            await consumer.stop()
            await consumer.stop()
            with pytest.raises(BackendUnavailable):
                await receive(consumer)
            await delivery.ack()
        async with queue.consume(prefetch=2) as consumer:
            rest = await receive(consumer)
            assert rest.message.id == "id-2"
            await rest.ack()
            assert await nothing_comes(consumer)

    await on_home(body)


async def test_a_receive_that_waits_ends_when_its_consumer_stops(on_home: Home[None]) -> None:
    async def body(queue: MessageQueue) -> None:
        ended = anyio.Event()

        async def wait(consumer: Consumer) -> None:
            with pytest.raises(BackendUnavailable):
                await consumer.receive()
            ended.set()

        async with queue.consume(prefetch=1) as consumer, anyio.create_task_group() as group:
            group.start_soon(wait, consumer)
            await anyio.sleep(0.1)
            await consumer.stop()
            with anyio.fail_after(5):
                await ended.wait()

    await on_home(body)


async def test_a_cancelled_receive_loses_no_message(on_home: Home[None]) -> None:
    async def body(queue: MessageQueue) -> None:
        async with queue.consume(prefetch=10) as consumer:
            for number in range(30):
                with anyio.move_on_after(0.002 * (number % 3)):
                    delivery = await consumer.receive()
                    await delivery.ack()
                if number < 10:
                    await queue.publish(letter(number))
            await queue.publish(letter(99))
            last = await receive(consumer)
            while last.message.id != "id-99":
                await last.ack()
                last = await receive(consumer)
            await last.ack()
            assert await nothing_comes(consumer)

    await on_home(body)


async def test_dead_letters_are_listed_requeued_and_purged(on_home: Home[None]) -> None:
    async def body(queue: MessageQueue) -> None:
        await queue.publish_many([letter(number) for number in range(4)])
        async with queue.consume(prefetch=4) as consumer:
            for number in range(4):
                delivery = await receive(consumer)
                await delivery.dead(msgspec.structs.replace(delivery.message, attempts=4), reason=f"reason {number}")
            letters = await queue.dead_letters()
            assert [(item.message.id, item.reason) for item in letters] == [
                (f"id-{number}", f"reason {number}") for number in range(4)
            ]
            assert all(item.message.attempts == 4 and item.time.tzinfo is not None for item in letters)
            assert [item.message.id for item in await queue.dead_letters(limit=2)] == ["id-0", "id-1"]
            assert await queue.requeue_dead(["id-1", "id-7"], lineage="anew") == 1
            back = await receive(consumer)
            assert back.message == msgspec.structs.replace(letter(1), lineage="anew")
            await back.ack()
            assert await queue.purge_dead(["id-0"]) == 1
            # A quorum queue may change the order of what was looked at and given back.
            assert {item.message.id for item in await queue.dead_letters()} == {"id-2", "id-3"}
            told: list[str] = []

            async def note(ids: Sequence[str]) -> None:
                assert await queue.depth() == 0  # before they are sent
                told.extend(ids)

            async def refuse(ids: Sequence[str]) -> None:
                raise InvalidInputError("not now")

            with pytest.raises(InvalidInputError, match="not now"):
                await queue.requeue_dead(before=refuse)

            async def both_are_back() -> bool:
                return len(await queue.dead_letters(limit=10)) == 2

            await eventually_gives(both_are_back)
            assert await queue.requeue_dead(before=note) == 2
            assert len(told) == 2
            for _ in range(2):
                await (await receive(consumer)).ack()
            assert await queue.dead_letters() == []
            assert await queue.purge_dead() == 0

    await on_home(body)


async def test_purge_removes_what_waits_and_leaves_the_dead(on_home: Home[None]) -> None:
    async def body(queue: MessageQueue) -> None:
        await queue.publish(letter(1))
        async with queue.consume(prefetch=1) as consumer:
            await (await receive(consumer)).dead(letter(1), reason="no")
        await queue.publish_many([letter(number) for number in range(2, 5)])
        await queue.publish(letter(6), delay=30)
        assert await queue.purge() == 4
        assert await queue.depth() == 0
        assert len(await queue.dead_letters()) == 1

    await on_home(body)


async def test_high_priority_comes_first(case: str, on_home: Home[None]) -> None:
    if case == "rabbitmq-quorum":
        return  # quorum queues know two priorities only

    async def body(queue: MessageQueue) -> None:
        for number, priority in enumerate([0, 9, 5, 9, 0]):
            await queue.publish(letter(number, priority=priority))
        async with queue.consume(prefetch=1) as consumer:
            order = []
            for _ in range(5):
                delivery = await receive(consumer)
                order.append(delivery.message.id)
                await delivery.ack()
        assert order == ["id-1", "id-3", "id-2", "id-0", "id-4"]

    await on_home(body)


async def test_any_text_is_the_name_of_a_queue(spec: SpecStar, queues: MessageQueueFactory) -> None:
    names = ["../etc/passwd", "a b", "ü:dead", "x" * 300, "x" * 301, "*.#", "specstar:y:retry"]

    async def body() -> None:
        for number, name in enumerate(names):
            await queues.build(name).publish(letter(number))
        for number, name in enumerate(names):
            queue = queues.build(name)
            async with queue.consume(prefetch=1) as consumer:
                delivery = await receive(consumer)
                assert delivery.message.id == f"id-{number}"
                await delivery.ack()
                assert await queue.depth() == 0

    await spec._gate.run(body)
