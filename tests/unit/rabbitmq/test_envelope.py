"""The stored form of messages."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specstar.backends.rabbitmq.envelope import pack, unpack
from specstar.errors import DecodeError, InvalidInputError, LimitExceededError
from specstar.roles import Message

MESSAGES = st.builds(
    Message,
    id=st.text(max_size=50),
    body=st.binary(max_size=200),
    attempts=st.integers(0, 2**63 - 1),
    priority=st.integers(0, 9),
    partition_key=st.none() | st.text(max_size=20),
    copy=st.just("") | st.text(max_size=40),
    lineage=st.just("") | st.none() | st.text(max_size=40),
)


@given(MESSAGES)
def test_a_message_survives(message: Message) -> None:
    assert unpack(pack(message, 1 << 20)) == message


@given(st.binary(max_size=100))
def test_bytes_of_others_are_a_decode_error_and_nothing_else(data: bytes) -> None:
    try:
        message = unpack(data)
    except DecodeError:
        return
    assert unpack(pack(message, 1 << 20)) == message


@given(MESSAGES, st.data())
def test_a_damaged_message_is_a_decode_error_or_another_message(message: Message, data: st.DataObject) -> None:
    packed = bytearray(pack(message, 1 << 20))
    position = data.draw(st.integers(0, len(packed) - 1))
    packed[position] ^= data.draw(st.integers(1, 255))
    try:
        assert isinstance(unpack(bytes(packed)), Message)
    except DecodeError:
        return


def test_the_stored_form_does_not_change() -> None:
    packed = bytes.fromhex("98 01 a1 61 02 07 c0 c4 01 62 a1 63 a1 64")
    message = Message(id="a", body=b"b", attempts=2, priority=7, copy="c", lineage="d")
    assert unpack(packed) == message
    assert pack(message, 100) == packed


@pytest.mark.parametrize(
    ("packed", "copy"),
    [("96 01 a1 61 02 07 c0 c4 01 62", ""), ("97 01 a1 61 02 07 c0 c4 01 62 a1 63", "c")],
)
def test_what_earlier_versions_sent_tells_no_lineage(packed: str, copy: str) -> None:
    expected = Message(id="a", body=b"b", attempts=2, priority=7, copy=copy, lineage=None)
    assert unpack(bytes.fromhex(packed)) == expected


def test_another_version_is_refused_with_its_number() -> None:
    with pytest.raises(DecodeError, match="version 2") as caught:
        unpack(msgspec.msgpack.encode([2, "the id", 0, 0, None, b""]))
    assert caught.value.job_id == "the id"


@pytest.mark.parametrize(("priority", "taken_for"), [(-1, 0), (-(2**63), 0), (9, 9), (10, 9), (2**64 - 1, 9)])
def test_a_priority_out_of_range_counts_as_the_nearest(priority: int, taken_for: int) -> None:
    packed = msgspec.msgpack.encode([1, "a", 0, priority, None, b""])
    assert unpack(packed).priority == taken_for


def test_limits_are_enforced() -> None:
    with pytest.raises(LimitExceededError):
        pack(Message(id="a", body=bytes(100)), 100)
    with pytest.raises(InvalidInputError):
        pack(Message(id="\ud800", body=b""), 100)
