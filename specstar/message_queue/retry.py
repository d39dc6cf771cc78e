"""When and how often a failed job is tried again."""

from __future__ import annotations

import math
from datetime import timedelta

from msgspec import Struct

from specstar.errors import InvalidInputError

__all__ = ["MAX_DELAY_SECONDS", "RetryPolicy", "checked_factor", "checked_seconds"]

MAX_DELAY_SECONDS = 365 * 86_400.0
"""The longest delay of a job, in seconds."""


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """`max_retries` tries after the first, `delay` seconds before the first retry, `backoff` times longer each time.

    There is no jitter: each distinct delay is a queue of its own on some brokers, and jobs of one kind may share it.
    """

    max_retries: int
    delay: float
    backoff: float = 1.0
    max_delay: float = 3600.0

    @property
    def max_attempts(self) -> int:
        """The runs that a job has at most."""
        return self.max_retries + 1

    def delay_after(self, attempts: int) -> float:
        """Seconds to wait after the failed attempt number `attempts`."""
        if self.delay <= 0:
            return 0.0
        try:
            delay = self.delay * self.backoff ** max(attempts - 1, 0)
        except OverflowError:
            delay = math.inf
        # Whole milliseconds, so that equal delays are equal numbers.
        return round(min(delay, max(self.max_delay, self.delay)), 3)


def checked_seconds(value: object, *, field: str, minimum: float = 0.0) -> float:
    """`value`, a number or a `timedelta`, as seconds. Raises `InvalidInputError` if it is none from `minimum` to one year."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not minimum <= seconds <= MAX_DELAY_SECONDS:
        message = (
            f"{field} must be from {minimum:g} to {MAX_DELAY_SECONDS:,.0f} seconds, or a timedelta, not {value!r:.80}"
        )
        raise InvalidInputError(message, field=field)
    return float(seconds)


def checked_factor(value: object, *, field: str) -> float:
    """`value` as a float. Raises `InvalidInputError` if it is not a number from 1 on that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= MAX_DELAY_SECONDS:
        message = f"{field} must be a factor from 1 to {MAX_DELAY_SECONDS:,.0f}, not {value!r:.80}"
        raise InvalidInputError(message, field=field)
    return float(value)
