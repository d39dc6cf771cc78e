"""When a periodic job is due: every so many seconds, or by a cron expression in a time zone."""

from __future__ import annotations

import abc
from datetime import timedelta

from specstar.errors import InvalidInputError
from specstar.message_queue.retry import checked_seconds

__all__ = ["Every", "Schedule", "schedule_of"]


class Schedule(abc.ABC):
    """The ticks of a periodic job: whole numbers that grow, the same in all processes."""

    text: str
    """For messages."""
    every: float | None = None
    cron: str | None = None
    timezone: str | None = None

    @abc.abstractmethod
    def after(self, moment: float) -> int:
        """The first tick later than this, in seconds since 1970."""

    @abc.abstractmethod
    def moment(self, tick: int) -> float:
        """When it is due, in seconds since 1970."""

    @abc.abstractmethod
    def following(self, tick: int) -> int:
        """The next one."""

    @abc.abstractmethod
    def latest(self, tick: int, now: float) -> tuple[int, int]:
        """The latest one that is due, at least `tick`, and by how many it follows."""

    @abc.abstractmethod
    def key(self, tick: int) -> str:
        """The idempotency key of its job: of no other tick, and of no other schedule."""


class Every(Schedule):
    """At each multiple of these seconds since 1970. Ticks are the multiples."""

    def __init__(self, seconds: float | timedelta) -> None:
        self._seconds = checked_seconds(seconds, field="every", minimum=0.001)
        self.every: float | None = self._seconds
        self.text: str = f"{self._seconds:g} s"

    def after(self, moment: float) -> int:
        """The first tick later than this, in seconds since 1970."""
        return int(moment // self._seconds) + 1

    def moment(self, tick: int) -> float:
        """When it is due, in seconds since 1970."""
        return tick * self._seconds

    def following(self, tick: int) -> int:
        """The next one."""
        return tick + 1

    def latest(self, tick: int, now: float) -> tuple[int, int]:
        """The latest one that is due, at least `tick`, and by how many it follows."""
        due = max(self.after(now) - 1, tick)
        return due, due - tick

    def key(self, tick: int) -> str:
        """The idempotency key of its job."""
        return f"every {self._seconds:g} s: {tick}"


def schedule_of(*, every: float | timedelta | None, cron: str | None, timezone: str | None) -> Schedule | None:
    """The schedule of a job with these options; None if it is not periodic.

    Raises `InvalidInputError` for what cannot be, or not together, and `MissingDependencyError`.
    """
    if cron is None:
        if timezone is not None:
            raise InvalidInputError("timezone= is the time zone of cron=, which is not given", field="timezone")
        return None if every is None else Every(every)
    if every is not None:
        raise InvalidInputError("a periodic job has every= or cron=, not both", field="cron")
    from specstar.message_queue.cron import Cron

    return Cron(cron, "UTC" if timezone is None else timezone)
