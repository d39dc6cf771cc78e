"""Beside the jobs: erasing the state of those that finished long ago."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Any

import anyio

from specstar.errors import NotConfiguredError, SpecstarError
from specstar.message_queue.rest import rest_after

if TYPE_CHECKING:
    from specstar.message_queue.queue import JobQueue

__all__ = ["forget_for_ever"]

logger: logging.Logger = logging.getLogger("specstar")
_SHORTEST_PAUSE = 1.0
_LONGEST_PAUSE = 3600.0


async def forget_for_ever(queue: JobQueue[Any], seconds: float) -> None:
    """Erase the state of jobs that finished so many seconds ago, again and again.

    Ten times in that time, at least every hour. All workers do: what one has erased, the others do not find.
    """
    pause = min(max(seconds / 10, _SHORTEST_PAUSE), _LONGEST_PAUSE)
    took = 0.0
    while True:
        await anyio.sleep(rest_after(took, at_least=pause) * random.uniform(0.5, 1.0))
        begun = anyio.current_time()
        try:
            count = await queue.forget_finished(older_than=seconds)
            if count:
                logger.info(
                    "jobs %r: the state of %d jobs is erased, finished more than %g s ago", queue.name, count, seconds
                )
        except NotConfiguredError:
            return
        except SpecstarError as error:
            logger.warning("jobs %r: the state of old jobs is not erased yet: %s", queue.name, error)
        took = anyio.current_time() - begun
