"""QB and the condition tree."""

from __future__ import annotations

import enum
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given

from specstar.errors import QueryError
from specstar.query import QB, Condition, Query, SortKey, build_query, decode_condition, decode_query
from specstar.query.conditions import (
    And,
    AnyCondition,
    Compare,
    IsNull,
    Not,
    Or,
)
from specstar.query.limits import QueryLimits
from tests.unit.query.generated import FIELDS, conditions

LIMITS = QueryLimits()
A = QB["a"] == 1
B = QB["b"] == 2


class Colour(enum.Enum):
    RED = "red"


def test_operators_build_the_tree() -> None:
    condition = (QB["age"] >= 18) & (QB["name"].starts_with("A") | ~QB["tags"].contains("x"))

    assert condition == decode_condition(
        {
            "type": "and",
            "conditions": [
                {"type": "compare", "field": "age", "op": "ge", "value": 18},
                {
                    "type": "or",
                    "conditions": [
                        {"type": "starts_with", "field": "name", "value": "A"},
                        {"type": "not", "condition": {"type": "contains", "field": "tags", "value": "x"}},
                    ],
                },
            ],
        }
    )


def test_nested_fields_are_dotted_paths() -> None:
    assert (QB["address"]["city"] == "Bern") == (QB["address.city"] == "Bern")


def test_equality_with_none_is_null_or_missing() -> None:
    assert (QB["a"] == None) == IsNull(field="a")  # noqa: E711
    assert (QB["a"] != None) == Not(condition=IsNull(field="a"))  # noqa: E711


def test_inequality_is_the_negation_of_equality() -> None:
    assert (QB["a"] != 5) == ~(QB["a"] == 5)


def test_a_double_negation_falls_away() -> None:
    assert ~~A is A


def test_chains_of_one_operator_stay_flat() -> None:
    assert decode_condition(msgspec.json.encode(A & B & A)) == And(conditions=(A, B, A))  # type: ignore[arg-type]
    assert decode_condition(msgspec.json.encode(A | (B | A))) == Or(conditions=(A, B, A))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("operand", "normal"),
    [
        (1.0, 1),
        (-0.0, 0),
        (0.5, 0.5),
        (2.0**63, 2.0**63),
        (Decimal("1.50"), 1.5),
        (Decimal(2**53 + 1), 9007199254740993),
        (Decimal(10) ** 19, 1e19),
        (timedelta(hours=1), 3600),
        (timedelta(microseconds=-1), -1e-06),
        (Colour.RED, "red"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (b"\xff\x00", "/wA="),
        (date(2024, 1, 2), "2024-01-02"),
        (datetime(2024, 1, 2, 3, tzinfo=UTC), "2024-01-02T03:00:00.000000Z"),
        (datetime(2024, 1, 2, 3), "2024-01-02T03:00:00.000000Z"),  # noqa: DTZ001
        (datetime(2024, 1, 2, 3, tzinfo=timezone(timedelta(hours=2))), "2024-01-02T01:00:00.000000Z"),
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00.000000Z"),
    ],
)
def test_operands_are_normalised(operand: Any, normal: Any) -> None:
    condition = QB["a"] == operand

    assert isinstance(condition, Compare)
    assert condition.value == normal
    assert type(condition.value) is type(normal)


@pytest.mark.parametrize(
    "operand",
    [
        float("nan"), float("inf"), Decimal("NaN"), Decimal("1e999"), 2**63, -(2**63) - 1, "a\x00b", "\ud800",
        {}, [], object(), "x" * (LIMITS.max_text_characters + 1), datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))), QB["b"],
    ],
)  # fmt: skip
def test_operands_that_no_backend_can_compare_are_refused(operand: Any) -> None:
    with pytest.raises(QueryError) as caught:
        _ = QB["a"] == operand
    assert caught.value.path == "a"


def test_an_order_against_null_is_refused() -> None:
    with pytest.raises(QueryError, match="is_null"):
        _ = QB["a"] < None


def test_a_condition_has_no_truth_value() -> None:
    with pytest.raises(QueryError, match=r"combine with & \| ~"):
        _ = A and B
    with pytest.raises(QueryError, match="between"):
        _ = 1 < QB["a"] < 3


def test_missing_parentheses_are_explained() -> None:
    with pytest.raises(QueryError, match="parentheses"):
        _ = QB["a"] == 1 & QB["b"]
    with pytest.raises(QueryError, match="parentheses"):
        _ = A & True  # type: ignore[operator]


def test_a_field_is_neither_a_truth_value_nor_a_container() -> None:
    with pytest.raises(QueryError, match="has no truth value"):
        bool(QB["a"])
    with pytest.raises(QueryError, match="contains"):
        _ = 1 in QB["a"]
    with pytest.raises(TypeError):
        iter(QB["a"])  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        hash(QB["a"])


@pytest.mark.parametrize("name", ["", 5, None])
def test_a_field_is_named_by_text(name: Any) -> None:
    with pytest.raises(QueryError):
        QB[name]
    with pytest.raises(QueryError):
        QB["a"][name]


@pytest.mark.parametrize("values", ["abc", 5, b"x", None, QB["a"]])
def test_in_takes_a_list(values: Any) -> None:
    with pytest.raises(QueryError):
        QB["a"].in_(values)


def test_text_operators_take_text() -> None:
    wrong: Any = 5
    for build in (QB["a"].starts_with, QB["a"].ends_with, QB["a"].regex):
        with pytest.raises(QueryError):
            build(wrong)
    with pytest.raises(QueryError):
        QB["a"].is_null(wrong)


def test_limits_are_enforced() -> None:
    deep = A
    for level in range(LIMITS.max_depth):
        deep = (deep | B) if level % 2 else (deep & B)
    wide: Condition = Or(conditions=(A,) * LIMITS.max_conditions)  # type: ignore[arg-type]
    many: Condition = Or(conditions=(QB["a"].in_(range(LIMITS.max_in_values)),) * 11)  # type: ignore[arg-type]
    for condition, message in ((deep, "nested deeper"), (wide, "more than 1000 parts"), (many, "values")):
        with pytest.raises(QueryError, match=message):
            build_query(condition)
        with pytest.raises(QueryError, match=message):
            decode_condition(msgspec.json.encode(condition))
    with pytest.raises(QueryError, match="at most 1000 values"):
        QB["a"].in_(range(LIMITS.max_in_values + 1))


def test_a_tree_far_too_deep_for_recursion_is_refused() -> None:
    data = '{"type":"not","condition":' * 100_000 + "{}" + "}" * 100_000
    with pytest.raises(QueryError):
        decode_condition(data)
    deep = A
    for level in range(20_000):
        deep = Or(conditions=(deep,)) if level % 2 else And(conditions=(deep,))  # type: ignore[arg-type]
    with pytest.raises(QueryError, match="nested deeper"):
        build_query(deep)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff", "[]", "{}", '{"type":"drop"}', '{"type":"compare","field":"a","op":"ge","value":null}',
        '{"type":"compare","field":"a","op":"like","value":1}', '{"type":"compare","field":"a","op":"eq","value":[1]}',
        '{"type":"compare","field":"a","op":"eq","value":"\\u0000"}', '{"type":"regex","field":"a","pattern":"("}',
        '{"type":"is_null","field":"a","extra":1}', '{"type":"in","field":"a","values":[100000000000000000000]}', {"type": 5},
    ],
)  # fmt: skip
def test_garbage_is_no_condition(data: Any) -> None:
    with pytest.raises(QueryError):
        decode_condition(data)


@given(condition=conditions)
def test_conditions_travel_as_json(condition: Condition) -> None:
    assert decode_condition(msgspec.json.encode(condition)) == condition
    assert msgspec.json.decode(msgspec.json.encode(condition), type=AnyCondition) == condition


def test_queries_travel_as_json() -> None:
    query = build_query(A, sort=["-number", QB.meta["created_time"].asc()], limit=5, offset=2, include_deleted=True)

    assert decode_query(msgspec.json.encode(query)) == query
    assert decode_query({"sort": ["-number", "text"], "limit": 3}) == Query(
        sort=(SortKey("number", descending=True), SortKey("text")), limit=3
    )
    resolved = build_query(sort=["-number"], fields=FIELDS)
    assert decode_query(msgspec.json.encode(resolved)) == resolved


@pytest.mark.parametrize(
    "data", [b"", "[]", {"limit": -1}, {"limit": "5"}, {"sort": [5]}, {"after": 5}, {"sort": ["-"]}]
)
def test_garbage_is_no_query(data: Any) -> None:
    with pytest.raises(QueryError):
        decode_query(data)


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit": -1}, {"limit": 2**63}, {"limit": 1.5}, {"limit": True}, {"offset": -1}, {"offset": None}, {"sort": ["-"]},
        {"sort": [""]}, {"sort": 5}, {"sort": [5]}, {"sort": [f"f{n}" for n in range(9)]}, {"after": "x"}, {"after": ""},
        {"sort": ["items"]}, {"sort": ["nmber"]},
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(QueryError):
        build_query(fields=FIELDS, **wrong)


def test_a_query_is_made_of_conditions() -> None:
    wrong: Any = QB["a"]
    with pytest.raises(QueryError, match="QB"):
        build_query(wrong)


def test_a_lone_sort_key_needs_no_list() -> None:
    assert build_query(sort="-age").sort == build_query(sort=[QB["age"].desc()]).sort


def test_is_compares_with_truth_values_and_none() -> None:
    assert QB["active"].is_(True) == (QB["active"] == True)  # noqa: E712
    assert QB["active"].is_(False) == (QB["active"] == False)  # noqa: E712
    assert QB["active"].is_(None) == QB["active"].is_null()
    assert QB.meta["is_deleted"].is_(True) == (QB.meta["is_deleted"] == True)  # noqa: E712
    with pytest.raises(QueryError, match="compare other values with =="):
        QB["active"].is_(1)  # type: ignore[arg-type]


def test_a_field_alone_is_no_condition() -> None:
    with pytest.raises(QueryError, match=r"QB\['active'\] alone is no condition: compare it"):
        build_query(QB["active"])  # type: ignore[arg-type]
    with pytest.raises(QueryError, match=r"write QB\['active'\].is_\(False\) instead of ~"):
        ~QB["active"]
