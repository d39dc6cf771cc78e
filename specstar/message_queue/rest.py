"""How long to rest between two looks at all records of a queue."""

from __future__ import annotations

__all__ = ["rest_after"]

# Among very many records a look takes a while: stores have other things to do.
_TIMES_AS_LONG = 60


def rest_after(took: float, *, at_least: float) -> float:
    """Seconds to rest after a look that took so many."""
    return max(at_least, _TIMES_AS_LONG * took)
