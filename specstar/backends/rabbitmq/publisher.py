"""Publishing with confirms: many messages in flight on one channel, the frames of many in one write."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from aiormq.exceptions import DeliveryError, PublishError

from specstar.backends.rabbitmq import wire
from specstar.backends.rabbitmq.contents import ACK, CLOSE, NACK, RETURN, Contents, settled_by
from specstar.backends.rabbitmq.faults import (
    BLOCKED,
    LinkLostError,
    NotTakenError,
    ReturnedError,
    publish_error,
    refused,
    unavailable,
)
from specstar.backends.rabbitmq.intake import METHOD
from specstar.backends.rabbitmq.outgoing import Group, Grouped, Outgoing, Single

if TYPE_CHECKING:
    from aiormq.abc import DeliveredMessage
    from aiormq.channel import Channel

    from specstar.backends.rabbitmq.transport import KeptTransport

__all__ = ["Publisher"]

_MAX_BYTES_IN_FLIGHT = 32 << 20
_WRITER_FULL_SECONDS = 0.002
_SWEEP_SECONDS = 0.05
_DRAIN_POLL_SECONDS = 0.01
_NO_ROUTE = 312
# So many go at once, and then more the more are under way: the broker begins while the other callers of a turn still run.
_FIRST = 8
# Of queues, as prefixes and jobs may come and go.
_MOST_NAMES = 1024


class Publisher:
    """A publishing channel. When it is lost, what was not confirmed ends in `LinkLostError`: its fate is not known.

    If the broker closed it over a message that is too large, or for want of a permission, those concerned say so.

    At most `window` messages and 32 MiB are sent and not confirmed; the rest waits, each until its deadline. All
    methods belong to the loop. `publish` may be cancelled: what was sent by then may still arrive.
    """

    def __init__(self, channel: Channel, transport: KeptTransport, *, window: int, blocked: Callable[[], bool]) -> None:
        self.channel = channel
        self._transport = transport
        intake = transport.intake
        self.fast_path_problem: str | None = (
            wire.problem(channel) if intake is not None else "it has no use for our transport"
        )
        self._loop = asyncio.get_running_loop()
        self.time: Callable[[], float] = self._loop.time
        self._window = window
        self._blocked = blocked
        self._limit = wire.body_limit(channel)
        self._methods: dict[str, bytes] = {}
        self._pending: deque[Outgoing] = deque()
        self._in_flight = 0
        self._bytes = 0
        self._scheduled = False
        self._held = False
        self._closed = False
        self._ending = False
        self._sweeper: asyncio.TimerHandle | None = None
        self._public_calls: set[asyncio.Task[None]] = set()
        # By tag, oldest first. An ordered dictionary forgets its oldest entry without a walk over all those before.
        self._unconfirmed: OrderedDict[int, Outgoing] = OrderedDict()
        self._tag = 0
        self._taken: set[str] = set()
        self._returns = Contents((RETURN,), self._returned)
        # Where the driver's inner parts are not as expected, this holds what the driver's own call is sending.
        self._sending: dict[int, Outgoing] = {}
        if intake is not None and self.fast_path_problem is None:
            intake.divert(channel.number, self._take)
        self._observer = channel.closing
        self._observer.add_done_callback(self._lost)

    @property
    def open(self) -> bool:
        """False once the channel is gone."""
        return not self._closed and not self._ending and not self.channel.is_closed

    def reaches(self, queue: str) -> bool:
        """True if a message for this queue was confirmed here: what is refused since then is refused by the queue itself."""
        return queue in self._taken

    async def drain(self) -> None:
        """Wait until nobody waits for a confirm any more."""
        while not self._closed and any(not outgoing.over() for outgoing in self._all()):  # noqa: ASYNC110  only while closing
            await asyncio.sleep(_DRAIN_POLL_SECONDS)

    def publish(
        self, queue: str, body: bytes, *, deadline: float, priority: int = 0, headers: dict[str, Any] | None = None
    ) -> asyncio.Future[None]:
        """Send one message. The future ends with its confirm, `LinkLostError`, `ReturnedError`, or a user's error."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        outgoing = Single(queue, body, deadline, priority, headers)
        outgoing.waiter = waiter
        if self._closed:
            outgoing.finish(LinkLostError("the channel is closed"))
            return waiter
        self._pending.append(outgoing)
        self._have_sent(deadline)
        return waiter

    async def publish_many(
        self, queue: str, items: Sequence[tuple[bytes, int]], *, deadline: float
    ) -> list[tuple[int, Exception]]:
        """Send several (body, priority). Returns the indices of those that failed, each with its error."""
        group = Group(self._loop.create_future(), len(items))
        places: dict[int, int] = {}
        for index, (body, priority) in enumerate(items):
            outgoing = Grouped(queue, body, deadline, priority)
            outgoing.group = group
            outgoing.is_over = False
            places[id(outgoing)] = index
            if self._closed:
                outgoing.finish(LinkLostError("the channel is closed"))
            else:
                self._pending.append(outgoing)
                self._have_sent(deadline)
        if group.left:
            await group.waiter
        return [(places[id(outgoing)], error) for outgoing, error in group.failed]

    # Answers of the broker.

    def _take(self, kind: int, data: bytes, start: int, stop: int, /) -> bool:
        if kind == METHOD:
            method = data[start : start + 4]
            if method in (ACK, NACK):
                tag, multiple = settled_by(data, start)
                self._confirmed(tag, multiple=multiple, refused=method == NACK)
                return True
            if method == CLOSE:
                # Once the driver has agreed, what is written on the channel ends the whole connection.
                self._ending = True
        return self._returns(kind, data, start, stop)

    def _confirmed(self, tag: int, *, multiple: bool, refused: bool) -> None:
        unconfirmed = self._unconfirmed
        if not multiple:
            outgoing = unconfirmed.pop(tag, None)
            if outgoing is not None:
                self._settled(outgoing, NotTakenError(outgoing.queue) if refused else None)
            return
        while unconfirmed and next(iter(unconfirmed)) <= tag:
            _, outgoing = unconfirmed.popitem(last=False)
            self._settled(outgoing, NotTakenError(outgoing.queue) if refused else None)

    def _returned(self, method: bytes, header: bytes, _body: bytes) -> None:
        """A message for no queue. Its confirm follows, and frees its place."""
        code, text, tag = wire.returned(method, header)
        outgoing = self._unconfirmed.get(tag)
        if outgoing is not None:
            self._taken.discard(outgoing.queue)
        if outgoing is not None and not outgoing.over():
            outgoing.finish(_returned_by_broker(code, text, outgoing.queue))

    def _settled(self, outgoing: Outgoing, error: Exception | None) -> None:
        """The broker has answered for this message."""
        outgoing.sent = False
        self._in_flight -= 1
        self._bytes -= len(outgoing.body)
        if self._pending and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)
        if not outgoing.over():
            if error is None and len(self._taken) < _MOST_NAMES:
                self._taken.add(outgoing.queue)
            outgoing.finish(error)

    # Sending.

    def _have_sent(self, deadline: float) -> None:
        """Send the pending one that came last, with others, in this turn of the loop."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)
        elif _FIRST <= len(self._pending) >= self._in_flight < self._window and not self._held:
            self._send_pending()
        if self._sweeper is None:
            self._sweeper = self._loop.call_at(deadline, self._sweep)

    def _flush(self) -> None:
        self._scheduled = False
        self._send_pending()

    def _resume(self) -> None:
        self._held = False
        self._send_pending()

    def _send_pending(self) -> None:
        if self._closed or self._ending:
            return
        if self.fast_path_problem is not None:
            self._flush_by_public_calls()
            return
        pending = self._pending
        if self._transport.full():
            if not self._held:
                self._held = True
                self._loop.call_later(_WRITER_FULL_SECONDS, self._resume)
            return
        frames: list[bytes] = []
        number, limit, methods, unconfirmed = self.channel.number, self._limit, self._methods, self._unconfirmed
        while pending and self._room(pending[0]):
            outgoing = pending.popleft()
            if outgoing.over():
                continue
            tag = self._tag + 1
            try:
                method = methods.get(outgoing.queue)
                if method is None:
                    method = wire.publish_method(number, outgoing.queue)
                    if len(methods) < _MOST_NAMES:
                        methods[outgoing.queue] = method
                content = wire.content(number, tag, outgoing.body, outgoing.priority, limit, outgoing.headers)
            except Exception as error:  # one message that cannot be encoded must not hold up the others
                outgoing.finish(refused(f"this message cannot be encoded: {error}"))
                continue
            self._tag = tag
            unconfirmed[tag] = outgoing
            frames.append(method)
            frames += content
            self._count(outgoing)
        if frames:
            self._transport.write(b"".join(frames))

    def _room(self, outgoing: Outgoing) -> bool:
        if self._in_flight >= self._window:
            return False
        return self._in_flight == 0 or self._bytes + len(outgoing.body) <= _MAX_BYTES_IN_FLIGHT

    def _count(self, outgoing: Outgoing) -> None:
        outgoing.sent = True
        self._in_flight += 1
        self._bytes += len(outgoing.body)

    def _flush_by_public_calls(self) -> None:
        while self._pending and self._room(self._pending[0]):
            outgoing = self._pending.popleft()
            if outgoing.over():
                continue
            self._count(outgoing)
            self._sending[id(outgoing)] = outgoing
            task = self._loop.create_task(self._publish_by_public_call(outgoing))
            self._public_calls.add(task)
            task.add_done_callback(self._public_calls.discard)

    async def _publish_by_public_call(self, outgoing: Outgoing) -> None:
        from pamqp.commands import Basic

        properties = Basic.Properties(delivery_mode=2, priority=outgoing.priority, headers=outgoing.headers)
        try:
            await self.channel.basic_publish(
                outgoing.body, routing_key=outgoing.queue, mandatory=True, properties=properties
            )
        except Exception as error:  # it belongs to the caller that waits
            self._settled_by_call(outgoing, _own(error, outgoing))
        except BaseException:
            self._settled_by_call(outgoing, LinkLostError("cancelled"))
            raise
        else:
            self._settled_by_call(outgoing, None)
        finally:
            self._sending.pop(id(outgoing), None)

    def _settled_by_call(self, outgoing: Outgoing, error: Exception | None) -> None:
        if not self._closed:
            self._settled(outgoing, error)

    def _all(self) -> list[Outgoing]:
        return [*self._sending.values(), *self._unconfirmed.values(), *self._pending]

    def _sweep(self) -> None:
        """Give up on what has waited too long. A sent message keeps its place in the window until its confirm."""
        self._sweeper = None
        now = self._loop.time()
        next_deadline: float | None = None
        overdue: list[Outgoing] = []
        for outgoing in self._all():
            if outgoing.over():
                continue
            if outgoing.deadline <= now + 0.001:
                overdue.append(outgoing)
            elif next_deadline is None or outgoing.deadline < next_deadline:
                next_deadline = outgoing.deadline
        if overdue:
            blocked = self._blocked()
            why = BLOCKED if blocked else "the broker did not confirm in time"
            for outgoing in overdue:
                sent = "it may arrive or not" if outgoing.sent else "it was not sent"
                outgoing.finish(unavailable(f"publishing to {outgoing.queue!r}: {why}; {sent}; retry later"))
            while self._pending and self._pending[0].over():
                self._pending.popleft()
        if next_deadline is not None:
            self._sweeper = self._loop.call_at(max(next_deadline, now + _SWEEP_SECONDS), self._sweep)

    def _lost(self, observer: asyncio.Future[Any]) -> None:
        if self._closed:
            return
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        reason = None if observer.cancelled() else observer.exception()
        for outgoing in self._all():
            if not outgoing.over():
                outgoing.finish(publish_error(reason, outgoing.queue, len(outgoing.body)))
        self._pending.clear()
        self._unconfirmed.clear()


def _own(error: Exception, outgoing: Outgoing) -> Exception:
    """The driver's error for one message, as ours."""
    queue = outgoing.queue
    if isinstance(error, PublishError):
        returned: DeliveredMessage | None = error.message
        code = getattr(returned.delivery, "reply_code", None) if returned is not None else None
        own = _returned_by_broker(code, str(error.args[0]), queue)
    elif isinstance(error, DeliveryError):
        own = NotTakenError(queue)
    else:
        own = publish_error(error, queue, len(outgoing.body))
    own.__cause__ = error
    return own


def _returned_by_broker(code: int | None, text: str, queue: str) -> Exception:
    if code == _NO_ROUTE:
        return ReturnedError(f"no queue {queue!r}")
    return refused(f"the broker returned a message for {queue!r}: {text}")
