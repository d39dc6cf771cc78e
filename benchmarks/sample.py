"""The resource that all contestants store, and how it is filled: the standard library only."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

__all__ = ["AGES_PER_ROW", "person", "shuffled_forever"]

AGES_PER_ROW = 100
"""How many resources have the same `age`: a search for one age finds so many, at any size of the table."""

_NAME_LENGTH = 24
_FRAME = 80


def person(number: int, payload: int) -> dict[str, Any]:
    """The fields of resource `number`; its JSON has about `payload` bytes."""
    return {
        "name": f"person {number:0{_NAME_LENGTH - 7}d}",
        "age": number // AGES_PER_ROW,
        "city": f"city {number % 1000}",
        "note": "x" * max(0, payload - _FRAME),
    }


def shuffled_forever(items: list[Any]) -> Iterator[Any]:
    """The items in an order that no cache foresees, again and again; the same for all contestants."""
    order = list(items)
    random.Random(7).shuffle(order)
    # Not a generator: it would shuffle when it is first asked, which is inside the measurement.
    return itertools.cycle(order)
