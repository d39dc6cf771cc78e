"""Asynchronous iterators that may be left half way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

__all__ = ["left_in_order"]

T = TypeVar("T")


@asynccontextmanager
async def left_in_order(iterator: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """End a generator with its loop, also when that is cancelled: left alone it ends at some later time, with a warning."""
    try:
        yield iterator
    finally:
        aclose = getattr(iterator, "aclose", None)
        if aclose is not None:
            await aclose()
