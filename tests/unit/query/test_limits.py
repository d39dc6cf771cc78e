"""The limits of queries: how they are set, that they hold whenever a query was built, and that the widest ones can run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import apsw
import msgspec
import pytest

import specstar
from specstar.errors import InvalidInputError, QueryError
from specstar.query import (
    META_FIELDS,
    POSTGRES,
    QB,
    SQLITE,
    Condition,
    Query,
    QueryLimits,
    build_query,
    compile_count,
    compile_query,
    decode_condition,
    decode_query,
    query_limits,
    regex_function,
    resolve_condition,
    resolve_query,
    run_query,
    set_query_limits,
)
from specstar.query.cursor import make_cursor
from specstar.query.limits import RANGES
from specstar.query.regex import search, translate
from tests.unit.query.ceilings import CEILINGS, largest, limited
from tests.unit.query.generated import FIELDS, record, schema
from tests.unit.query.grid import grid_rows

LEAF = QB["number"] == 1


@pytest.fixture(autouse=True)
def limits_as_they_were() -> Iterator[None]:
    with limited(query_limits()):
        yield


def test_each_limit_has_a_range_and_its_default_within() -> None:
    assert {field.name for field in msgspec.structs.fields(QueryLimits)} == set(RANGES)
    assert query_limits() == QueryLimits()
    assert QueryLimits(max_depth=5).max_depth == 5


@pytest.mark.parametrize("name", RANGES)
def test_a_value_out_of_its_range_is_refused_by_name(name: str) -> None:
    least, most = RANGES[name]
    for right in (least, most):
        assert getattr(QueryLimits(**{name: right}), name) == right
    wrong: list[Any] = [least - 1, most + 1, True, 5.0, "5", None]
    for value in wrong:
        with pytest.raises(InvalidInputError, match=f"{name} is a number from {least} to {most}") as caught:
            QueryLimits(**{name: value})
        assert caught.value.field == name


def test_only_limits_can_be_put_in_force() -> None:
    wrong: Any = {"max_depth": 5}
    with pytest.raises(InvalidInputError) as caught:
        set_query_limits(wrong)
    assert caught.value.field == "limits"
    assert query_limits() == QueryLimits()


def test_the_package_has_them_without_loading_queries_first() -> None:
    code = (
        "import sys, specstar; assert 'specstar.query' not in sys.modules;"
        "specstar.set_query_limits(specstar.QueryLimits(max_depth=2)); assert specstar.query_limits().max_depth == 2"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert specstar.QueryLimits is QueryLimits


REFUSED: list[tuple[str, Callable[[], Condition], dict[str, int], str]] = [
    ("depth", lambda: ~(LEAF | ~LEAF), {"max_depth": 3}, "nested deeper than 3 levels"),
    ("conditions", lambda: LEAF | LEAF | LEAF, {"max_conditions": 3}, "more than 3 parts"),
    ("values", lambda: QB["text"].in_(["a", "b"]) | LEAF, {"max_values": 2}, "more than 2 values"),
    ("in_", lambda: QB["text"].in_(["a", "b", "c"]), {"max_in_values": 2}, "at most 2 values, got 3"),
    ("compared", lambda: QB["text"] == "abcd", {"max_text_characters": 3}, "at most 3 characters, got 4"),
    ("one of", lambda: QB["text"].in_(["a", "abcd"]), {"max_text_characters": 3}, "at most 3 characters, got 4"),
    ("contained", lambda: QB["text"].contains("abcd"), {"max_text_characters": 3}, "at most 3 characters"),
    ("prefix", lambda: QB["text"].starts_with("abcd"), {"max_text_characters": 3}, "at most 3 characters"),
    ("suffix", lambda: QB["text"].ends_with("abcd"), {"max_text_characters": 3}, "at most 3 characters"),
    ("pattern", lambda: QB["text"].regex("abcd"), {"max_pattern_characters": 3}, "at most 3 characters, got 4"),
    ("steps", lambda: QB["text"].regex("a{20}"), {"max_pattern_steps": 19}, "multiply to more than 19 steps"),
    ("groups", lambda: QB["text"].regex("((a))"), {"max_pattern_groups": 1}, "deeper than 1"),
]


@pytest.mark.parametrize(("build", "lowered", "message"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED])
def test_a_lowered_limit_holds_for_what_is_built_decoded_or_given_to_a_store(
    build: Callable[[], Condition], lowered: dict[str, int], message: str
) -> None:
    built = build()
    text, mapping = msgspec.json.encode(built), msgspec.to_builtins(built)
    query = build_query(built, fields=FIELDS)
    ways: list[Callable[[], object]] = [
        lambda: build_query(build()),
        lambda: build_query(built),
        lambda: build_query(built, fields=FIELDS),
        lambda: decode_condition(text),
        lambda: decode_condition(mapping),
        lambda: decode_query({"condition": mapping}),
        lambda: resolve_condition(built, FIELDS),
        lambda: resolve_query(query, FIELDS),
        lambda: run_query(query, [], FIELDS),
        *(lambda dialect=dialect: compile_query(query, FIELDS, dialect) for dialect in (SQLITE, POSTGRES)),
        *(lambda dialect=dialect: compile_count(built, FIELDS, dialect) for dialect in (SQLITE, POSTGRES)),
    ]
    for way in ways:
        way()
    set_query_limits(QueryLimits(**lowered))
    for way in ways:
        with pytest.raises(QueryError, match=message):
            way()
    set_query_limits(QueryLimits())
    for way in ways:
        way()


def test_a_raised_limit_lets_more_through() -> None:
    ways: list[Callable[[], object]] = [
        lambda: QB["text"].in_(range(1_001)),
        lambda: QB["text"] == "x" * 65_537,
        lambda: translate("a" * 1_500),
        lambda: translate("(a{30}b{30}){20}"),
    ]
    for way in ways:
        with pytest.raises(QueryError):
            way()
    set_query_limits(CEILINGS)
    for way in ways:
        way()
    set_query_limits(QueryLimits())
    for way in ways:
        with pytest.raises(QueryError):
            way()


def test_repetitions_within_each_other_have_the_bound_of_re2_under_any_limits() -> None:
    set_query_limits(CEILINGS)
    for pattern in (
        "(a{40}){25}",
        "(a{40}b{3}){25}",
        "(?:(?:a{10}){10}){10}",
        "a{255}b{255}c{255}",
        "(ab{0}){255}",
        "(a{2,}){255}",
    ):
        assert not search(translate(pattern), "")
    for pattern in ("(a{40}){26}", "(b{3}(a{40}|c)){26}", "((a{10}){10}){11}", "(a{5,}){201}"):
        with pytest.raises(QueryError, match="repetitions within each other multiply to more than 1000"):
            QB["text"].regex(pattern)


def test_the_number_of_sort_keys_is_limited() -> None:
    keys = ["number", "text", "flag"]
    built = Query(sort=build_query(sort=keys).sort)
    set_query_limits(QueryLimits(max_sort_keys=2))
    for way in (
        lambda: build_query(sort=keys),
        lambda: decode_query({"sort": keys}),
        lambda: resolve_query(built, FIELDS),
        lambda: run_query(built, [], FIELDS),
        lambda: compile_query(built, FIELDS, SQLITE),
    ):
        with pytest.raises(QueryError, match="at most 2 keys, got 3"):
            way()


def test_the_length_of_a_cursor_is_limited() -> None:
    row = grid_rows()[0]
    sort = build_query(sort="text", fields=FIELDS).sort
    cursor = make_cursor(sort, {"text": "é" * 256}, {**row.meta, "resource_id": "é" * 512})
    assert 1_024 < len(cursor) < 65_536
    build_query(fields=FIELDS, sort="text", after=cursor)
    for length, limits in ((len(cursor), QueryLimits(max_cursor_characters=1_024)), (65_537, QueryLimits())):
        set_query_limits(limits)
        most = limits.max_cursor_characters
        with pytest.raises(QueryError, match=f"a cursor has at most {most} characters, got {length}"):
            build_query(fields=FIELDS, sort="text", after=cursor.ljust(length, "A"))


@pytest.mark.slow
def test_the_largest_queries_run_in_memory_and_on_sqlite() -> None:
    database = apsw.Connection(":memory:")
    database.create_scalar_function("specstar_regex", regex_function, 2, deterministic=True)
    for statement in schema(SQLITE):
        database.execute(statement)
    rows = grid_rows()[:20]
    marks = ", ".join("?" * (len(META_FIELDS) + 1))
    database.executemany(f"INSERT INTO resources VALUES ({marks})", [record(row, SQLITE) for row in rows])
    with limited(CEILINGS):
        for name, condition in largest().items():
            assert decode_condition(msgspec.json.encode(condition)) == condition
            found = run_query(build_query(condition), rows, FIELDS)
            where, params = compile_count(condition, FIELDS, SQLITE)
            counted = list(database.execute(f"SELECT count(*) FROM resources WHERE {where}", params))
            assert counted == [(len(found),)], name
    database.close()


def test_the_widest_sort_runs_on_sqlite_with_its_cursor() -> None:
    database = apsw.Connection(":memory:")
    for statement in schema(SQLITE):
        database.execute(statement)
    paths = [field.path for field in FIELDS if field.kinds != {"list"}]
    keys = [("-" if number % 2 else "") + path for number, path in enumerate([*paths, *META_FIELDS][:16])]
    with limited(CEILINGS):
        query = build_query(sort=keys, fields=FIELDS)
        after = make_cursor(query.sort, {}, grid_rows()[0].meta)
        compiled = compile_query(build_query(sort=keys, after=after, fields=FIELDS), FIELDS, SQLITE)
        sql = f"SELECT resource_id FROM resources WHERE {compiled.where} ORDER BY {compiled.order_by}"
        assert list(database.execute(sql, compiled.params)) == []
    database.close()
