"""Many items cut into pieces of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

__all__ = ["portions"]

T = TypeVar("T")


def portions(
    items: Iterable[T], size_of: Callable[[T], int], *, max_bytes: int, max_items: int | None = None
) -> Iterator[list[T]]:
    """The items in their order, as many together as fit into both limits; one that is larger by itself goes alone."""
    portion: list[T] = []
    size = 0
    for item in items:
        more = size_of(item)
        if portion and (len(portion) == max_items or size + more > max_bytes):
            yield portion
            portion, size = [], 0
        portion.append(item)
        size += more
    if portion:
        yield portion
