"""Sending until the broker has confirmed: over lost connections and missing queues, within the publish timeout."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from specstar.backends.rabbitmq.faults import BLOCKED, LinkLostError, NotTakenError, ReturnedError, refused, unavailable
from specstar.backends.rabbitmq.job_queues import TYPE
from specstar.errors import LimitExceededError
from specstar.runtime import portions

if TYPE_CHECKING:
    from specstar.backends.rabbitmq.connection import RabbitMQConnection
    from specstar.backends.rabbitmq.job_queues import QueueSpec
    from specstar.backends.rabbitmq.link import Link
    from specstar.backends.rabbitmq.options import RabbitMQOptions
    from specstar.backends.rabbitmq.publisher import Publisher
    from specstar.errors import BackendError
    from specstar.runtime import LazyConnection

__all__ = ["Outbox", "TooLarge"]

TooLarge = dict[int, LimitExceededError]
"""What a broker does not take, by its place in what was to be sent."""

# So that a channel that opens and breaks at once does not become a busy loop.
_PAUSE_AFTER_LOSS = 0.02
_LONGEST_PAUSE = 0.5
# A purge may delete a queue between its declaration and the message, and another purge the next one; a queue whose node
# was killed has a new leader within a second or two.
_PATIENCE_SECONDS = 5.0
_TOGETHER_BYTES = 8 << 20


class Outbox:
    """Publishes to declared queues, each message confirmed.

    When the connection is lost before the confirm came, the message is sent again: it may then arrive twice, which the
    job's id shows. `also` names queues that must be there too.
    """

    def __init__(
        self, connection: LazyConnection[RabbitMQConnection], options: RabbitMQOptions, also: Sequence[QueueSpec]
    ) -> None:
        self._connection = connection
        self._timeout = options.publish_timeout_seconds
        self._also = tuple(also)

    async def send(
        self, queue: QueueSpec, body: bytes, *, priority: int = 0, headers: dict[str, Any] | None = None
    ) -> None:
        """Send one message. Raises `BackendUnavailable` within the publish timeout, `BackendError` if it is refused.

        Raises `LimitExceededError` if it is larger than the broker allows.
        """
        connection = self._connection.opened or await self._connection.get()
        link = connection.newest
        if (
            link is not None
            and not link.lost
            and (publisher := link.publisher) is not None
            and publisher.open
            and link.topology.fresh(queue)
        ):
            deadline = publisher.time() + self._timeout
            try:
                await publisher.publish(queue.name, body, deadline=deadline, priority=priority, headers=headers)
            except (LinkLostError, ReturnedError, NotTakenError) as error:
                if not _heals(error, queue, link, publisher):
                    raise
                await self._send_again(queue, [(body, priority)], headers, deadline, error)
            return
        deadline = asyncio.get_running_loop().time() + self._timeout
        await self._send_again(queue, [(body, priority)], headers, deadline, None)

    async def send_many(
        self, queue: QueueSpec, items: Sequence[tuple[bytes, int]], *, too_large: TooLarge | None = None
    ) -> None:
        """Send several (body, priority). After an error any of them may have been sent.

        With `too_large`, those that are larger than the broker allows are entered there, by their index, and fail alone.
        """
        if self._connection.opened is None and items:
            await self._connection.get()
        done = 0
        # Each part has its own time: on a slow line all of them together might never be done in it.
        for part in portions(items, _size, max_bytes=_TOGETHER_BYTES, max_items=len(items)):
            deadline = asyncio.get_running_loop().time() + self._timeout
            refused: TooLarge | None = None if too_large is None else {}
            await self._send_again(queue, part, None, deadline, None, refused)
            if too_large is not None and refused:
                too_large |= {done + index: problem for index, problem in refused.items()}
            done += len(part)

    async def _send_again(
        self,
        queue: QueueSpec,
        items: list[tuple[bytes, int]],
        headers: dict[str, Any] | None,
        deadline: float,
        error: Exception | None,
        too_large: TooLarge | None = None,
    ) -> None:
        connection = self._connection.opened or await self._connection.get()
        clock = asyncio.get_running_loop().time
        link: Link | None = None
        publisher: Publisher | None = None
        pause = _PAUSE_AFTER_LOSS
        patience: float | None = None
        places = list(range(len(items)))
        try:
            async with asyncio.timeout_at(deadline):
                while items:
                    try:
                        link = connection.current or await connection.link(deadline - clock())
                        await link.topology.ensure(*self._also, queue)
                        publisher = await link.open_publisher()
                        if headers is not None:
                            body, priority = items[0]
                            await publisher.publish(
                                queue.name, body, deadline=deadline, priority=priority, headers=headers
                            )
                            return
                        failed = await publisher.publish_many(queue.name, items, deadline=deadline)
                        if too_large is not None:
                            too_large |= {
                                places[index]: problem
                                for index, problem in failed
                                if isinstance(problem, LimitExceededError)
                            }
                            failed = [each for each in failed if not isinstance(each[1], LimitExceededError)]
                        if not failed:
                            return
                        items = [items[index] for index, _ in failed]
                        places = [places[index] for index, _ in failed]
                        raise _worst([problem for _, problem in failed])
                    except LinkLostError as lost:
                        error = lost
                        await asyncio.sleep(_PAUSE_AFTER_LOSS)
                    except (ReturnedError, NotTakenError) as problem:
                        error = problem
                        if link is None or publisher is None or not _heals(problem, queue, link, publisher):
                            raise
                        if patience is None:
                            patience = clock() + _PATIENCE_SECONDS
                        if clock() >= patience:
                            raise _given_up(problem, queue) from problem
                        await asyncio.sleep(pause)
                        pause = min(2 * pause, _LONGEST_PAUSE)
        except TimeoutError as over:
            blocked = link is not None and link.live and link.blocked()
            why = f"last: {error}" if error is not None else "the broker did not confirm in time"
            if blocked:
                why = BLOCKED
            raise unavailable(
                f"publishing to {queue.name!r}: not confirmed within {self._timeout:g} s ({why}); retry later"
            ) from (error or over)


def _size(item: tuple[bytes, int]) -> int:
    return len(item[0])


def _heals(error: Exception, queue: QueueSpec, link: Link, publisher: Publisher) -> bool:
    """Prepare for sending again, or later; False if to do so now would end the same way.

    A delay queue is not full: what it does not take came as it was deleted, or had no leader. A quorum queue that is full
    cannot be told from one without a leader, until a message was taken by it.
    """
    if isinstance(error, LinkLostError):
        return True
    if isinstance(error, ReturnedError):
        link.topology.forget(queue.name)
        return True
    delays = queue.renew_seconds is not None
    if queue.arguments[TYPE] != "quorum":
        return delays
    link.note_refusal(queue.name, publisher)
    link.replace_publisher(publisher)
    return delays or not link.is_full(queue.name)


def _given_up(error: Exception, queue: QueueSpec) -> BackendError:
    if isinstance(error, NotTakenError):
        return NotTakenError(queue.name)
    return refused(f"queue {queue.name!r} vanishes as soon as it is declared: does a policy expire it?")


def _worst(problems: list[Exception]) -> Exception:
    """The error that decides: one for the user, before those that sending again may heal."""
    for healed in ((LinkLostError, ReturnedError, NotTakenError), (LinkLostError, ReturnedError), LinkLostError):
        for problem in problems:
            if not isinstance(problem, healed):
                return problem
    return problems[0]
