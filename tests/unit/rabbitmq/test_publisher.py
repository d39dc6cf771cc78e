"""Confirms meet the messages they are for: single and for several, in any order, refused, returned, and lost."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any

import pamqp.frame
import pytest
from aiormq.exceptions import ChannelPreconditionFailed
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands as spec
from pamqp.header import ContentHeader

from specstar.backends.rabbitmq.faults import LinkLostError, ReturnedError
from specstar.backends.rabbitmq.intake import Intake
from specstar.backends.rabbitmq.publisher import Publisher
from specstar.errors import BackendError, BackendUnavailable, LimitExceededError

CHANNEL = 3


class Rig:
    """A publisher on a channel without a connection; the broker's answers are fed by hand."""

    def __init__(self, *, window: int = 1000) -> None:
        loop = asyncio.get_running_loop()
        self.closing: asyncio.Future[None] = loop.create_future()
        self.written: list[bytes] = []
        self.full = False
        channel: Any = SimpleNamespace(
            number=CHANNEL,
            write_queue=asyncio.Queue(),
            rpc_frames=asyncio.Queue(),
            connection=SimpleNamespace(connection_tune=SimpleNamespace(frame_max=131_072)),
            is_closed=False,
            closing=self.closing,
        )
        self.intake = Intake(limit=1 << 16, loop=loop)
        transport: Any = SimpleNamespace(intake=self.intake, full=lambda: self.full, write=self.written.append)
        self.publisher = Publisher(channel, transport, window=window, blocked=lambda: False)
        assert self.publisher.fast_path_problem is None

    def send(self, count: int, *, seconds: float = 60.0) -> list[asyncio.Future[None]]:
        deadline = self.publisher.time() + seconds
        return [self.publisher.publish("queue", b"body", deadline=deadline) for _ in range(count)]

    def say(self, *frames: Any) -> None:
        self.intake.feed_data(b"".join(pamqp.frame.marshal(frame, CHANNEL) for frame in frames))

    async def sent(self) -> int:
        """How many messages were written since the last time, this turn of the loop included."""
        await asyncio.sleep(0)
        return sum(self.writes())

    def writes(self) -> list[int]:
        """How many messages each write since the last time had."""
        counts = []
        for frames in self.written:
            data, count = frames, 0
            while data:
                size, _, frame = pamqp.frame.unmarshal(data)
                data = data[size:]
                count += isinstance(frame, spec.Basic.Publish)
            counts.append(count)
        self.written.clear()
        return counts


async def test_many_are_under_way_before_the_turn_is_over() -> None:
    rig = Rig(window=40)
    rig.send(7)
    assert rig.writes() == []
    rig.send(50)
    # So many that the broker has work; then as many as are under way, or as the window lets through.
    assert rig.writes() == [8, 8, 16]
    assert await rig.sent() == 8
    rig.say(spec.Basic.Ack(delivery_tag=40, multiple=True))
    assert rig.writes() == []
    assert await rig.sent() == 17


async def test_nothing_is_written_while_the_socket_takes_no_more() -> None:
    rig = Rig()
    rig.full = True
    late = rig.send(1, seconds=0.01)[0]
    waiters = rig.send(20)
    assert await rig.sent() == 0
    await asyncio.sleep(0.1)
    assert "it was not sent" in str(late.exception())
    rig.full = False
    await asyncio.sleep(0.02)
    assert rig.writes() == [20]
    rig.say(spec.Basic.Ack(delivery_tag=20, multiple=True))
    assert all(waiter.exception() is None for waiter in waiters)


@given(st.permutations(range(1, 13)), st.sets(st.integers(1, 12)), st.sets(st.integers(1, 12)))
def test_each_message_gets_its_own_answer(order: list[int], several: set[int], refused: set[int]) -> None:
    async def main() -> None:
        rig = Rig()
        waiters = rig.send(12)
        assert await rig.sent() == 12
        fate: dict[int, bool] = {}
        for tag in order:
            if tag in fate and tag not in several:
                continue
            command = spec.Basic.Nack if tag in refused else spec.Basic.Ack
            for settled in range(1 if tag in several else tag, tag + 1):
                fate.setdefault(settled, tag not in refused)
            rig.say(command(delivery_tag=tag, multiple=tag in several))
        for tag, waiter in enumerate(waiters, 1):
            assert (waiter.exception() is None) == fate[tag]

    asyncio.run(main())


async def test_a_group_is_over_with_its_last_and_tells_which_failed() -> None:
    rig = Rig()
    group = asyncio.create_task(
        rig.publisher.publish_many("queue", [(b"body", 0)] * 5, deadline=rig.publisher.time() + 60)
    )
    await asyncio.sleep(0)
    assert await rig.sent() == 5
    rig.say(spec.Basic.Nack(delivery_tag=2), spec.Basic.Ack(delivery_tag=4, multiple=True))
    await asyncio.sleep(0)
    assert not group.done()
    rig.say(spec.Basic.Ack(delivery_tag=5))
    [(index, error)] = await group
    assert index == 1
    assert isinstance(error, BackendError)


@pytest.mark.parametrize(("code", "expected"), [(312, ReturnedError), (313, BackendError)])
async def test_a_returned_message_fails_and_its_ack_frees_its_place(code: int, expected: type[Exception]) -> None:
    rig = Rig(window=2)
    first, second, third = rig.send(3)
    assert await rig.sent() == 2
    rig.say(
        spec.Basic.Return(reply_code=code, reply_text="NO", exchange="", routing_key="queue"),
        ContentHeader(body_size=0, properties=spec.Basic.Properties(message_id=f"{1:016x}")),
    )
    assert isinstance(first.exception(), expected)
    assert await rig.sent() == 0
    rig.say(spec.Basic.Ack(delivery_tag=1))
    assert await rig.sent() == 1
    rig.say(spec.Basic.Ack(delivery_tag=3, multiple=True))
    assert (second.exception(), third.exception()) == (None, None)


async def test_a_message_given_up_keeps_its_place_until_its_confirm() -> None:
    rig = Rig(window=1)
    first, second = rig.send(1, seconds=0.01)[0], rig.send(1)[0]
    await asyncio.sleep(0.05)
    assert isinstance(first.exception(), BackendUnavailable)
    assert "may arrive" in str(first.exception())
    assert await rig.sent() == 1
    rig.say(spec.Basic.Ack(delivery_tag=1))
    assert await rig.sent() == 1
    rig.say(spec.Basic.Ack(delivery_tag=2))
    assert second.exception() is None


async def test_what_is_not_confirmed_is_lost_with_the_channel() -> None:
    rig = Rig(window=4)
    waiters = rig.send(6)
    assert await rig.sent() == 4
    rig.say(spec.Basic.Ack(delivery_tag=2))
    rig.closing.set_exception(ConnectionResetError("gone"))
    await asyncio.sleep(0)
    lost = [isinstance(waiter.exception(), LinkLostError) for waiter in waiters]
    assert lost == [True, False, True, True, True, True]
    # Late answers harm nobody.
    rig.say(*(spec.Basic.Ack(delivery_tag=tag) for tag in itertools.chain(range(1, 8))))


async def test_nothing_is_written_once_the_broker_closes_the_channel() -> None:
    rig = Rig()
    first = rig.send(1)[0]
    assert await rig.sent() == 1
    rig.say(spec.Channel.Close(reply_code=406, reply_text="PRECONDITION_FAILED", class_id=60, method_id=40))
    second = rig.send(1)[0]
    assert not rig.publisher.open
    assert await rig.sent() == 0
    rig.closing.set_exception(ChannelPreconditionFailed("message size 4 is larger than configured max size 3"))
    await asyncio.sleep(0)
    assert isinstance(first.exception(), LimitExceededError)
    assert isinstance(second.exception(), LimitExceededError)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("message size 5 is larger than max size 4", LinkLostError),
        ("message size 4 is larger than max size 3", LimitExceededError),
        ("something else", LinkLostError),
    ],
)
async def test_only_what_is_too_large_itself_is_refused(reason: str, expected: type[Exception]) -> None:
    rig = Rig()
    waiter = rig.send(1)[0]
    assert await rig.sent() == 1
    rig.closing.set_exception(ChannelPreconditionFailed(reason))
    await asyncio.sleep(0)
    assert isinstance(waiter.exception(), expected)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
