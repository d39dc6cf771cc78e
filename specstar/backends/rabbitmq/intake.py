"""The bytes that come from the broker: frames of busy channels go straight to their owners, all others to the driver.

The driver reads a frame in three steps through a stream, an object each, two tasks and a queue. For deliveries and confirms,
which come by the thousand, that costs more than all the rest; the protocol itself is a few fixed fields.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable
from typing import Protocol, SupportsIndex

__all__ = ["BODY", "HEADER", "METHOD", "Intake", "Taker"]

METHOD, HEADER, BODY, _HEARTBEAT = 1, 2, 3, 8
_KINDS = frozenset({METHOD, HEADER, BODY, _HEARTBEAT})
_FRAME = struct.Struct(">BHI")
_OVERHEAD = 8
_END = 206
_HEARTBEAT_FRAME = b"\x08\x00\x00\x00\x00\x00\x00\xce"
_HEARTBEAT_SECONDS = 1.0
# Channel.OpenOk, Channel.Close and Channel.CloseOk: whatever comes next by this number is for somebody else.
_TURNING_POINTS = frozenset({b"\x00\x14\x00\x0b", b"\x00\x14\x00\x28", b"\x00\x14\x00\x29"})


class Taker(Protocol):
    """Takes the frames of one channel as they come. Must not raise: that would end the connection."""

    def __call__(self, kind: int, data: bytes, start: int, stop: int, /) -> bool:
        """A frame's payload is `data[start:stop]`. False leaves the frame to the driver."""
        ...


class Intake(asyncio.StreamReader):
    """The stream that the driver reads, without the frames that were taken out of it.

    Order within a channel is kept among the frames taken, and among those left. What is no frame of AMQP 0-9-1 passes
    through untouched: the driver says what is wrong.
    """

    def __init__(self, *, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=limit, loop=loop)
        self._clock = loop.time
        self._takers: dict[int, Taker] = {}
        self._partial = b""
        self.foreign: bool = False
        """True once something has come that is no frame of AMQP 0-9-1."""
        self._passed = loop.time()

    def divert(self, channel: int, taker: Taker) -> None:
        """From now on offer this channel's frames to `taker`, until the channel is closed."""
        self._takers[channel] = taker

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        data = bytes(data)
        if self.foreign:
            super().feed_data(data)
            return
        if self._partial:
            data = self._partial + data
        takers, unpack = self._takers, _FRAME.unpack_from
        left: list[bytes] = []
        position = passed = 0
        end = len(data)
        while end - position >= _OVERHEAD:
            kind, channel, size = unpack(data, position)
            next_frame = position + _OVERHEAD + size
            if next_frame > end:
                break
            if data[next_frame - 1] != _END or kind not in _KINDS:
                self.foreign = True
                break
            taker = takers.get(channel)
            if taker is not None:
                start = position + _OVERHEAD - 1
                if taker(kind, data, start, next_frame - 1):
                    if passed < position:
                        left.append(data[passed:position])
                    passed = next_frame
                elif kind == METHOD and data[start : start + 4] in _TURNING_POINTS:
                    del takers[channel]
            position = next_frame
        if position < end and data[position] not in _KINDS:
            self.foreign = True
        if self.foreign:
            position = end
        if passed < position:
            left.append(data[passed:position])
        self._partial = data[position:]
        if left:
            self._passed = self._clock()
            super().feed_data(b"".join(left))
        elif passed and self._clock() - self._passed > _HEARTBEAT_SECONDS:
            # The driver takes a connection for dead that brings it nothing.
            self._passed = self._clock()
            super().feed_data(_HEARTBEAT_FRAME)

    def feed_eof(self) -> None:
        partial, self._partial = self._partial, b""
        if partial:
            super().feed_data(partial)
        super().feed_eof()
