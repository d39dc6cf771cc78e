"""Deleting all messages of a job that wait: in its queues of work, and in those in which they wait for their time."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from operator import methodcaller
from typing import TYPE_CHECKING

from specstar.errors import BackendError
from specstar.runtime import clean_up

if TYPE_CHECKING:
    from specstar.backends.rabbitmq.queue import RabbitMQQueue
    from specstar.backends.rabbitmq.topology import Topology

__all__ = ["purge"]

_END_SECONDS = 2.0


async def purge(queue: RabbitMQQueue) -> int:
    """Returns how many messages went, dead letters aside, which stay.

    Delay queues cannot be listed over AMQP, but their names are few, and deleting a missing one is no error. All programs wait
    with declaring any meanwhile.
    """

    async def prepare(topology: Topology) -> list[str]:
        await queue.routes.declare_all(topology)
        return [spec.name for spec in await queue.routes.used_shards(topology)]

    names, announced = queue.queues.names, queue.queues.purging
    targets = [names.main, *await queue.on_topology(prepare)]
    # One that cannot be declared may be there all the same, for other programs.
    made, unmade = ([names.retry], []) if queue.routes.retry_made else ([], [names.retry])
    removed = await _empty(queue, [*made, *targets])
    await queue.on_topology(methodcaller("announce_purge", announced))
    try:
        waits = [name for target in targets for name in queue.queues.waits(target)]
        deleted: int = await queue.on_topology(methodcaller("delete", [*waits, *unmade], announced))
        # What was due meanwhile.
        return removed + deleted + await _empty(queue, targets)
    finally:
        await clean_up(lambda: _over(queue), seconds=_END_SECONDS)


async def _empty(queue: RabbitMQQueue, names: Sequence[str]) -> int:
    removed: int = await queue.on_topology(methodcaller("purge", *names))
    return removed


async def _over(queue: RabbitMQQueue) -> None:
    # If it fails, the announcement goes by itself.
    with contextlib.suppress(BackendError):
        await _empty(queue, [queue.queues.names.purging])
