"""What callers pass, checked: text, whole numbers, lists. Errors name the parameter."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

from specstar.errors import InvalidInputError, LimitExceededError

__all__ = ["checked_count", "checked_text", "listed", "made_of_each"]

T = TypeVar("T")
R = TypeVar("R")
# Iterables of another kind than a list of things.
_NO_LISTS = (str, bytes, bytearray, memoryview, Mapping)


def checked_text(value: object, *, field: str, most_bytes: int | None = None) -> str:
    """Text that every backend can keep.

    Raises `InvalidInputError` for what is no text, has a NUL or is no valid Unicode, `LimitExceededError` for more than
    `most_bytes` bytes of UTF-8.
    """
    if not isinstance(value, str):
        raise InvalidInputError(f"{field} must be a str, not {type(value).__name__}", field=field)
    if value.isascii():
        size = len(value)
    else:
        try:
            size = len(value.encode())
        except UnicodeEncodeError as error:
            raise InvalidInputError(
                f"{field} is no valid Unicode text: it has a lone surrogate", field=field
            ) from error
    if most_bytes is not None and size > most_bytes:
        message = f"{field} has {size} bytes; at most {most_bytes} are allowed"
        raise LimitExceededError(message, field=field, limit=most_bytes, actual=size)
    if "\0" in value:
        raise InvalidInputError(f"{field} must not contain a NUL character", field=field)
    return value


def checked_count(value: object, field: str, least: int, most: int) -> int:
    """A whole number in its bounds. Raises `InvalidInputError`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidInputError(f"{field} is a whole number from {least} to {most}, not {value!r:.80}", field=field)
    return value


def listed(values: Iterable[T], *, field: str) -> list[T]:
    """The items as a list. Raises `InvalidInputError` for what is no list of items: a text is a sequence of texts too."""
    if not isinstance(values, Iterable) or isinstance(values, _NO_LISTS):
        raise InvalidInputError(f"{field} takes a list, not one {type(values).__name__}", field=field)
    return list(values)


def made_of_each(values: Iterable[T], make: Callable[[T], R], *, field: str, of_all: Collection[str] = ()) -> list[R]:
    """`make` of each, in order. An `InvalidInputError` says which of them it is about.

    Not where its own field is in `of_all`: what is given once for all.
    """
    made: list[R] = []
    try:
        for value in values:
            made.append(make(value))
    except InvalidInputError as error:
        if error.field not in of_all:
            error.args = (f"{error} (in {field}[{len(made)}])", *error.args[1:])
        raise
    return made
