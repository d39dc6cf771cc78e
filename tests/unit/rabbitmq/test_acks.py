"""Acks: everything that ended is acknowledged once, nothing else, in any order."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pamqp.frame
import pytest
from aiormq.abc import ChannelFrame
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands as spec

from specstar.backends.rabbitmq.acks import Acks


class Broker:
    """What a broker makes of acks: it refuses a tag that is not outstanding, as RabbitMQ does."""

    def __init__(self, count: int) -> None:
        self.outstanding = set(range(1, count + 1))
        self.returned: set[int] = set()
        self.frames = 0

    def take(self, payload: bytes) -> None:
        while payload:
            size, _, frame = pamqp.frame.unmarshal(payload)
            payload = payload[size:]
            self.frames += 1
            assert isinstance(frame, spec.Basic.Ack | spec.Basic.Nack)
            tag = frame.delivery_tag or 0
            assert tag in self.outstanding
            settled = {other for other in self.outstanding if other <= tag} if frame.multiple else {tag}
            self.outstanding -= settled
            if isinstance(frame, spec.Basic.Nack):
                self.returned |= settled


def run(count: int, turns: list[list[tuple[int, bool]]]) -> Broker:
    """Each turn ends tags; True gives one back."""
    broker = Broker(count)

    async def main() -> None:
        queue: asyncio.Queue[ChannelFrame] = asyncio.Queue(maxsize=2)
        channel: Any = SimpleNamespace(number=1, write_queue=queue, is_closed=False)
        acks = Acks(channel, public_calls_only=False)
        for turn in turns:
            for tag, back in turn:
                (acks.give_back if back else acks.done)(tag)
            await asyncio.sleep(0)
            while not queue.empty():
                broker.take(queue.get_nowait().payload)

    asyncio.run(main())
    return broker


@given(
    st.permutations(range(1, 30)), st.lists(st.integers(1, 8), min_size=30, max_size=30), st.sets(st.integers(1, 29))
)
def test_any_order_ends_exactly_what_it_names(order: list[int], sizes: list[int], back: set[int]) -> None:
    ended = order[:25]
    turns, position = [], 0
    for size in sizes:
        turns.append([(tag, tag in back) for tag in ended[position : position + size]])
        position += size
    turns.append([(tag, tag in back) for tag in ended[position:]])
    broker = run(29, turns)
    assert broker.outstanding == set(order[25:])
    assert broker.returned == back & set(ended)


def test_a_turn_in_order_is_one_ack() -> None:
    assert run(10, [[(tag, False) for tag in range(1, 11)]]).frames == 1


def test_what_is_above_a_slow_one_is_not_held_back() -> None:
    assert run(5, [[(2, False), (3, False), (5, False)]]).outstanding == {1, 4}


def test_a_full_writer_delays_and_loses_nothing() -> None:
    async def main() -> None:
        queue: asyncio.Queue[ChannelFrame] = asyncio.Queue(maxsize=1)
        channel: Any = SimpleNamespace(number=1, write_queue=queue, is_closed=False)
        acks = Acks(channel, public_calls_only=False)
        queue.put_nowait(ChannelFrame(payload=b"", should_close=False))
        acks.done(1)
        await asyncio.sleep(0.01)
        queue.get_nowait()
        async with asyncio.timeout(5):
            frame = await queue.get()
        broker = Broker(1)
        broker.take(frame.payload)
        assert broker.outstanding == set()

    asyncio.run(main())


@pytest.mark.parametrize("closed", [True, False])
def test_the_public_calls_do_the_same(closed: bool) -> None:
    calls: list[tuple[str, int]] = []

    async def basic_ack(tag: int, wait: bool) -> None:
        calls.append(("ack", tag))

    async def basic_nack(tag: int, requeue: bool, wait: bool) -> None:
        calls.append(("nack", tag))

    async def main() -> None:
        channel: Any = SimpleNamespace(is_closed=closed, basic_ack=basic_ack, basic_nack=basic_nack)
        acks = Acks(channel, public_calls_only=True)
        acks.done(2)
        acks.give_back(1)
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert calls == ([] if closed else [("nack", 1), ("ack", 2)])
