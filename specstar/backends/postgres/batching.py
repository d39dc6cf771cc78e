"""What the batches of all readers and writers of a connection have in common: how many rows, and how many at once."""

from __future__ import annotations

__all__ = ["MANY_AT_ONCE", "MAX_IN_FLIGHT", "MAX_ROWS", "MAX_WHEN_SLOW"]

MAX_ROWS = 256
"""Of one statement."""
MAX_IN_FLIGHT = 2
"""Batches of one kind and model: one is decoded here while the server works on the other."""
MAX_WHEN_SLOW = 4
"""The same while they take long, most of it on the way."""
MANY_AT_ONCE = 4
"""Statements under way of one call that reads or writes many."""
