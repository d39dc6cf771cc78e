"""The dead letters of one job: looked at, sent back to work, deleted.

Each operation takes the messages over a channel of its own and acknowledges only what it has dealt with. When that
channel closes, or this process dies, the rest goes back to its place in the queue. Meanwhile others do not see them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import structs

from specstar.backends.rabbitmq.envelope import unpack
from specstar.backends.rabbitmq.faults import translated
from specstar.backends.rabbitmq.letter_headers import REASON_HEADER, TIME_HEADER
from specstar.errors import DecodeError, LimitExceededError
from specstar.roles import DeadLetter, Message
from specstar.roles.mq import Prepare
from specstar.runtime import clean_up

if TYPE_CHECKING:
    from aiormq.abc import DeliveredMessage
    from aiormq.channel import Channel

    from specstar.backends.rabbitmq.queue import RabbitMQQueue
    from specstar.backends.rabbitmq.topology import Topology

__all__ = ["DeadLetters"]

T = TypeVar("T")
_BATCH_MESSAGES = 100
_BATCH_BYTES = 8 << 20
_GIVE_BACK_SECONDS = 1.0
_NAMED = 5


class DeadLetters:
    """The dead letters of one queue."""

    def __init__(self, queue: RabbitMQQueue) -> None:
        self._queue = queue

    async def look(self, limit: int) -> list[DeadLetter]:
        """The oldest, at most `limit` ids; of several copies of one id the latest."""

        async def read(channel: Channel, name: str) -> list[DeadLetter]:
            found: dict[str, DeadLetter] = {}
            async for received in self._each(channel, name):
                letter = self._letter(received)
                if letter.message.id not in found and len(found) >= limit:
                    break
                found[letter.message.id] = letter
            return list(found.values())

        return [] if limit <= 0 else await self._with_channel("reading", read)

    async def requeue(
        self, ids: Sequence[str] | None, lineage: str, before: Prepare | None, stays: Prepare | None
    ) -> int:
        """Send back to work with no attempts counted; each is acknowledged here once its copy is confirmed.

        `before` is awaited with the ids of each batch before it is sent, `stays` with those of it that the broker does not take.
        """
        wanted = None if ids is None else set(ids)
        sent: set[str] = set()
        refused: dict[str, LimitExceededError] = {}

        async def move(channel: Channel, name: str) -> int:
            batch: list[tuple[str, Message | bytes, int]] = []
            size = 0
            async for received in self._each(channel, name):
                message = self._letter(received).message
                if wanted is not None and message.id not in wanted:
                    continue
                # The bytes of what is not ours go back: another version may understand it.
                own = not _foreign(received.body)
                again = structs.replace(message, attempts=0, lineage=lineage) if own else received.body
                batch.append((message.id, again, received.delivery_tag or 0))
                size += len(received.body)
                if len(batch) >= _BATCH_MESSAGES or size >= _BATCH_BYTES:
                    refused.update(await self._move_batch(channel, batch, sent, before, stays))
                    batch, size = [], 0
            refused.update(await self._move_batch(channel, batch, sent, before, stays))
            return len(sent)

        count = await self._with_channel("requeueing", move)
        if refused:
            some, first = ", ".join(list(refused)[:_NAMED]), next(iter(refused.values()))
            raise LimitExceededError(
                f"{len(refused)} dead letters of {self._queue.name!r} stay ({some}), {count} are sent: {first}; "
                "raise it and restart the broker, or purge these",
                field="body",
                limit=first.limit,
                actual=first.actual,
            ) from first
        return count

    async def _move_batch(
        self,
        channel: Channel,
        batch: list[tuple[str, Message | bytes, int]],
        sent: set[str],
        before: Prepare | None,
        stays: Prepare | None,
    ) -> dict[str, LimitExceededError]:
        """Returns what the broker does not take, by id."""
        fresh = {identity: again for identity, again, _ in batch if identity not in sent}
        ids = list(fresh)
        if before is not None:
            await before(ids)
        too_large = await self._queue.send_again(list(fresh.values()))
        refused = {ids[place]: error for place, error in too_large.items()}
        sent.update(identity for identity in ids if identity not in refused)
        for identity, _, tag in batch:
            if identity not in refused:
                await channel.basic_ack(tag, wait=False)
        if refused and stays is not None:
            await stays(list(refused))
        return refused

    async def purge(self, ids: Sequence[str] | None) -> int:
        """Delete; returns how many ids."""
        if ids is None:
            return await self._queue.on_topology(self._purge_all)
        wanted, removed = set(ids), set[str]()

        async def remove(channel: Channel, name: str) -> int:
            async for received in self._each(channel, name):
                identity = self._letter(received).message.id
                if identity in wanted:
                    await channel.basic_ack(received.delivery_tag or 0, wait=False)
                    removed.add(identity)
            return len(removed)

        return await self._with_channel("purging", remove)

    async def _purge_all(self, topology: Topology) -> int:
        dead = self._queue.queues.dead
        await topology.ensure(dead)
        return await topology.purge(dead.name)

    async def _with_channel(self, doing: str, work: Callable[[Channel, str], Awaitable[T]]) -> T:
        dead = self._queue.queues.dead

        async def run() -> T:
            link = await self._queue.live_link()
            await link.topology.ensure(dead)
            channel = await link.open_channel(confirms=False)
            try:
                with translated(f"{doing} dead letters of {self._queue.name!r}", link.blocked):
                    result = await work(channel, dead.name)
                    # What was not acknowledged goes back now, in order, before the answer.
                    await channel.basic_nack(0, multiple=True, requeue=True, wait=False)
            except BaseException:
                # What it holds is there again when the caller goes on, cancelled or not.
                await clean_up(lambda: link.close_channel(channel), seconds=_GIVE_BACK_SECONDS)
                raise
            await link.close_channel(channel)
            return result

        return await self._queue.on_link(run)

    async def _each(self, channel: Channel, name: str) -> AsyncIterator[DeliveredMessage]:
        """Take messages one by one, as many as there are at the start: new ones may come in as fast."""
        from pamqp.commands import Basic

        left = 1
        first = True
        while left > 0:
            async with asyncio.timeout(self._queue.options.operation_timeout_seconds):
                # Cancelled, the driver would close the channel without waiting for that.
                received = await asyncio.shield(channel.basic_get(name))
            if not isinstance(received.delivery, Basic.GetOk):
                return
            left = received.delivery.message_count or 0 if first else left - 1
            first = False
            yield received

    def _letter(self, received: DeliveredMessage) -> DeadLetter:
        headers: dict[str, Any] = dict(received.header.properties.headers or {})
        reason, time = headers.get(REASON_HEADER), headers.get(TIME_HEADER)
        extra_attempts = 0
        if reason is None:
            deaths: Any = headers.get("x-death")
            death = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
            why = str(death.get("reason", "unknown"))
            reason = f"parked by the broker: {why}"
            time = death.get("time")
            if why == "delivery_limit":
                reason = f"delivered more than {self._queue.options.quorum_delivery_limit} times without an end"
                extra_attempts = self._queue.options.quorum_delivery_limit + 1
        try:
            message = unpack(received.body)
        except DecodeError:
            message = Message(id=f"foreign-{hashlib.sha256(received.body).hexdigest()[:32]}", body=received.body)
        if extra_attempts:
            message = structs.replace(message, attempts=message.attempts + extra_attempts)
        return DeadLetter(message=message, reason=str(reason), time=_moment(time))


def _moment(time: object) -> datetime:
    """A date, or milliseconds since 1970; now for anything else: other programs may write what they like."""
    if isinstance(time, datetime):
        return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    if isinstance(time, int):
        with contextlib.suppress(ValueError, OverflowError, OSError):
            return datetime.fromtimestamp(time / 1000, UTC)
    return datetime.now(UTC)


def _foreign(body: bytes) -> bool:
    try:
        unpack(body)
    except DecodeError:
        return True
    return False
