"""The times of a cron expression in a time zone. The expression is read by cronsim; what clocks that change mean is said here."""

from __future__ import annotations

import functools
import hashlib
import time
from datetime import UTC, datetime, timedelta, tzinfo

from specstar.checks import checked_text
from specstar.errors import InvalidInputError, MissingDependencyError
from specstar.message_queue.schedule import Schedule
from specstar.suggestions import closest, did_you_mean

__all__ = ["Cron"]

_NEVER = 1 << 62
MAX_EXPRESSION_BYTES = 1_024
# A longer one stands in the key of a tick by its hash: keys have 255 bytes, names of zones up to 40.
_LONGEST_IN_KEY = 180
_MOST_COUNTED = 1_000
# What is listed beside the zones: one that each host sets for itself, and one for hosts that have not.
_NO_ZONES = frozenset({"localtime", "Factory"})


class Cron(Schedule):
    """At each time of a cron expression, by the clocks of a time zone. Ticks are their seconds since 1970.

    Where minute and hour name times (neither begins with a star), a time that the clocks leave out is due as they are set
    forward, and one that they show twice is due the first time. Any other expression is due whenever the clocks show it.

    Raises `InvalidInputError` for an expression that is none or never comes, and for an unknown zone,
    `MissingDependencyError` if the extra is not installed.
    """

    def __init__(self, expression: str, timezone: str) -> None:
        try:
            from cronsim import CronSim, CronSimError
        except ImportError as error:
            raise MissingDependencyError("cronsim", extra="cron") from error
        fields = checked_text(expression, field="cron", most_bytes=MAX_EXPRESSION_BYTES).split()
        self._expression = " ".join(fields)
        self.cron: str | None = self._expression
        self.timezone: str | None = timezone
        self.text: str = f"cron {self.cron!r} in {timezone}"
        self._zone = _zone_of(checked_text(timezone, field="timezone"))
        self._times = CronSim
        try:
            CronSim(self._expression, datetime.now(UTC))
        except (CronSimError, ValueError) as error:
            reason = str(error)
            raise InvalidInputError(
                f"cron={expression!r:.100} cannot be read as minute, hour, day of month, month and day of week, or these "
                f"after the second: {reason[:1].lower()}{reason[1:100]}",
                field="cron",
            ) from error
        minute, hour = fields[-5:-3]
        self._names_times = not (minute.startswith("*") or hour.startswith("*"))
        if self.after(time.time()) == _NEVER:
            raise InvalidInputError(f"cron={expression!r:.100} never comes: no day in 50 years fits it", field="cron")
        shown = self._expression.lower()
        if len(shown) > _LONGEST_IN_KEY:
            shown = hashlib.sha256(shown.encode()).hexdigest()
        self._key = f"cron {shown} {timezone}"

    def after(self, moment: float) -> int:
        """The first tick later than this, in seconds since 1970."""
        try:
            return self._named_after(moment) if self._names_times else self._shown_after(moment)
        except (OverflowError, ValueError):
            return _NEVER  # beyond the calendar

    def moment(self, tick: int) -> float:
        """When it is due, in seconds since 1970."""
        return tick

    def following(self, tick: int) -> int:
        """The next one."""
        return self.after(tick)

    def latest(self, tick: int, now: float) -> tuple[int, int]:
        """The latest one that is due, at least `tick`, and by how many it follows: counted to a thousand."""
        if self.after(tick) > now:
            return tick, 0
        due, start = tick, tick
        # Not one after the other: the machine may have been suspended for a year. What counts is what `after` finds.
        for clock in self._times(self._expression, self._local(now).replace(tzinfo=None), reverse=True):
            near = self._first(clock) - 1
            if near <= tick:
                break
            if self.after(near) <= now:
                start = near
                break
        while (found := self.after(start)) <= now:
            due = start = found
        count, passed = 0, tick
        while passed < due and count < _MOST_COUNTED:
            count, passed = count + 1, self.after(passed)
        return due, count

    def key(self, tick: int) -> str:
        """The idempotency key of its job."""
        return f"{self._key}: {tick}"

    def _named_after(self, moment: float) -> int:
        for clock in self._times(self._expression, self._local(moment).replace(tzinfo=None)):
            at = self._first(clock)
            if self._shift(clock) < timedelta(0):
                at = self._change(int(clock.replace(tzinfo=self._zone, fold=1).timestamp()), at)
            # Not in the second of two equal hours: there, times of the first are ahead on the clock.
            if at > moment:
                return at
        return _NEVER

    def _shown_after(self, moment: float) -> int:
        local = self._local(moment)
        start = local.replace(tzinfo=None, fold=0)
        if not local.fold and (shift := self._shift(start)) > timedelta(0):
            # In the first of two equal hours: what is left of it, then the whole second one.
            back = self._change(int(moment), int(moment + shift.total_seconds()) + 1)
            ahead = next(self._times(self._expression, start), None)
            if ahead is not None and (at := self._first(ahead)) < back:
                return at
            start = self._local(back).replace(tzinfo=None, fold=0) - timedelta(seconds=1)
        for clock in self._times(self._expression, start):
            shift = self._shift(clock)
            if shift < timedelta(0):
                continue  # left out
            at = self._first(clock)
            if at <= moment and shift:
                at += int(shift.total_seconds())
            if at > moment:
                return at
        return _NEVER

    def _local(self, moment: float) -> datetime:
        return datetime.fromtimestamp(moment, self._zone)

    def _first(self, clock: datetime) -> int:
        """When the clocks first show this; as if they had not been set forward, where they leave it out."""
        return int(clock.replace(tzinfo=self._zone).timestamp())

    def _shift(self, clock: datetime) -> timedelta:
        """By how much later clocks show this again; 0 if they do not, and less if they leave it out."""
        local = clock.replace(tzinfo=self._zone)
        return (local.utcoffset() or timedelta(0)) - (local.replace(fold=1).utcoffset() or timedelta(0))

    def _change(self, before: int, after: int) -> int:
        """When the clocks are set, between these two."""
        old = self._local(before).utcoffset()
        while after - before > 1:
            middle = (before + after) // 2
            if self._local(middle).utcoffset() == old:
                before = middle
            else:
                after = middle
        return after


@functools.cache
def _zone_of(name: str) -> tzinfo:
    if name == "UTC":
        return UTC  # without a database
    import zoneinfo

    known = zoneinfo.available_timezones() - _NO_ZONES
    if not known:
        raise MissingDependencyError("tzdata", extra="cron")
    if name not in known:
        hint = did_you_mean(closest(name, known))
        raise InvalidInputError(f"no time zone is named {name!r:.80}{hint}", field="timezone")
    return zoneinfo.ZoneInfo(name)
