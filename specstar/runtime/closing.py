"""The end of all that a runtime has open: what ends first, and within how many seconds."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import anyio

from specstar.runtime.connections import Connections
from specstar.runtime.home import Home

__all__ = ["HURRIED_SECONDS", "End", "close_in_order"]

End: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
HURRIED_SECONDS = 1.0
"""What closing may take where the program was interrupted, or its loop ends."""


async def close_in_order(
    home: Home,
    connections: Connections,
    *,
    workers: dict[object, End],
    sendings: dict[object, End],
    limit: float,
    hurried: bool,
) -> None:
    """End workers, then sendings, then close the connections, each within `limit` seconds, then cancel what still runs.

    On the home loop. `hurried`: the three within two seconds together. Cancelled, it lets the sendings end all the same.
    """
    if hurried:
        limit = min(limit, HURRIED_SECONDS)
    try:
        for owners in (workers, sendings):
            await _end_all(owners, limit / 2 if hurried else limit)
        home.closing = True
        # In a hurry the limit is for all connections together.
        await connections.aclose(limit / max(1, len(connections.opened())) if hurried else limit)
    except BaseException:
        with anyio.CancelScope(shield=True):  # no job is cut in two for that
            await _end_all(sendings, min(limit, HURRIED_SECONDS))
        raise
    finally:
        home.closing = True
        with anyio.CancelScope(shield=True):  # else nothing of it happens in a scope that is cancelled
            await home.cancel_tasks(limit)


async def _end_all(owners: dict[object, End], limit: float) -> None:
    if owners:
        with anyio.move_on_after(limit):
            async with anyio.create_task_group() as group:
                for end in list(owners.values()):
                    group.start_soon(end)
