"""What takes far longer than anyone thought: a process that was stopped, or a machine that was suspended, amid a call."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from specstar.errors import OutcomeUnknownError, SpecstarError

__all__ = ["Elapsed", "put_again"]

# Far above all time limits, far below the age at which payloads without a row are garbage: an hour unless told otherwise.
_LATE_SECONDS = 300.0


def _steady() -> float:
    """Seconds by a clock that nobody sets, and that goes on while the machine is suspended, where there is one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Elapsed:
    """How long something has taken, by the clock of this host that says most.

    A machine that is restored from a snapshot knows by its wall clock alone, and that may be set back.
    """

    __slots__ = ("_steady", "_wall")

    def __init__(self) -> None:
        self._steady: float = _steady()
        self._wall: float = time.time()

    def seconds(self) -> float:
        """Seconds since this was made."""
        return max(_steady() - self._steady, time.time() - self._wall)


async def put_again(begun: Elapsed, put: Callable[[], Awaitable[None]]) -> None:
    """Once a row is written whose payload was put since `begun`: put it again if that is long ago.

    Before the row was there the payload may have been collected as garbage, afterwards it is not. Raises
    `OutcomeUnknownError`.
    """
    if begun.seconds() < _LATE_SECONDS:
        return
    try:
        await put()
    except SpecstarError as error:
        raise OutcomeUnknownError(
            f"the row was written long after its payload, which may be gone and could not be written again: {error}",
            role="resource",
        ) from error
