"""AMQP frames as bytes, and the driver's inner parts that carry them: the only place that knows these.

Publishing and acknowledging call by call costs the driver several futures, a lock and a write each. Here the frames of
one turn of the loop become one write. `problem` compares all of it with the driver's own encoder: where that has
changed, the public calls are used instead.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pamqp.frame
from aiormq.abc import ChannelFrame
from aiormq.exceptions import InvalidFrameError
from pamqp import commands as spec
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

if TYPE_CHECKING:
    from aiormq.channel import Channel

__all__ = [
    "ack_frame",
    "ask",
    "body_limit",
    "content",
    "declare_queue",
    "delete_queues",
    "headers_in",
    "nack_frame",
    "problem",
    "publish_method",
    "purge_queue",
    "returned",
    "transient",
    "write",
]

_END = b"\xce"
# Header frame with delivery mode 2, priority and a message id of 16 characters, then the head of the first body frame.
_HEAD = struct.Struct(">BHIHHQHBBB16sB")
_BODY = struct.Struct(">BHI")
_ACK = struct.Struct(">BHIHHQBB")
_FLAGS = 0x1000 | 0x0800 | 0x0080
_FRAME_OVERHEAD = 8
_ANNOUNCED_EACH = 4


def publish_method(channel: int, queue: str) -> bytes:
    """The method frame of a mandatory publish to a queue through the default exchange."""
    method = spec.Basic.Publish(exchange="", routing_key=queue, mandatory=True)
    return pamqp.frame.marshal(method, channel)


def content(
    channel: int, tag: int, body: bytes, priority: int, limit: int, headers: dict[str, Any] | None
) -> list[bytes]:
    """The header and body frames of one persistent message. Its message id is its delivery tag, to match returns by."""
    if headers is None:
        parts = [_HEAD.pack(2, channel, 33, 60, 0, len(body), _FLAGS, 2, priority, 16, b"%016x" % tag, 206)]
    else:
        properties = spec.Basic.Properties(
            delivery_mode=2, priority=priority, message_id=f"{tag:016x}", headers=headers
        )
        parts = [pamqp.frame.marshal(ContentHeader(body_size=len(body), properties=properties), channel)]
    if len(body) <= limit:
        if body:
            parts += (_BODY.pack(3, channel, len(body)), body, _END)
        return parts
    for start in range(0, len(body), limit):
        piece = body[start : start + limit]
        parts += (_BODY.pack(3, channel, len(piece)), piece, _END)
    return parts


def ack_frame(channel: int, tag: int, *, multiple: bool = False) -> bytes:
    return _ACK.pack(1, channel, 13, 60, 80, tag, multiple, 206)


def nack_frame(channel: int, tag: int) -> bytes:
    """One message back to its queue."""
    return pamqp.frame.marshal(spec.Basic.Nack(delivery_tag=tag, requeue=True), channel)


def body_limit(channel: Channel) -> int:
    """The most bytes of a body that one frame carries."""
    frame_max: int = channel.connection.connection_tune.frame_max
    return (frame_max or 131_072) - _FRAME_OVERHEAD


def write(channel: Channel, payload: bytes) -> bool:
    """Hand bytes to the connection's writer, in order with all other frames; False if it is full: try again shortly."""
    queue: asyncio.Queue[ChannelFrame] = channel.write_queue
    if queue.full():
        return False
    queue.put_nowait(ChannelFrame(payload=payload, should_close=False))
    return True


async def ask(channel: Channel, frames: Sequence[Any], answered: Callable[[], None]) -> list[Any]:
    """Send requests in one write, and return their answers: all of them take one round trip. Calls `answered` after each.

    `frames` may hold what is not answered, such as messages. If one is refused, the broker closes the channel, as the driver
    tells, and the requests behind it are not carried out.
    """
    requests = [frame for frame in frames if getattr(frame, "synchronous", False)]

    async def send() -> list[Any]:
        answers: list[Any] = []
        async with channel.lock:
            await channel.write_queue.put(ChannelFrame.marshall(channel.number, list(frames)))
            for request in requests:
                answer: Any = await channel.rpc_frames.get()
                channel.rpc_frames.task_done()
                if answer.name not in request.valid_responses:
                    raise InvalidFrameError(request)
                answers.append(answer)
                answered()
        return answers

    # A task of the channel's ends with it, as its own requests do; else the answers would be awaited in vain.
    answers: list[Any] = await channel.create_task(send())
    return answers


def declare_queue(name: str, arguments: dict[str, Any]) -> Any:
    """The request to declare a durable queue."""
    return spec.Queue.Declare(queue=name, durable=True, arguments=arguments)


def purge_queue(name: str) -> Any:
    """The request to empty a queue."""
    return spec.Queue.Purge(queue=name)


async def delete_queues(
    channel: Channel, names: Sequence[str], answered: Callable[[], None], announcement: Sequence[Any] = ()
) -> int:
    """Delete queues, those that are there, with the requests in one write; returns how many messages were in them.

    Calls `answered` after each. `announcement` are frames that the broker gets again and again meanwhile.
    """
    frames: list[Any] = []
    for number, name in enumerate(names):
        if number % _ANNOUNCED_EACH == 0:
            frames += announcement
        frames.append(spec.Queue.Delete(queue=name))
    return sum([answer.message_count or 0 for answer in await ask(channel, frames, answered)])


def transient(queue: str, milliseconds: int) -> list[Any]:
    """The frames of an empty message for a queue, where it is gone after so many milliseconds."""
    properties = spec.Basic.Properties(expiration=str(milliseconds))
    return [spec.Basic.Publish(exchange="", routing_key=queue), ContentHeader(body_size=0, properties=properties)]


def returned(method: bytes, header: bytes) -> tuple[int, str, int]:
    """Reply code, reply text, and the delivery tag that was the message's id, of a message that came back."""
    frame = spec.Basic.Return()
    frame.unmarshal(method[4:])
    content = ContentHeader()
    content.unmarshal(header)
    try:
        tag = int(content.properties.message_id or "", 16)
    except ValueError:
        tag = 0
    return frame.reply_code or 0, frame.reply_text or "", tag


def headers_in(header: bytes) -> dict[str, Any]:
    """The headers in the payload of a content header frame; none if they cannot be read."""
    content = ContentHeader()
    try:
        content.unmarshal(header)
    except Exception:  # what another program wrote must not end the connection
        return {}
    return dict(content.properties.headers or {})


def problem(channel: Channel) -> str | None:
    """Why the inner parts of this driver cannot be used, or None."""
    for name, kind in {
        "write_queue": asyncio.Queue,
        "rpc_frames": asyncio.Queue,
        "number": int,
    }.items():
        if not isinstance(getattr(channel, name, None), kind):
            return f"aiormq's Channel.{name} is gone or has changed"
    body, tag = b"b" * 10, 0x1234
    properties = spec.Basic.Properties(delivery_mode=2, priority=3, message_id=f"{tag:016x}")
    theirs = ChannelFrame.marshall(7, [ContentHeader(body_size=len(body), properties=properties), ContentBody(body)])
    if b"".join(content(7, tag, body, 3, 100, None)) != theirs.payload:
        return "pamqp encodes message headers in another way"
    if ack_frame(7, tag, multiple=True) != pamqp.frame.marshal(spec.Basic.Ack(delivery_tag=tag, multiple=True), 7):
        return "pamqp encodes acks in another way"
    return None
