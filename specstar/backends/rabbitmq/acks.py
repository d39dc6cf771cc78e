"""Acknowledging: everything that ended in one turn of the loop leaves in one write."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from specstar.backends.rabbitmq import wire

if TYPE_CHECKING:
    from aiormq.channel import Channel

__all__ = ["Acks"]

_WRITER_FULL_SECONDS = 0.002


class Acks:
    """The acks of one consuming channel.

    Tags at the low-water mark (all below them have ended) go as one ack of several. Tags above it, where a slower
    handler holds the mark down, go singly in the same write, so that it holds nobody back. A tag is acknowledged once.
    """

    def __init__(self, channel: Channel, *, public_calls_only: bool) -> None:
        self._channel = channel
        self._public_calls_only = public_calls_only
        self._loop = asyncio.get_running_loop()
        self._low = 0
        self._done: list[int] = []
        self._nacked: list[int] = []
        self._ahead: set[int] = set()
        self._scheduled = False
        self._calls: set[asyncio.Task[None]] = set()

    def done(self, tag: int) -> None:
        """This delivery is finished: acknowledge it by the end of this turn."""
        self._done.append(tag)
        self._schedule()

    def give_back(self, tag: int) -> None:
        """This delivery goes back to its queue."""
        self._nacked.append(tag)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what has ended by now."""
        self._scheduled = False
        channel = self._channel
        if channel.is_closed or not (self._done or self._nacked):
            return
        if self._public_calls_only:
            self._flush_by_public_calls()
            return
        if channel.write_queue.full():
            self._scheduled = True
            self._loop.call_later(_WRITER_FULL_SECONDS, self.flush)
            return
        wire.write(channel, b"".join(self._frames()))

    async def flush_all(self) -> None:
        """Write what has ended by now, when the connection's writer has room for it. The caller bounds the time."""
        self.flush()
        while (self._done or self._nacked) and not self._channel.is_closed:
            await asyncio.sleep(_WRITER_FULL_SECONDS)
            self.flush()
        if self._calls:
            await asyncio.wait(self._calls)

    def _frames(self) -> list[bytes]:
        number = self._channel.number
        frames = [wire.nack_frame(number, tag) for tag in self._nacked]
        self._ahead.update(self._nacked)
        self._nacked.clear()
        done = sorted(self._done)
        self._done = []
        low, ahead = self._low, self._ahead
        last = count = position = 0
        while True:
            if position < len(done) and done[position] == low + 1:
                last = low = done[position]
                position += 1
                count += 1
            elif low + 1 in ahead:
                low += 1
                ahead.discard(low)
            else:
                break
        self._low = low
        if count:
            # The broker wants the tag of an ack, also of one for several, to be outstanding itself.
            frames.append(wire.ack_frame(number, last, multiple=count > 1))
        for tag in done[position:]:
            ahead.add(tag)
            frames.append(wire.ack_frame(number, tag))
        return frames

    def _flush_by_public_calls(self) -> None:
        done, self._done = self._done, []
        nacked, self._nacked = self._nacked, []
        task = self._loop.create_task(self._call(done, nacked))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _call(self, done: list[int], nacked: list[int]) -> None:
        from aiormq.exceptions import AMQPError

        try:
            for tag in nacked:
                await self._channel.basic_nack(tag, requeue=True, wait=False)
            for tag in done:
                await self._channel.basic_ack(tag, wait=False)
        except (AMQPError, OSError, RuntimeError):
            return  # the channel is gone, and with it these deliveries: they come again
