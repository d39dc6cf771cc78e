"""Who writes, and when: set for a block of code, carried along with the calls made in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import NamedTuple

from specstar.checks import checked_text
from specstar.errors import InvalidInputError
from specstar.resource_manager.ids import MAX_ID_BYTES

__all__ = ["Author", "Authorship"]


def _now() -> datetime:
    return datetime.now(UTC)


class Author(NamedTuple):
    """The user that is recorded with writes, and the clock that dates them."""

    user: str = ""
    now: Callable[[], datetime] = _now


_NOBODY = Author()
_FIRST_YEAR, _LAST_YEAR = 2, 9998


class Authorship:
    """The current author of one manager, per task or thread."""

    def __init__(self, name: str) -> None:
        self._current: ContextVar[Author] = ContextVar(f"specstar-author-{name}", default=_NOBODY)

    def current(self) -> Author:
        """The author set by the innermost `using` around the caller."""
        return self._current.get()

    @contextmanager
    def using(self, *, user: str | None = None, now: datetime | Callable[[], datetime] | None = None) -> Iterator[None]:
        """Set user or time (aware) for the calls made in this block; what is None stays as it was."""
        author = self._current.get()
        if user is not None:
            text = checked_text(user, field="user", most_bytes=MAX_ID_BYTES)
            author = author._replace(user=str.__str__(text))
        if now is not None:
            author = author._replace(now=_clock(now))
        token = self._current.set(author)
        try:
            yield
        finally:
            self._current.reset(token)


def _clock(now: datetime | Callable[[], datetime]) -> Callable[[], datetime]:
    if not callable(now):
        fixed = _checked(now)
        return lambda: fixed
    clock = now
    return lambda: _checked(clock())


def _checked(now: datetime) -> datetime:
    if not isinstance(now, datetime) or now.tzinfo is None:
        raise InvalidInputError("now must be a timezone-aware datetime", field="now")
    # The ends of the calendar stand for infinity in PostgreSQL, and do not exist in every time zone.
    if not _FIRST_YEAR <= now.year <= _LAST_YEAR:
        raise InvalidInputError(f"now must be in the years {_FIRST_YEAR} to {_LAST_YEAR}, not {now.year}", field="now")
    now = now.astimezone(UTC)
    # Records are encoded without what subclasses add, and those of other libraries not at all.
    return now if type(now) is datetime else datetime.combine(datetime.date(now), datetime.timetz(now))
