"""The condition tree: frozen structs that a store compiles, and that travel as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NoReturn, Union

import msgspec
from msgspec import Struct
from msgspec.structs import force_setattr

from specstar.errors import QueryError
from specstar.query import regex
from specstar.query.limits import QueryLimits, limits_were_wider, query_limits
from specstar.query.values import Scalar, normalise

__all__ = [
    "And",
    "AnyCondition",
    "Compare",
    "Condition",
    "Contains",
    "EndsWith",
    "Exists",
    "In",
    "IsNull",
    "Leaf",
    "Not",
    "Or",
    "Regex",
    "StartsWith",
    "check_limits",
    "decode_condition",
]


class Condition(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, tag_field="type"):
    """A condition on a resource: what `QB` builds and what `&`, `|` and `~` combine."""

    def __and__(self, other: Condition) -> Condition:
        return And(conditions=_flat(And, self, other))

    def __or__(self, other: Condition) -> Condition:
        return Or(conditions=_flat(Or, self, other))

    def __invert__(self) -> Condition:
        return self.condition if isinstance(self, Not) else Not(condition=_known(self))

    def __bool__(self) -> NoReturn:
        raise QueryError(
            "a condition has no truth value: combine with & | ~ and parentheses instead of and, or, not, "
            "and write a range as QB[...].between(low, high)"
        )


class Leaf(Condition, frozen=True, kw_only=True):
    """A condition on one field. `meta` true: the meta field; false: the indexed field, else the meta field so named."""

    field: str
    meta: bool = False


class Compare(Leaf, frozen=True, kw_only=True, tag="compare"):
    """A typed comparison: only values of the operand's kind (number, text, bool) match. `eq` null: null or missing."""

    op: Literal["eq", "lt", "le", "gt", "ge"]
    value: Scalar

    def __post_init__(self) -> None:
        if self.value is None and self.op != "eq":
            raise QueryError("null has no order: use is_null()", path=self.field)
        force_setattr(self, "value", _operand(self.value, self.field))


class In(Leaf, frozen=True, kw_only=True, tag="in"):
    """Equal to one of the values. None among them stands for null or missing."""

    values: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        _check_count(self.values, self.field)
        force_setattr(self, "values", tuple(_operand(value, self.field) for value in self.values))


class Contains(Leaf, frozen=True, kw_only=True, tag="contains"):
    """A list with this element, or, where the operand is text, text with this part."""

    value: Scalar

    def __post_init__(self) -> None:
        force_setattr(self, "value", _operand(self.value, self.field))


class StartsWith(Leaf, frozen=True, kw_only=True, tag="starts_with"):
    """Text that begins with `value`."""

    value: str

    def __post_init__(self) -> None:
        force_setattr(self, "value", _text_operand(self.value, self.field))


class EndsWith(Leaf, frozen=True, kw_only=True, tag="ends_with"):
    """Text that ends with `value`."""

    value: str

    def __post_init__(self) -> None:
        force_setattr(self, "value", _text_operand(self.value, self.field))


class Regex(Leaf, frozen=True, kw_only=True, tag="regex"):
    """Text in which the pattern is found. The syntax is that of `specstar.query.regex`."""

    pattern: str
    ignore_case: bool = False

    def __post_init__(self) -> None:
        force_setattr(self, "pattern", _text_operand(self.pattern, self.field))
        regex.translate(self.pattern, ignore_case=self.ignore_case, path=self.field)


class IsNull(Leaf, frozen=True, kw_only=True, tag="is_null"):
    """Null or missing."""


class Exists(Leaf, frozen=True, kw_only=True, tag="exists"):
    """Present, be it null."""


class And(Condition, frozen=True, kw_only=True, tag="and"):
    """All of them; true if there are none."""

    conditions: tuple[AnyCondition, ...]


class Or(Condition, frozen=True, kw_only=True, tag="or"):
    """At least one of them; false if there are none."""

    conditions: tuple[AnyCondition, ...]


class Not(Condition, frozen=True, kw_only=True, tag="not"):
    """Exactly the rows that `condition` leaves out."""

    condition: AnyCondition


AnyCondition = Union[Compare, In, Contains, StartsWith, EndsWith, Regex, IsNull, Exists, And, Or, Not]  # noqa: UP007


def decode_condition(data: bytes | str | dict[str, Any]) -> Condition:
    """A condition from its JSON text or plain mapping. Raises `QueryError`, also beyond the limits."""
    try:
        if isinstance(data, dict):
            condition: Condition = msgspec.convert(data, AnyCondition)
        else:
            condition = msgspec.json.decode(data, type=AnyCondition)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as exc:
        raise QueryError(f"not a condition: {exc}") from exc
    check_limits(condition)
    return condition


def check_limits(condition: Condition) -> None:
    """Raise `QueryError` for a tree that is too deep or too large, also where it was built under wider limits."""
    limits, again = query_limits(), limits_were_wider()
    operands = 0
    for nodes, (node, depth) in enumerate(walk(condition), 1):
        operands += len(node.values) if isinstance(node, In) else isinstance(node, Leaf)
        if depth > limits.max_depth:
            raise QueryError(f"the condition is nested deeper than {limits.max_depth} levels")
        if nodes > limits.max_conditions:
            raise QueryError(f"the condition has more than {limits.max_conditions} parts")
        if operands > limits.max_values:
            raise QueryError(f"the condition has more than {limits.max_values} values")
        if again and isinstance(node, Leaf):
            _check_leaf(node, limits)


def _check_leaf(node: Leaf, limits: QueryLimits) -> None:
    """What a leaf checks when it is built."""
    if isinstance(node, In):
        _check_count(node.values, node.field)
        for value in node.values:
            _check_text(value, node.field, limits.max_text_characters)
    elif isinstance(node, Compare | Contains | StartsWith | EndsWith):
        _check_text(node.value, node.field, limits.max_text_characters)
    elif isinstance(node, Regex):
        _check_text(node.pattern, node.field, limits.max_text_characters)
        regex.translate(node.pattern, ignore_case=node.ignore_case, path=node.field)


def walk(condition: Condition) -> Iterator[tuple[Condition, int]]:
    """Every node with its depth from 1, without recursion."""
    pending: list[tuple[Condition, int]] = [(condition, 1)]
    while pending:
        node, depth = pending.pop()
        yield node, depth
        if isinstance(node, And | Or):
            pending.extend((child, depth + 1) for child in node.conditions)
        elif isinstance(node, Not):
            pending.append((node.condition, depth + 1))


def _flat(kind: type[And] | type[Or], left: Condition, right: Condition) -> tuple[AnyCondition, ...]:
    parts: tuple[AnyCondition, ...] = ()
    for side in (left, right):
        parts += side.conditions if type(side) is kind else (_known(side),)
    return parts


def _known(condition: object) -> AnyCondition:
    if not isinstance(condition, Condition):
        raise QueryError(f"& and | combine conditions, got {type(condition).__name__}; put comparisons in parentheses")
    return condition  # type: ignore[return-value]  # the union lists every concrete condition


def _operand(value: Any, path: str) -> Scalar:
    normal = normalise(value, path)
    if isinstance(normal, str) and len(normal) > query_limits().max_text_characters:
        _check_text(normal, path, query_limits().max_text_characters)
    return normal


def _check_text(value: Scalar, path: str, most: int) -> None:
    if isinstance(value, str) and len(value) > most:
        raise QueryError(f"a text to compare with has at most {most} characters, got {len(value)}", path=path)


def _check_count(values: tuple[Scalar, ...], path: str) -> None:
    most = query_limits().max_in_values
    if len(values) > most:
        raise QueryError(f"in_ takes at most {most} values, got {len(values)}", path=path)


def _text_operand(value: Any, path: str) -> str:
    text = _operand(value, path)
    if not isinstance(text, str):
        raise QueryError(f"expected text, got {type(value).__name__}", path=path)
    return text
