"""Frames of busy channels reach their owners, all others the driver: however the bytes are cut, nothing is lost or moved."""

from __future__ import annotations

import asyncio
from typing import Any

import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands as spec
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from specstar.backends.rabbitmq import intake as intakes
from specstar.backends.rabbitmq.contents import ACK, DELIVER, NACK, Contents, delivery_of, settled_by
from specstar.backends.rabbitmq.intake import METHOD, Intake

BUSY, QUIET = 7, 8
Message = tuple[int, bool, bytes]


def deliver(tag: int, body: bytes, *, redelivered: bool = False, channel: int = BUSY, piece: int = 10) -> list[bytes]:
    method = spec.Basic.Deliver(
        consumer_tag=f"consumer of {channel}",
        delivery_tag=tag,
        redelivered=redelivered,
        exchange="",
        routing_key="somewhere",
    )
    pieces = [ContentBody(body[start : start + piece]) for start in range(0, len(body), piece)]
    header = ContentHeader(body_size=len(body), properties=spec.Basic.Properties(delivery_mode=2, message_id="1"))
    frames: list[Any] = [method, header, *pieces]
    return [pamqp.frame.marshal(frame, channel) for frame in frames]


def quiet(number: int) -> bytes:
    return pamqp.frame.marshal(spec.Queue.DeclareOk(queue=f"q{number}", message_count=number, consumer_count=0), QUIET)


class Rig:
    """An intake with an owner of one channel. `got` is what that was given, `left()` what the driver may read."""

    def __init__(self) -> None:
        self.intake = Intake(limit=1 << 20, loop=asyncio.get_running_loop())
        self.got: list[Message] = []
        self.contents = Contents((DELIVER,), self._take)
        self.intake.divert(BUSY, self.contents)

    def _take(self, method: bytes, _header: bytes, body: bytes) -> None:
        self.got.append((*delivery_of(method), body))

    async def left(self) -> bytes:
        self.intake.feed_eof()
        return await self.intake.read()


def chopped(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, position = [], 0
    for size in sizes:
        pieces.append(data[position : position + size])
        position += size
    return [*pieces, data[position:]]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(1, 2**60), st.booleans(), st.binary(max_size=45)),
            st.integers(0, 1000),
        ),
        max_size=12,
    ),
    st.lists(st.integers(0, 60), max_size=40),
)
def test_every_frame_reaches_its_place_in_order(items: list[Message | int], sizes: list[int]) -> None:
    wanted: list[Message] = []
    stream, rest = b"", b""
    for item in items:
        if isinstance(item, int):
            stream += quiet(item)
            rest += quiet(item)
        else:
            tag, redelivered, body = item
            wanted.append(item)
            stream += b"".join(deliver(tag, body, redelivered=redelivered))

    async def main() -> None:
        rig = Rig()
        for piece in chopped(stream, sizes):
            rig.intake.feed_data(piece)
        assert rig.got == wanted
        assert await rig.left() == rest

    asyncio.run(main())


async def test_frames_of_two_channels_may_take_turns() -> None:
    rig = Rig()
    other: list[Message] = []
    rig.intake.divert(QUIET, Contents((DELIVER,), lambda method, _, body: other.append((*delivery_of(method), body))))
    mine, theirs = deliver(1, b"m" * 25), deliver(2, b"t" * 25, channel=QUIET)
    for pair in zip(mine, theirs, strict=True):
        rig.intake.feed_data(b"".join(pair))
    assert (rig.got, other) == ([(1, False, b"m" * 25)], [(2, False, b"t" * 25)])
    assert await rig.left() == b""


async def test_what_the_owner_does_not_want_goes_to_the_driver() -> None:
    rig = Rig()
    cancel = pamqp.frame.marshal(spec.Basic.Cancel(consumer_tag="consumer"), BUSY)
    answer = b"".join(
        [
            pamqp.frame.marshal(spec.Basic.GetOk(delivery_tag=3, exchange="", routing_key="", message_count=0), BUSY),
            *deliver(3, b"x")[1:],
        ]
    )
    rig.intake.feed_data(b"".join([*deliver(1, b"a"), cancel, answer, *deliver(2, b"b")]))
    assert [tag for tag, _, _ in rig.got] == [1, 2]
    assert await rig.left() == cancel + answer


@pytest.mark.parametrize(
    "end",
    [
        spec.Channel.Close(reply_code=404, reply_text="gone", class_id=0, method_id=0),
        spec.Channel.CloseOk(),
        spec.Channel.OpenOk(),
    ],
)
async def test_a_channel_that_ends_is_not_confused_with_the_next_of_its_number(end: Any) -> None:
    rig = Rig()
    last = pamqp.frame.marshal(end, BUSY)
    later = b"".join(deliver(1, b"of the next"))
    rig.intake.feed_data(b"".join(deliver(9, b"of this")) + last + later)
    assert rig.got == [(9, False, b"of this")]
    assert await rig.left() == last + later


@pytest.mark.parametrize("foreign", [b"AMQP\x00\x00\x09\x01", b"HTTP/1.1 400 Bad Request\r\n", quiet(1)[:-1] + b"\0"])
async def test_what_is_no_frame_passes_untouched_for_ever(foreign: bytes) -> None:
    rig = Rig()
    rest = b"".join(deliver(2, b"b"))
    rig.intake.feed_data(b"".join(deliver(1, b"a")) + foreign)
    rig.intake.feed_data(rest)
    assert rig.got == [(1, False, b"a")]
    assert await rig.left() == foreign + rest


async def test_half_a_frame_at_the_end_is_shown_to_the_driver() -> None:
    rig = Rig()
    half = deliver(1, b"a")[0][:-3]
    rig.intake.feed_data(half)
    assert await rig.left() == half


async def test_a_driver_that_sees_nothing_else_is_told_that_the_connection_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intakes, "_HEARTBEAT_SECONDS", 0.02)
    rig = Rig()
    rig.intake.feed_data(quiet(1))
    rig.intake.feed_data(b"".join(deliver(1, b"a")))
    await asyncio.sleep(0.03)
    for tag in (2, 3):
        rig.intake.feed_data(b"".join(deliver(tag, b"a")))
    assert len(rig.got) == 3
    assert await rig.left() == quiet(1) + pamqp.frame.marshal(Heartbeat(), 0)


@given(st.integers(1, 2**63 - 1), st.booleans(), st.sampled_from([(spec.Basic.Ack, ACK), (spec.Basic.Nack, NACK)]))
def test_confirms_are_read_as_the_driver_reads_them(tag: int, multiple: bool, kind: tuple[Any, bytes]) -> None:
    command, method = kind
    data = pamqp.frame.marshal(command(delivery_tag=tag, multiple=multiple), BUSY)
    assert data[0] == METHOD
    assert data[7:11] == method
    assert settled_by(data, 7) == (tag, multiple)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
