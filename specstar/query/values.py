"""The value model: what a value becomes when it is indexed or compared, the same on every backend."""

from __future__ import annotations

import base64
import enum
import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from specstar.errors import QueryError

__all__ = [
    "INT_MAX",
    "INT_MIN",
    "Scalar",
    "UnindexableError",
    "micros_of",
    "normalise",
    "parse_time",
    "time_of",
    "time_text",
]


class UnindexableError(QueryError):
    """The value is no scalar at all: a mapping, a list, a struct."""


Scalar = None | bool | int | float | str

INT_MIN = -(2**63)
INT_MAX = 2**63 - 1

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def normalise(value: Any, path: str | None = None) -> Scalar:
    """The indexed form of a scalar: None, bool, a 64-bit int, a finite float, or text. Raises `QueryError` for others.

    - Numbers: an int must fit 64 bits; a float must be finite, and becomes an int where it is a whole number of 64 bits
      (so 1.0 and 1 are one value, and engines that keep decimals agree with those that keep doubles); a Decimal becomes
      an int or the nearest float; a timedelta becomes its seconds.
    - Text: no NUL and no lone surrogate. A datetime becomes UTC text of fixed width (`2024-05-01T10:00:00.000000Z`;
      without a timezone it is taken as UTC), so that text order is time order; date and time their ISO text (time with
      six digits); UUID its canonical text; bytes their base64. An enum member counts as its value.
    """
    kind = type(value)
    if kind is str:
        return _text(value, path)
    if value is None or kind is bool:
        return value  # type: ignore[no-any-return]
    if kind is int:
        return _int(value, path)
    if kind is float:
        return _float(value, path)
    if isinstance(value, enum.Enum):
        return normalise(value.value, path)
    if isinstance(value, datetime):
        return time_text(value, path)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, time):
        return value.isoformat(timespec="microseconds")
    if isinstance(value, timedelta):
        seconds, micros = divmod(value // _MICROSECOND, 1_000_000)
        return seconds if micros == 0 else value.total_seconds()
    if isinstance(value, Decimal):
        return _decimal(value, path)
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, str):
        return _text(str.__str__(value), path)
    if isinstance(value, int):
        return _int(int(value), path)
    if isinstance(value, float):
        return _float(float(value), path)
    raise UnindexableError(_at(f"a value of type {kind.__name__} cannot be compared or indexed", path), path=path)


def time_text(value: datetime, path: str | None = None) -> str:
    """A datetime as UTC text of fixed width."""
    return _utc(value, path).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def parse_time(value: str, path: str | None = None) -> datetime:
    """The datetime that ISO text means: a date alone is its midnight, no timezone is UTC. Raises `QueryError`."""
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError as exc:
        raise QueryError(_at(f"{value[:80]!r} is not a time in ISO 8601", path), path=path) from exc
    return _utc(parsed, path)


def micros_of(value: datetime) -> int:
    """Microseconds since 1970 in UTC: how SQLite stores keep the times of meta fields."""
    return (value - _EPOCH) // _MICROSECOND


def time_of(micros: int) -> datetime:
    """The aware UTC datetime of microseconds since 1970."""
    return _EPOCH + timedelta(0, 0, micros)  # by place: it takes two thirds of the time


def _at(message: str, path: str | None) -> str:
    return f"{message} - at `{path}`" if path else message


def _utc(value: datetime, path: str | None) -> datetime:
    if value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    try:
        return value.astimezone(UTC)
    except OverflowError as exc:
        raise QueryError(_at("the time lies outside the years 1 to 9999 in UTC", path), path=path) from exc


def _text(value: str, path: str | None) -> str:
    if "\x00" in value:
        raise QueryError(_at("text with a NUL character cannot be indexed or compared", path), path=path)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as exc:
            raise QueryError(_at("text with a lone surrogate cannot be indexed or compared", path), path=path) from exc
    return value


def _int(value: int, path: str | None) -> int:
    if INT_MIN <= value <= INT_MAX:
        return value
    raise QueryError(_at("an integer beyond 64 bits cannot be indexed or compared", path), path=path)


def _float(value: float, path: str | None) -> int | float:
    if value.is_integer():
        whole = int(value)
        return whole if INT_MIN <= whole <= INT_MAX else value
    if value - value != 0.0:
        raise QueryError(_at("NaN and infinity cannot be indexed or compared", path), path=path)
    return value


def _decimal(value: Decimal, path: str | None) -> int | float:
    if not value.is_finite():
        raise QueryError(_at("NaN and infinity cannot be indexed or compared", path), path=path)
    if value.adjusted() < 20 and value == value.to_integral_value():
        return _int(int(value), path) if abs(value) <= INT_MAX else _float(float(value), path)
    return _float(float(value), path)
