"""Enqueueing periodic jobs when they are due, by the wall clock."""

from __future__ import annotations

import enum
import logging
import sys
import time
from typing import Any

import anyio

from specstar.errors import InvalidInputError, NotConfiguredError, SpecstarError
from specstar.message_queue.codec import JobCodec
from specstar.message_queue.job import JobStatus
from specstar.message_queue.schedule import Schedule
from specstar.message_queue.sender import JobSender

__all__ = ["Ticks", "enqueue_ticks", "payload_of_ticks"]

logger: logging.Logger = logging.getLogger("specstar")
# The wall clock may be set while we sleep.
_LONGEST_SLEEP = 60.0
_RETRY_SECONDS = 2.0
# A record that is gone by the second look was taken back by its sender, unless it may have run and been forgotten by then.
_SOON_FORGOTTEN_SECONDS = 10.0


class Look(enum.Enum):
    """Why a tick is enqueued. The value: how often the record of another worker may have been written, to be sent again."""

    first = 0
    """It is due."""
    after_another = 1
    """Another worker was first, a while ago. One of those who look again then sends what still waits."""
    after_failure = sys.maxsize
    """It failed before, and may have left a record without a message."""


class Ticks:
    """The ticks of one periodic job, and which of them this process has sent."""

    def __init__(
        self,
        name: str,
        schedule: Schedule,
        payload: Any,
        sender: JobSender,
        *,
        keep_state: bool,
        forget_after: float | None = None,
    ) -> None:
        self.name = name
        self.schedule = schedule
        self._payload = payload
        self._sender = sender
        self._keep_state = keep_state
        self._looks_again = forget_after is None or forget_after >= _SOON_FORGOTTEN_SECONDS
        self._last: int | None = None

    async def enqueue(self, tick: int, *, look: Look = Look.first) -> bool:
        """Send the job of one tick; where state is shared, only the first of several workers does.

        False after the first look: another worker made its record, and may end before it has sent the message.
        """
        if not self._keep_state and look is not Look.after_failure:
            if self._last == tick:
                return True  # of another worker in this process
            self._last = tick
        key = self.schedule.key(tick) if self._keep_state else None
        record, _ = self._sender.record(self._payload, None, key, None, None, self._headers())
        # Payloads of one tick may differ, by their defaults: the first counts.
        sent = await self._sender.send(record, 0.0, most_touches=look.value)
        if look is not Look.first or not self._looks_again:
            return True
        return sent is record or sent.status is not JobStatus.pending

    def _headers(self) -> dict[str, str] | None:
        try:
            return self._sender.headers(None)
        except Exception:
            # Nobody is there to be told, and the job matters more.
            logger.exception("jobs %r: middleware failed, so a tick is sent without headers", self.name)
            return None


def payload_of_ticks(codec: JobCodec[Any], given: Any) -> Any:
    """What a periodic job is sent with: what was given, or the type's own default. Checked now, not at the first tick.

    Raises `InvalidInputError`.
    """
    payload = given
    if given is None and codec.payload_type not in {None, type(None)}:
        try:
            payload = codec.payload_type()
        except TypeError as error:
            message = f"the periodic job {codec.name!r} needs every_payload=, as its type has no default: {error}"
            raise InvalidInputError(message, field="every_payload") from error
    codec.encode_payload(payload)
    return payload


async def enqueue_ticks(ticks: Ticks) -> None:
    """Enqueue the job at each tick, for ever. Ticks that nobody saw are left out; one that could not be enqueued is tried
    again until the next one is due. Returns if the job's queue is not configured any more.
    """
    schedule = ticks.schedule
    while True:
        tick = await _next_tick(schedule)
        look, missed = Look.first, 0
        while True:
            try:
                if await ticks.enqueue(tick, look=look):
                    break
                look = Look.after_another
            except NotConfiguredError:
                return
            except SpecstarError as error:
                if look is not Look.after_failure:
                    logger.warning("jobs %r: the tick of %s is not enqueued yet: %s", ticks.name, schedule.text, error)
                look = Look.after_failure
            now = time.time()
            if now < schedule.moment(tick):
                break  # the clock was set back
            left = schedule.moment(schedule.following(tick)) - now
            if look is Look.after_another and left <= _RETRY_SECONDS:
                break  # the next one makes up for it
            if left > 0:
                await anyio.sleep(min(left, _RETRY_SECONDS))
            due, passed = schedule.latest(tick, time.time())
            if due > tick:
                if look is Look.after_another:
                    look = Look.first
                else:
                    missed += passed
                tick = due
        if missed:
            logger.warning("jobs %r: %d ticks of %s were left out", ticks.name, missed, schedule.text)


async def _next_tick(schedule: Schedule) -> int:
    """Sleep until the next tick; returns the latest that is due then.

    Where process or machine stood still, others have run what was due before that, and may have forgotten it.
    """
    since = time.time()
    tick = schedule.after(since)
    while (seconds := schedule.moment(tick) - (now := time.time())) > 0:
        if now < since and schedule.after(now + 1.0) < tick:
            since, tick = now, schedule.after(now)  # the clock was set back
            continue
        await anyio.sleep(min(seconds, _LONGEST_SLEEP))
    return schedule.latest(tick, now)[0]
