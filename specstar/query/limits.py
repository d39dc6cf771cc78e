"""What a query may cost at most. One set of limits a process: a condition is built before any store or spec sees it."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from specstar.errors import InvalidInputError

__all__ = ["RANGES", "QueryLimits", "limits_were_wider", "query_limits", "set_query_limits"]


class Range(NamedTuple):
    """The least and the greatest value that a limit can be set to."""

    least: int
    most: int


RANGES = {
    # SQLite refuses an expression of over 1,000 levels; a level with many operands takes up to 19 of them.
    "max_depth": Range(1, 48),
    # SQLite needs seconds to plan more.
    "max_conditions": Range(1, 4_000),
    "max_in_values": Range(1, 10_000),
    # A value is bound up to three times: SQLite takes 32,766 parameters, PostgreSQL's protocol 32,767.
    "max_values": Range(1, 10_000),
    "max_text_characters": Range(1, 1 << 20),
    # What both RE2 and PostgreSQL compile in a moment, within RE2's default budget of memory.
    "max_pattern_characters": Range(1, 4_000),
    "max_pattern_steps": Range(1, 2_000),
    "max_pattern_groups": Range(0, 50),
    "max_sort_keys": Range(1, 16),
    "max_cursor_characters": Range(1_024, 1 << 20),
}


class QueryLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a query may cost at most. A value out of its range raises `InvalidInputError`, which names the field.

    - `max_depth`: levels of a condition, a lone comparison being one (1 to 48)
    - `max_conditions`: conditions in one, leaves and branches together (1 to 4,000)
    - `max_in_values`: values of one `in_` (1 to 10,000)
    - `max_values`: values of all conditions of a query together (1 to 10,000)
    - `max_text_characters`: characters of one text to compare with (1 to 1,048,576)
    - `max_pattern_characters`: characters of one regular expression (1 to 4,000)
    - `max_pattern_steps`: steps that its repetitions multiply to (1 to 2,000)
    - `max_pattern_groups`: levels of groups within groups (0 to 50)
    - `max_sort_keys`: keys of one sort (1 to 16)
    - `max_cursor_characters`: characters of the cursor of a page (1,024 to 1,048,576)
    """

    max_depth: int = 32
    max_conditions: int = 1_000
    max_in_values: int = 1_000
    max_values: int = 10_000
    max_text_characters: int = 65_536
    max_pattern_characters: int = 1_000
    max_pattern_steps: int = 1_000
    max_pattern_groups: int = 50
    max_sort_keys: int = 8
    max_cursor_characters: int = 65_536

    def __post_init__(self) -> None:
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise InvalidInputError(f"{name} is a number from {least} to {most}, got {value!r:.80}", field=name)


_current = QueryLimits()
_lowered = False


def query_limits() -> QueryLimits:
    """The limits in force in this process."""
    return _current


def set_query_limits(limits: QueryLimits) -> None:
    """Put limits in force for all queries of this process from now on, those that are built already included."""
    global _current, _lowered
    if not isinstance(limits, QueryLimits):
        raise InvalidInputError(f"limits is a QueryLimits, got {type(limits).__name__}", field="limits")
    _lowered = _lowered or any(getattr(limits, name) < getattr(_current, name) for name in RANGES)
    _current = limits


def limits_were_wider() -> bool:
    """Whether limits were ever lowered: only then may a condition have been built under wider ones, and need another look."""
    return _lowered
