"""Ids: time-ordered and unguessable, in the form of UUID version 7 (RFC 9562), and the rules for ids that callers give."""

from __future__ import annotations

import os
import re
import threading
from datetime import UTC, datetime, timedelta
from time import time_ns
from typing import TypeGuard

from specstar.checks import checked_text
from specstar.errors import InvalidInputError

__all__ = ["MAX_ID_BYTES", "checked_age", "checked_id", "id_after", "is_id", "new_id"]

MAX_ID_BYTES = 1024
"""The longest id a caller may give, in bytes of UTF-8: what every backend can index."""

_LONGEST_AGE = 100 * 366 * 86_400
_TAILS_AT_ONCE = 256
_TAIL_AT = 18
# The two highest of the random bits are the variant: 10.
_VARIANT = bytes(byte & 0x3F | 0x80 for byte in range(256))
_FRACTIONS = [f"{fraction:03x}" for fraction in range(4096)]

_PATTERN = re.compile(r"([0-9a-f]{8})-([0-9a-f]{4})-7([0-9a-f]{3})-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LAST_STAMP = (1 << 60) - 1

_lock = threading.Lock()
_last_stamp = 0
_tails: list[str] = []
_head: tuple[int, str] = (-1, "")


def new_id() -> str:
    """A new UUIDv7: 48 bits of milliseconds, 12 bits of the fraction, 62 random bits.

    Ids made by one process sort in the order in which they were made: a stamp that would repeat is moved on by one
    (RFC 9562, 6.2, method 3).
    """
    global _last_stamp, _head
    with _lock:
        stamp = _stamp_of(time_ns())
        if stamp <= _last_stamp:
            stamp = _last_stamp + 1
        _last_stamp = stamp
        if not _tails:
            _tails.extend(_new_tails())
        tail = _tails.pop()
    milliseconds = stamp >> 12
    known, head = _head
    if milliseconds != known:
        head = _head_of(milliseconds)
        _head = milliseconds, head
    return head + _FRACTIONS[stamp & 0xFFF] + tail


def id_after(earlier: str, *, changed: datetime | None = None, revisions: int = 0) -> str:
    """A new id that sorts behind this one, also if that was made by a clock which is ahead of ours.

    With the (aware) time of a resource's last change and the number of its revisions, behind the ids of all of these: the
    current one may be an older one that was switched to.
    """
    made = new_id()
    parts = None if made > earlier else _PATTERN.fullmatch(earlier)
    stamp = int("".join(parts.groups()), 16) + 1 if parts is not None else 0
    if changed is not None:
        # A clock that is behind moves an id on by one: no more often than there are revisions.
        nanoseconds = ((changed - _EPOCH) // _MICROSECOND + 1) * 1000
        stamp = max(stamp, _stamp_of(nanoseconds) + revisions)
    if stamp > _LAST_STAMP:
        return made
    return max(made, _head_of(stamp >> 12) + _FRACTIONS[stamp & 0xFFF] + made[_TAIL_AT:])


def _stamp_of(nanoseconds: int) -> int:
    """60 bits: milliseconds, then the rest of the millisecond in 4096ths."""
    return (nanoseconds << 6) // 15_625


def _head_of(milliseconds: int) -> str:
    return f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-7"


def _new_tails() -> list[str]:
    """The random parts of the next ids."""
    random = bytearray(os.urandom(8 * _TAILS_AT_ONCE))
    random[::8] = random[::8].translate(_VARIANT)
    digits = random.hex()
    return [f"-{digits[at : at + 4]}-{digits[at + 4 : at + 16]}" for at in range(0, len(digits), 16)]


def checked_id(value: str, *, field: str = "resource_id") -> str:
    """The id itself, if every backend can keep it.

    Raises `InvalidInputError` for what is no text, is empty, has a NUL or is no valid Unicode, `LimitExceededError` for
    more than `MAX_ID_BYTES` bytes.
    """
    if type(value) is not str:
        raise InvalidInputError(f"{field} must be a str, not {type(value).__name__}", field=field)
    if not value:
        raise InvalidInputError(f"{field} must not be empty", field=field)
    return checked_text(value, field=field, most_bytes=MAX_ID_BYTES)


def is_id(value: str | None) -> TypeGuard[str]:
    """True for what may be the id of something stored."""
    try:
        return value is not None and bool(checked_id(value))
    except InvalidInputError:
        return False


def _after_fork() -> None:
    # A child that went on with its parent's random parts would make its parent's ids.
    global _tails, _lock
    _tails = []
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def checked_age(seconds: float) -> float:
    """How old garbage must be, in seconds; below 0, what a clock that is ahead wrote is old too. Raises `InvalidInputError`
    for what is no time within a hundred years.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not abs(seconds) <= _LONGEST_AGE:
        raise InvalidInputError(
            f"older_than_seconds is at most {_LONGEST_AGE:,}, not {seconds!r}", field="older_than_seconds"
        )
    return float(seconds)
