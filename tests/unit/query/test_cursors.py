"""Cursors, the order they walk, and what is refused."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specstar.errors import QueryError
from specstar.query import QB, EvaluatedRow, IndexedField, build_query, cursor_of, make_cursor, run_query
from specstar.query.fields import as_kinds
from tests.unit.query.generated import FIELDS, START


class Row(msgspec.Struct):
    resource_id: str
    created_time: Any = START
    indexed_data: dict[str, Any] = {}


def row(resource_id: str, **indexed: Any) -> EvaluatedRow:
    meta = {"resource_id": resource_id, "created_time": START, "is_deleted": False}
    return EvaluatedRow(indexed, meta)


def ids(rows: list[EvaluatedRow]) -> list[str]:
    return [found.meta["resource_id"] for found in rows]


def test_null_and_missing_come_first_and_last_when_descending() -> None:
    rows = [row("a", number=1), row("b", number=None), row("c"), row("d", number=-5)]

    assert ids(run_query(build_query(sort=["number"]), rows, FIELDS)) == ["b", "c", "d", "a"]
    assert ids(run_query(build_query(sort=["-number"]), rows, FIELDS)) == ["a", "d", "c", "b"]


def test_ties_are_broken_by_id_in_the_direction_of_the_last_key() -> None:
    rows = [row("b", number=1), row("a", number=1), row("c", number=1)]

    assert ids(run_query(build_query(), rows, FIELDS)) == ["a", "b", "c"]
    assert ids(run_query(build_query(sort=["number"]), rows, FIELDS)) == ["a", "b", "c"]
    assert ids(run_query(build_query(sort=["-number"]), rows, FIELDS)) == ["c", "b", "a"]
    assert ids(run_query(build_query(sort=["-number", "text"]), rows, FIELDS)) == ["a", "b", "c"]


def test_kinds_have_an_order_among_them() -> None:
    field = IndexedField("any", as_kinds(["bool", "number", "string", "list"]))
    values: list[Any] = [None, False, True, -1, 2, "", "z", [1]]
    rows = [row(str(number), any=value) for number, value in enumerate(values)]

    assert ids(run_query(build_query(sort=["any"]), rows[::-1], [field])) == [str(number) for number in range(8)]


def test_a_cursor_stands_behind_its_row() -> None:
    rows = [row("a", number=1), row("b", number=2), row("c", number=2), row("d")]
    query = build_query(sort=["-number"], fields=FIELDS)
    cursor = cursor_of(query, Row("c", indexed_data={"number": 2}))

    assert cursor == make_cursor(query.sort, rows[2].indexed, rows[2].meta)
    assert ids(run_query(build_query(sort=["-number"], after=cursor), rows, FIELDS)) == ["b", "a", "d"]


def test_a_cursor_is_short_and_fit_for_a_url() -> None:
    query = build_query(sort=["-text", "created_time"], fields=FIELDS)
    cursor = cursor_of(query, Row("é/?&=" * 3, indexed_data={"text": "é" * 100_000}))

    assert len(cursor) < 1_000
    assert set(cursor) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_a_cursor_belongs_to_one_sort() -> None:
    cursor = cursor_of(build_query(sort=["number"], fields=FIELDS), Row("a", indexed_data={"number": 2}))

    for sort in (["-number"], ["text"], [], ["number", "text"], [QB.meta["version"].asc()]):
        with pytest.raises(QueryError, match="another sort"):
            build_query(sort=sort, after=cursor, fields=FIELDS)
    with pytest.raises(QueryError, match="another sort"):
        build_query(sort=["number"], after=cursor, fields=[IndexedField("number", as_kinds(["string"]))])


def test_a_cursor_needs_a_resolved_query() -> None:
    with pytest.raises(QueryError, match="resolved"):
        cursor_of(build_query(sort=["number"]), Row("a", indexed_data={"number": 2}))


def packed(value: Any) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(value)).rstrip(b"=").decode()


KEYS = [{"field": "number", "kinds": ["number"]}, {"field": "resource_id", "meta": True}]


@pytest.mark.parametrize(
    "cursor",
    [
        "", "x", "!!!", "é", "A" * 100_000, packed(None), packed([]), packed([1, KEYS, []]), packed([1, KEYS, [1]]),
        packed([1, KEYS, ["x", "id"]]), packed([1, KEYS, [True, "id"]]), packed([1, KEYS, [1, None]]), packed([1, KEYS, [1, 5]]),
        packed([1, KEYS, [1, "a\x00"]]), packed([1, KEYS, [2**70, "a"]]), packed([1, KEYS, [[1], "a"]]),
        packed([2, KEYS, [1, "id"]]), packed([1, KEYS, [1, "id"], 0]), packed([1, KEYS, [1, "id", "x"]]),
    ],
)  # fmt: skip
def test_garbage_is_no_cursor(cursor: str) -> None:
    with pytest.raises(QueryError) as caught:
        build_query(sort=["number"], after=cursor, fields=FIELDS)
    assert caught.value.path == "after"


def test_a_cursor_with_a_time_that_is_none_is_refused() -> None:
    keys = [{"field": "created_time", "meta": True}, {"field": "resource_id", "meta": True}]

    assert build_query(sort=["created_time"], after=packed([1, keys, [0, "id"]]), fields=[]).after is not None
    for micros in (2**62, -(2**62), "soon", None, 1.5):
        with pytest.raises(QueryError):
            build_query(sort=["created_time"], after=packed([1, keys, [micros, "id"]]), fields=[])


def test_a_large_float_read_back_as_digits_is_the_same_position() -> None:
    sort = build_query(sort=["number"], fields=FIELDS).sort
    meta = {"resource_id": "a"}

    assert make_cursor(sort, {"number": 10**300}, meta) == make_cursor(sort, {"number": 1e300}, meta)


@given(
    cursor=st.one_of(
        st.text(max_size=40), st.binary(max_size=40).map(lambda data: base64.urlsafe_b64encode(data).decode())
    )
)
def test_noise_is_no_cursor(cursor: str) -> None:
    with pytest.raises(QueryError):
        build_query(sort=["number"], after=cursor, fields=FIELDS)


def test_a_good_cursor_of_the_same_shape_is_taken() -> None:
    assert build_query(sort=["number"], after=packed([1, KEYS, [1, "id"]]), fields=FIELDS).after is not None
