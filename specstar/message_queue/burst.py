"""Workers that end when there is nothing left to do: how they find out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import anyio

from specstar.errors import SpecstarError

if TYPE_CHECKING:
    from specstar.message_queue.lane import Lane

__all__ = ["until_nothing_is_left"]

logger: logging.Logger = logging.getLogger("specstar")
# What a broker has just sent is neither ready there nor here yet.
_LOOK_SECONDS = 0.25
_PAUSE_SECONDS = 2.0


async def until_nothing_is_left(lanes: Sequence[Lane]) -> None:
    """Wait until no job of these lanes is ready or runs here, in two looks between which none ran.

    Jobs that wait out a delay, and those that other workers have, are not waited for; a broker that is away is.
    """
    before = -1
    while True:
        await anyio.sleep(_LOOK_SECONDS)
        turns = sum(lane.turns for lane in lanes)
        try:
            idle = await _idle(lanes)
        except SpecstarError as error:
            logger.info("whether jobs are left could not be found out: %s", error)
            idle = False
            await anyio.sleep(_PAUSE_SECONDS)
        if idle and turns == before == sum(lane.turns for lane in lanes):
            return
        before = turns if idle else -1


async def _idle(lanes: Sequence[Lane]) -> bool:
    for lane in lanes:
        if not lane.idle or await lane.queue._messages().depth():
            return False
    return all(lane.idle for lane in lanes)
