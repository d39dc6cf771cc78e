"""When a periodic job is due: at each multiple of its seconds since 1970, by the wall clock."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import anyio

from specstar.errors import NotConfiguredError, SpecstarError

if TYPE_CHECKING:
    from specstar.message_queue.queue import JobQueue

__all__ = ["enqueue_ticks"]

logger = logging.getLogger("specstar")
# The wall clock may be set while we sleep.
_LONGEST_SLEEP = 60.0
_RETRY_SECONDS = 2.0


async def enqueue_ticks(queue: JobQueue[Any], every: float) -> None:
    """Enqueue the job at each tick, for ever. Ticks that nobody saw are left out; one that could not be enqueued is tried
    again until the next one is due. Returns if the job's queue is not configured any more.
    """
    while True:
        tick = await _next_tick(every)
        failed, missed = False, 0
        while True:
            try:
                await queue._enqueue_tick(tick, every, again=failed)
                break
            except NotConfiguredError:
                return
            except SpecstarError as error:
                if not failed:
                    logger.warning("jobs %r: the tick of %g s is not enqueued yet: %s", queue.name, every, error)
                failed = True
            left = (tick + 1) * every - time.time()
            if left > every:
                break  # the clock was set back
            if left > 0:
                await anyio.sleep(min(left, _RETRY_SECONDS))
            if (due := _after(time.time(), every) - 1) > tick:
                missed += due - tick
                tick = due
        if missed:
            logger.warning("jobs %r: %d ticks of %g s were left out", queue.name, missed, every)


async def _next_tick(every: float) -> int:
    """Sleep until the next tick; returns its number."""
    tick = _after(time.time(), every)
    while (seconds := tick * every - time.time()) > 0:
        if seconds > every + 1.0:
            tick = _after(time.time(), every)  # the clock was set back
            continue
        await anyio.sleep(min(seconds, _LONGEST_SLEEP))
    return tick


def _after(moment: float, every: float) -> int:
    return int(moment // every) + 1
