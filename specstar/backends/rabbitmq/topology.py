"""Declaring the queues of jobs once a connection, and what else is asked about queues."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from specstar.backends.rabbitmq import wire
from specstar.backends.rabbitmq.faults import (
    PURGED,
    LinkLostError,
    QueueMismatchError,
    UnknownArgumentError,
    translated,
    unavailable,
    unmade,
)
from specstar.backends.rabbitmq.job_queues import CONSUMER_TIMEOUT, MODE, OVERFLOW, TYPE, JobQueues, QueueSpec
from specstar.errors import BackendError, BackendUnavailable
from specstar.runtime import clean_up

if TYPE_CHECKING:
    from aiormq.channel import Channel

    from specstar.backends.rabbitmq.link import Link

__all__ = ["Topology"]

T = TypeVar("T")
logger: logging.Logger = logging.getLogger("specstar")
# In one request, for which others on this connection wait: more the less time the broker took for the last one, the way to it
# and back aside. A queue that is not there takes no time, a quorum queue some.
_FEWEST_TOGETHER, _MOST_TOGETHER = 50, 3200
_SOON_SECONDS = 0.1
# Anything: the queue has done its work once it is declared.
_SETTLED_MILLISECONDS = 1000
# The announcement is a message, which an operator may purge.
_ANNOUNCED_SECONDS = 60.0
# How long the declaration of a queue may be under way, and how long an announced purge may take for one request.
_UNDER_WAY_SECONDS = 1.0
_ANNOUNCED_PURGE_MILLISECONDS = 20_000
_PURGE_POLL_SECONDS = 0.2
_WITHDRAW_SECONDS = 2.0


class Topology:
    """What is declared on one connection. Requests go one at a time, over a channel of their own."""

    def __init__(self, link: Link, timeout: float) -> None:
        self._link = link
        self._timeout = timeout
        self._declared: dict[str, float] = {}
        # Declared here for the first time, and not yet settled: by queue, when.
        self._unsettled: dict[str, float] = {}
        self._partitioned: dict[str, float] = {}
        # By queue, the arguments that this broker, or the queue as it is there, does not take.
        self._left_out: dict[str, set[str]] = {}
        self._lock = asyncio.Lock()
        self._limit: asyncio.Timeout | None = None
        self._heard = -math.inf
        self._purge_seen = -math.inf
        self._channel: Channel | None = None
        self._loop = asyncio.get_running_loop()

    def fresh(self, spec: QueueSpec) -> bool:
        """True if the queue is declared, and will be there for as long as a message in it needs."""
        return self._recent(spec, self._declared.get(spec.name))

    def _recent(self, spec: QueueSpec, declared: float | None) -> bool:
        if declared is None:
            return False
        return spec.renew_seconds is None or self._loop.time() - declared < spec.renew_seconds

    def forget(self, name: str) -> None:
        """The queue is not there after all."""
        self._declared.pop(name, None)
        self._unsettled.pop(name, None)
        self._partitioned.pop(name, None)
        self._left_out.pop(name, None)

    async def ensure(self, *specs: QueueSpec) -> None:
        """Declare what is not declared yet.

        Raises `QueueMismatchError`, `UnmadeQueueError`, `BackendError`, `BackendUnavailable` or `LinkLostError`.
        """
        missing = [spec for spec in specs if not self.fresh(spec)]
        if not missing:
            return
        await self._declare_together(missing)
        for spec in missing:
            if not self.fresh(spec):
                await self._declare_as_it_is(spec)
        await self._settle()

    async def declare(self, spec: QueueSpec) -> int:
        """Declare in any case; returns the number of messages ready in the queue."""
        (ready,) = await self.declare_each(spec)
        return ready

    async def declare_each(self, *specs: QueueSpec) -> list[int]:
        """Declare several in any case; returns the numbers of messages ready in them."""
        ready = await self._declare_together(specs, always=True)
        counts = [
            ready[spec.name] if spec.name in ready else await self._declare_as_it_is(spec, always=True)
            for spec in specs
        ]
        await self._settle()
        return counts

    async def _declare_together(self, specs: Sequence[QueueSpec], *, always: bool = False) -> dict[str, int]:
        """Declare in as few round trips as can be; returns how many messages are ready in those that were declared.

        What is refused, or held up by a purge, is left out, and so is what comes behind it: to be declared one by one, with an
        error of its own.
        """
        ready: dict[str, int] = {}
        wanted = [spec.without(self._left_out.get(spec.name, ())) for spec in specs]

        async def declare(channel: Channel) -> None:
            if wire.problem(channel) is not None:
                return
            left = [spec for spec in wanted if always or not self._known(spec)]
            guards = {spec.unless.name: spec.unless for spec in left if spec.unless is not None}
            first = {spec.name: spec for spec in left if spec.unless is None} | guards
            guarded = [spec for spec in left if spec.unless is not None]
            found = await self._made_together(channel, list(first.values()), settles=not guarded)
            ready.update(found)
            free = [spec for spec in guarded if spec.unless is not None and not found[spec.unless.name]]
            if guarded:
                ready.update(await self._made_together(channel, free, settles=True))

        try:
            await self._request(f"declaring {_named([spec.name for spec in specs])}", declare)
        except BackendUnavailable:
            raise
        except BackendError as error:
            logger.debug("declaring queues one by one: %s", error)
        except LinkLostError as error:
            for spec in specs:
                if (problem := unmade(error.__cause__, spec.name)) is not None:
                    raise problem from error.__cause__
            raise
        return ready

    async def _made_together(self, channel: Channel, specs: Sequence[QueueSpec], *, settles: bool) -> dict[str, int]:
        """Declare these in one write, and with `settles` a queue behind them that settles what is new."""
        asked = self._loop.time()
        frames = [wire.declare_queue(spec.name, spec.arguments) for spec in specs]
        new = [spec for spec in specs if self._is_new(spec)]
        settling = settles and (new or self._unsettled)
        before = dict(self._unsettled)
        if settling:
            frames.append(wire.declare_queue(*self._settling(new[0].name if new else next(iter(before)))))
        if not frames:
            return {}
        answers = await wire.ask(channel, frames, self._answered)
        for spec in specs:
            self._note(spec, asked)
        if settling:
            self._settled(before | {spec.name: asked for spec in new})
        return {spec.name: answer.message_count or 0 for spec, answer in zip(specs, answers, strict=False)}

    async def _declare_as_it_is(self, spec: QueueSpec, *, always: bool = False) -> int:
        """Without what makes no difference to the jobs in it, where that is not taken."""
        doing = f"declaring queue {spec.name!r}"
        patience = self._loop.time() + self._timeout
        while True:
            left_out: Collection[str] = self._left_out.get(spec.name, ())
            asked = spec.without(left_out) if left_out else spec
            try:
                ready = await self._request(doing, partial(self._declare, spec=asked, always=always))
            except (QueueMismatchError, UnknownArgumentError) as error:
                if not _dispensable(error, asked):
                    raise
                self._left_out.setdefault(spec.name, set()).add(error.argument)
            except LinkLostError as error:
                raise unmade(error.__cause__, spec.name) or error from error.__cause__
            else:
                if ready is not None:
                    return ready
                await self._while_a_purge_goes_on(doing, patience)

    @property
    def purged(self) -> bool:
        """True if somebody waits here for the end of a purge."""
        return self._loop.time() - self._purge_seen < 2 * _PURGE_POLL_SECONDS + _UNDER_WAY_SECONDS

    async def _while_a_purge_goes_on(self, doing: str, patience: float, pause: float = _PURGE_POLL_SECONDS) -> None:
        self._purge_seen = self._loop.time()
        if self._purge_seen >= patience:
            raise unavailable(f"{doing}: {PURGED}; retry later")
        await asyncio.sleep(pause)

    def partitioned(self, job: JobQueues) -> bool:
        """True if this connection has just announced that partition keys are in use, or found that somebody had."""
        announced = self._partitioned.get(job.names.partitions)
        return announced is not None and self._loop.time() - announced < _ANNOUNCED_SECONDS

    def mark_partitioned(self, job: JobQueues) -> None:
        self._partitioned[job.names.partitions] = self._loop.time()

    async def load(self, spec: QueueSpec) -> tuple[int, int]:
        """How many messages are ready in a queue that is there, and how many consumers it has."""

        async def look(channel: Channel) -> tuple[int, int]:
            answer = await channel.queue_declare(spec.name, passive=True)
            return answer.message_count or 0, answer.consumer_count or 0

        return await self._request(f"looking at queue {spec.name!r}", look)

    async def put_transient(self, spec: QueueSpec) -> int:
        """Put an empty message that is not durable into a declared queue; returns how many are ready in it."""

        async def put(channel: Channel) -> int:
            await channel.basic_publish(b"", routing_key=spec.name)
            return await self._declare(channel, spec, always=True) or 0

        return await self._request(f"writing to queue {spec.name!r}", put)

    async def purge(self, *names: str) -> int:
        """Empty queues that exist; returns how many messages were ready in them."""

        async def purge(channel: Channel) -> int:
            if wire.problem(channel) is None:
                answers = await wire.ask(channel, [wire.purge_queue(name) for name in names], self._answered)
            else:
                answers = [await channel.queue_purge(name) for name in names]
            return sum([answer.message_count or 0 for answer in answers])

        return await self._request(f"purging {_named(names)}", purge)

    async def announce_purge(self, spec: QueueSpec) -> None:
        """Have nobody declare queues in which messages wait, until this one is purged; returns when those under way are there.

        A quorum queue that is deleted in the moment in which it is made can take down what moves messages on in all quorum
        queues of its node (`rabbit_fifo_dlx_sup` of RabbitMQ 3.10), and leaves a name that cannot be declared any more.
        Waits for the end of another purge. If it fails, or is cancelled, nothing stays announced.
        """
        await self.ensure(spec)
        doing = f"writing to queue {spec.name!r}"
        patience = self._loop.time() + self._timeout
        written = False

        async def announce(channel: Channel) -> bool:
            nonlocal written
            if await self._declare(channel, spec, always=True):
                return False
            written = True
            await self._put_announcement(channel, spec)
            return True

        try:
            while not await self._request(doing, announce):
                # The others have their turn between two purges.
                await self._while_a_purge_goes_on(doing, patience, 5 * _PURGE_POLL_SECONDS)
            await asyncio.sleep(_UNDER_WAY_SECONDS)
        except BaseException:
            if written:
                await clean_up(lambda: self._withdraw(spec), seconds=_WITHDRAW_SECONDS)
            raise

    async def _withdraw(self, spec: QueueSpec) -> None:
        # If it fails, the announcement goes by itself.
        with contextlib.suppress(BackendError, LinkLostError):
            await self.purge(spec.name)

    async def _put_announcement(self, channel: Channel, spec: QueueSpec) -> None:
        """In place of the last one. It goes by itself, should this program end before the purge does."""
        from pamqp.commands import Basic

        properties = Basic.Properties(expiration=str(_ANNOUNCED_PURGE_MILLISECONDS))
        await channel.basic_publish(b"", routing_key=spec.name, properties=properties)

    async def delete(self, names: Sequence[str], announced: QueueSpec | None = None) -> int:
        """Delete those of the queues that are there; returns how many messages were in them. Goes on to announce it."""

        begun: float | None = None

        def answered() -> None:
            nonlocal begun
            begun = self._loop.time() if begun is None else begun
            self._answered()

        async def delete(channel: Channel, some: Sequence[str]) -> int:
            if wire.problem(channel) is None:
                # While a node of a cluster is down each takes 5 s.
                again = () if announced is None else wire.transient(announced.name, _ANNOUNCED_PURGE_MILLISECONDS)
                return await wire.delete_queues(channel, some, answered, again)
            removed = 0
            for name in some:
                if announced is not None:
                    await self._put_announcement(channel, announced)
                removed += (await channel.queue_delete(name)).message_count or 0
                answered()
            return removed

        for name in names:
            self.forget(name)
        removed = done = 0
        together = _FEWEST_TOGETHER
        while some := names[done : done + together]:
            begun = None
            removed += await self._request("deleting delay queues", partial(delete, some=some))
            done += len(some)
            soon = begun is not None and self._loop.time() - begun < _SOON_SECONDS
            together = min(together * 2, _MOST_TOGETHER) if soon else max(together // 4, _FEWEST_TOGETHER)
        return removed

    async def _declare(self, channel: Channel, spec: QueueSpec, *, always: bool = False) -> int | None:
        """Returns how many messages are ready; None if it is not declared, as a purge goes on."""
        if not always and self._known(spec):
            return 0
        if spec.unless is not None and await self._made(channel, spec.unless):
            return None
        return await self._made(channel, spec)

    async def _made(self, channel: Channel, spec: QueueSpec) -> int:
        asked = self._loop.time()
        answer = await channel.queue_declare(spec.name, durable=True, arguments=spec.arguments)
        self._note(spec, asked)
        return answer.message_count or 0

    def _known(self, spec: QueueSpec) -> bool:
        """Another caller may have declared it while this one waited for its turn."""
        return self._recent(spec, self._declared.get(spec.name, self._unsettled.get(spec.name)))

    def _is_new(self, spec: QueueSpec) -> bool:
        return spec.name not in self._declared and spec.arguments.get(TYPE) == "quorum"

    def _note(self, spec: QueueSpec, asked: float) -> None:
        if len(self._declared) > 10_000:
            self._declared.clear()
        (self._unsettled if self._is_new(spec) else self._declared)[spec.name] = asked

    def _settling(self, name: str) -> tuple[str, dict[str, Any]]:
        # It expires instead of being deleted: that takes 5 s while a node of a cluster is down.
        arguments = {TYPE: "quorum", "x-expires": _SETTLED_MILLISECONDS}
        return f"{name[:200]}:settling:{secrets.token_hex(4)}", arguments

    def _settled(self, made: dict[str, float]) -> None:
        for each, asked in made.items():
            if self._unsettled.pop(each, None) is not None:
                self._declared[each] = asked

    async def _settle(self) -> None:
        """Make the node write down that the new quorum queues are there: nothing is sent to them before.

        RabbitMQ 3.10 does so with the next such change, or a second later (seen in 8 of 8 kills in that second). A node
        that is killed before starts with a queue that never gets a leader, and without what was confirmed in it.
        Another new quorum queue is such a change; a classic one, or one that was there before, is not.
        """

        async def settle(channel: Channel) -> None:
            # By now another caller may have done it for this one.
            if not self._unsettled:
                return
            made = dict(self._unsettled)
            name, arguments = self._settling(next(iter(made)))
            await channel.queue_declare(name, durable=True, arguments=arguments)
            self._settled(made)

        if self._unsettled:
            await self._request("declaring a queue that settles others", settle)

    def _answered(self) -> None:
        """One of many that were asked for in this request is done: the next has its own time."""
        self._heard = self._loop.time()
        if self._limit is not None:
            self._limit.reschedule(self._loop.time() + self._timeout)

    async def _request(self, doing: str, send: Callable[[Channel], Awaitable[T]]) -> T:
        came = self._loop.time()
        async with self._lock:
            if self._loop.time() - max(came, self._heard) >= self._timeout:
                # Else each of many would wait for the time limits of all before it.
                raise unavailable(f"{doing}: the broker did not answer those who asked before in time; retry later")
            channel = self._channel
            if channel is None or channel.is_closed:
                channel = self._channel = await self._link.open_channel(confirms=False)
            try:
                with translated(doing, self._link.blocked):
                    async with asyncio.timeout(self._timeout) as self._limit:
                        try:
                            answer = await send(channel)
                        except Exception:  # a refusal is an answer, too
                            self._heard = self._loop.time()
                            raise
                        self._heard = self._loop.time()
                        return answer
            except BaseException:
                # After any failure or cancellation the broker closes the channel, or an answer may still come.
                self._channel = None
                self._link.discard(channel)
                raise


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"queue {names[0]!r}{more}" if names else "queues"


def _dispensable(error: QueueMismatchError | UnknownArgumentError, spec: QueueSpec) -> bool:
    """True if the queue will do without the argument that was refused."""
    if error.argument not in spec.arguments:
        return False
    if isinstance(error, QueueMismatchError):
        # Someone else made the queue, or an earlier version. What moves messages on by itself must not lose them.
        moves_on = "x-dead-letter-exchange" in spec.arguments
        of_no_matter = {MODE} | ({TYPE} if spec.any_type else set()) | (set() if moves_on else {OVERFLOW})
        return error.argument in of_no_matter
    if error.argument == CONSUMER_TIMEOUT and spec.arguments[TYPE] == "classic":
        # RabbitMQ 4.3 watches quorum queues only: its issues 16983 and 17144.
        logger.warning(
            "queue %r: this broker has no consumer timeout for classic queues: consumer_timeout_seconds is left out",
            spec.name,
        )
        return True
    return False
