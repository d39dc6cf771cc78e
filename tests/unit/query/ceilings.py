"""Queries as large as the widest limits allow, worst for the depth of the SQL, its parameters, and the regex engines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from specstar.query import QB, Condition, QueryLimits, query_limits, set_query_limits
from specstar.query.conditions import And, Not, Or
from specstar.query.limits import RANGES

CEILINGS = QueryLimits(**{name: most for name, (_, most) in RANGES.items()})


@contextmanager
def limited(limits: QueryLimits) -> Iterator[QueryLimits]:
    """Put limits in force for a while."""
    former = query_limits()
    set_query_limits(limits)
    try:
        yield limits
    finally:
        set_query_limits(former)


def deepest(first: Condition, *, beside: int) -> Condition:
    """A tree of the greatest depth, with as many operands `beside` the deep one, which stands first, on each level."""
    others: Any = (QB["text"] == "x",) * beside
    deep: Any = first
    for level in range(CEILINGS.max_depth - 1):
        kind = Or if level % 2 else And
        deep = kind(conditions=(deep, *others))
    return deep  # type: ignore[no-any-return]


def largest() -> dict[str, Condition]:
    """To be built, and run, with the limits at their `CEILINGS`. None finds anything in a table without rows."""
    leaf = QB["number"] == 1
    nots: Any = leaf
    for level in range(CEILINGS.max_depth - 1):
        nots = And(conditions=(nots,)) if level % 2 else Not(condition=nots)
    long: Any = (QB["text"].starts_with("x" * 300),) * (CEILINGS.max_conditions - 1)
    values = [f"{number}" for number in range(CEILINGS.max_in_values)]
    spelled_out = [f"{number:0300}" for number in range(2_000)]
    steps = CEILINGS.max_pattern_steps
    return {
        "deep": deepest(leaf, beside=1),
        "deep and narrow": deepest(leaf, beside=15),
        "deep and wide": deepest(leaf, beside=63),
        "nots": nots,
        "wide": Or(conditions=long),
        "wide and": And(conditions=long),
        "many values": QB["text"].in_(values),
        "long values": QB["text"].in_(spelled_out),
        "long text": QB["text"].contains("x" * CEILINGS.max_text_characters),
        "repeated class": QB["text"].regex(f"([a-cé-ü]{{{steps // 100}}}){{49}}"),
        "nested repetitions": QB["text"].regex("(((\\w{2,9}x?){3}[^é]*){5,10}|b)+"),
        "long pattern": QB["text"].regex("|".join(["ab"] * (steps // 3 - 1))),
        "any character": QB["text"].regex(".{255}.{255}.{255}.{255}.{255}.{255}.{255}"),
        "groups": QB["text"].regex("(" * CEILINGS.max_pattern_groups + "a" + ")*" * CEILINGS.max_pattern_groups),
    }
