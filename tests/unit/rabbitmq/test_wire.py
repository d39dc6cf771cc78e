"""Our frames are byte for byte those of the driver; the parts of the driver that we use are there."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pamqp.frame
import pytest
from aiormq.abc import ChannelFrame
from aiormq.channel import Channel
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands as spec
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from specstar.backends.rabbitmq import wire


@given(st.integers(1, 65_535), st.integers(1, 2**60), st.binary(max_size=50), st.integers(0, 9), st.booleans())
def test_content_frames_are_those_of_the_driver(
    channel: int, tag: int, body: bytes, priority: int, headers: bool
) -> None:
    table: dict[str, Any] | None = {"x-why": "because", "x-time": 5} if headers else None
    properties = spec.Basic.Properties(delivery_mode=2, priority=priority, message_id=f"{tag:016x}", headers=table)
    pieces = [ContentBody(body[start : start + 20]) for start in range(0, len(body), 20)]
    theirs = ChannelFrame.marshall(channel, [ContentHeader(body_size=len(body), properties=properties), *pieces])
    assert b"".join(wire.content(channel, tag, body, priority, 20, table)) == theirs.payload


@given(st.integers(1, 65_535), st.integers(1, 2**63 - 1), st.booleans())
def test_ack_frames_are_those_of_the_driver(channel: int, tag: int, multiple: bool) -> None:
    theirs = pamqp.frame.marshal(spec.Basic.Ack(delivery_tag=tag, multiple=multiple), channel)
    assert wire.ack_frame(channel, tag, multiple=multiple) == theirs


def test_a_publish_goes_to_the_queue_itself_and_is_mandatory() -> None:
    _, channel, frame = pamqp.frame.unmarshal(wire.publish_method(3, "specstar:job"))
    assert channel == 3
    assert isinstance(frame, spec.Basic.Publish)
    assert (frame.exchange, frame.routing_key, frame.mandatory) == ("", "specstar:job", True)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_the_driver_that_is_installed_has_all_that_the_fast_path_needs() -> None:
    assert wire.problem(_channel()) is None


@pytest.mark.parametrize("part", ["write_queue", "rpc_frames", "number"])
async def test_a_driver_that_has_changed_is_noticed(part: str) -> None:
    channel = _channel()
    setattr(channel, part, None)
    assert part in (wire.problem(channel) or "")


async def test_an_encoder_that_has_changed_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = _channel()
    marshal = pamqp.frame.marshal
    monkeypatch.setattr(pamqp.frame, "marshal", lambda frame, number: marshal(frame, number) + b"\0")
    assert "another way" in (wire.problem(channel) or "")


async def test_a_full_writer_takes_nothing() -> None:
    channel = _channel()
    for _ in range(2):
        assert wire.write(channel, b"x")
    assert not wire.write(channel, b"x")


@pytest.mark.parametrize(("message_id", "tag"), [(f"{77:016x}", 77), ("of somebody else", 0), (None, 0)])
def test_a_returned_message_says_why_and_which(message_id: str | None, tag: int) -> None:
    method = spec.Basic.Return(reply_code=312, reply_text="NO_ROUTE", exchange="", routing_key="gone")
    header = ContentHeader(body_size=3, properties=spec.Basic.Properties(message_id=message_id, delivery_mode=2))
    frames = [pamqp.frame.marshal(frame, 1)[7:-1] for frame in (method, header)]
    assert wire.returned(*frames) == (312, "NO_ROUTE", tag)


def _channel() -> Channel:
    """A channel without a connection."""
    channel = Channel.__new__(Channel)
    tune = SimpleNamespace(frame_max=131_072)
    parts = {
        "write_queue": asyncio.Queue(maxsize=2),
        "rpc_frames": asyncio.Queue(),
        "number": 1,
        "connection": SimpleNamespace(connection_tune=tune),
    }
    for name, value in parts.items():
        setattr(channel, name, value)
    return channel
