"""The same queries in plain Python: what the SQL of both dialects must agree with."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from specstar.errors import QueryError
from specstar.query import regex
from specstar.query.conditions import (
    And,
    Compare,
    Condition,
    Contains,
    EndsWith,
    Exists,
    In,
    IsNull,
    Leaf,
    Not,
    Or,
    Regex,
    StartsWith,
)
from specstar.query.cursor import cursor_position
from specstar.query.fields import META_FIELDS, Fields, IndexedField, MetaField
from specstar.query.ordering import Part, SortKey, effective_sort, kind_of, parts_of
from specstar.query.query import Query, resolve_query
from specstar.query.sql import meta_operand
from specstar.query.values import Scalar, micros_of

__all__ = ["EvaluatedRow", "matches", "run_query", "sort_key"]

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


class EvaluatedRow(NamedTuple):
    """A row: its projection, and its meta fields by name (times as aware datetimes)."""

    indexed: Mapping[str, Any]
    meta: Mapping[str, Any]


def matches(condition: Condition, indexed: Mapping[str, Any], meta: Mapping[str, Any]) -> bool:
    """Whether a row meets a resolved condition: names are settled by `resolve_condition` or `build_query(fields=...)`."""
    if isinstance(condition, And):
        return all(matches(child, indexed, meta) for child in condition.conditions)
    if isinstance(condition, Or):
        return any(matches(child, indexed, meta) for child in condition.conditions)
    if isinstance(condition, Not):
        return not matches(condition.condition, indexed, meta)
    if not isinstance(condition, Leaf):
        raise QueryError(f"{type(condition).__name__} is no condition that stores know")
    if condition.meta:
        return _meta_leaf(condition, META_FIELDS[condition.field], meta[condition.field])
    present = condition.field in indexed
    return present if isinstance(condition, Exists) else _leaf(condition, indexed.get(condition.field))


def sort_key(sort: Sequence[SortKey]) -> Callable[[EvaluatedRow], tuple[Any, ...]]:
    """A key function for `sorted`, from the keys of a resolved query."""
    parts = [part for key in effective_sort(tuple(sort)) for part in parts_of(key)]
    return lambda row: tuple(_ordered(part, part.value(row.indexed, row.meta)) for part in parts)


def run_query(
    query: Query, rows: Iterable[EvaluatedRow], fields: Fields | Iterable[IndexedField]
) -> list[EvaluatedRow]:
    """The whole query over rows in memory: filter, sort, position, page."""
    query = resolve_query(query, fields)
    found = [
        row
        for row in rows
        if (query.include_deleted or not row.meta["is_deleted"])
        and (query.condition is None or matches(query.condition, row.indexed, row.meta))
    ]
    key = sort_key(query.sort)
    found.sort(key=key)
    if query.after is not None:
        position = tuple(_ordered(part, value) for part, value in cursor_position(query.after, query.sort))
        found = [row for row in found if key(row) > position]
    end = None if query.limit is None else query.offset + query.limit
    return found[query.offset : end]


def _leaf(node: Leaf, value: Any) -> bool:
    if isinstance(node, Compare):
        return _compare(node.op, value, node.value)
    if isinstance(node, In):
        return any(_compare("eq", value, operand) for operand in node.values)
    if isinstance(node, IsNull):
        return value is None
    if isinstance(node, Contains):
        if isinstance(value, list):
            return any(kind_of(item) == kind_of(node.value) and item == node.value for item in value)
        return isinstance(value, str) and isinstance(node.value, str) and node.value in value
    return isinstance(value, str) and _text_leaf(node, value)


def _text_leaf(node: Leaf, text: str) -> bool:
    if isinstance(node, StartsWith):
        return text.startswith(node.value)
    if isinstance(node, EndsWith):
        return text.endswith(node.value)
    if isinstance(node, Regex):
        return regex.search(regex.spelled(node.pattern, ignore_case=node.ignore_case, path=node.field), text)
    raise QueryError(f"{type(node).__name__} is no condition that stores know", path=node.field)


def _compare(op: str, value: Any, operand: Scalar) -> bool:
    if kind_of(value) != kind_of(operand) or isinstance(value, list | dict):
        return False
    return True if operand is None else _OPERATORS[op](value, operand)


def _meta_leaf(node: Leaf, field: MetaField, value: Any) -> bool:
    if isinstance(node, Exists):
        return True
    if isinstance(node, IsNull):
        return value is None
    if isinstance(value, datetime):
        return _time_leaf(node, field, micros_of(value))
    if isinstance(node, Compare | In):
        return _leaf(node, value)
    return isinstance(value, str) and _leaf(node, value)


def _time_leaf(node: Leaf, field: MetaField, micros: int) -> bool:
    if isinstance(node, Compare):
        operand = meta_operand(field, node.value)
        return operand is not None and _OPERATORS[node.op](micros, operand)
    if isinstance(node, In):
        return micros in [meta_operand(field, value) for value in node.values]
    raise QueryError(f"{field.name} is a time: compare it, or use between or in_", path=field.name)


class _Descending:
    """Turns the order of one value around."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Descending) and self.value == other.value

    def __lt__(self, other: _Descending) -> bool:
        return bool(other.value < self.value)

    __hash__ = None  # type: ignore[assignment]


def _ordered(part: Part, value: Scalar) -> Any:
    comparable = (value is not None, 0 if value is None else value)
    return _Descending(comparable) if part.descending else comparable
