"""What the compiler writes: parameters, names, and trees at their limits."""

from __future__ import annotations

import re

import apsw
import pytest
from hypothesis import given, settings

from specstar.errors import QueryError
from specstar.query import (
    META_FIELDS,
    POSTGRES,
    QB,
    SQLITE,
    Condition,
    Dialect,
    IndexedField,
    build_query,
    compile_count,
    compile_query,
    index_definitions,
    quote_identifier,
    regex_function,
)
from specstar.query.conditions import Or
from specstar.query.fields import as_kinds
from specstar.query.limits import QueryLimits
from specstar.query.sql import successor
from tests.unit.query.generated import FIELDS, conditions, schema

HOSTILE = ["'; DROP TABLE resources; --", '"', "\\", "$1", "?", "%s", "é", "a.b", "$.x[0]", "x" * 200]


@settings(deadline=None)
@given(condition=conditions)
def test_parameters_come_in_the_order_of_the_text(condition: Condition) -> None:
    where, params = compile_count(condition, FIELDS, POSTGRES, first_param=3)
    named = re.sub(r"'(?:[^']|'')*'", "", where)
    assert [int(number) for number in re.findall(r"\$(\d+)", named)] == list(range(3, 3 + len(params)))

    where, params = compile_count(condition, FIELDS, SQLITE)
    assert re.sub(r"'(?:[^']|'')*'", "", where).count("?") == len(params)


def test_operands_never_stand_in_the_text() -> None:
    secret = "s3cr3t'\"\\"
    condition = (
        (QB["text"] == secret)
        | QB["text"].in_([secret])
        | QB["items"].contains(secret)
        | QB["text"].starts_with(secret)
        | QB["text"].regex("s3cr3t")
        | (QB["created_by"] == secret)
    )
    for dialect in (SQLITE, POSTGRES):
        where, params = compile_count(condition, FIELDS, dialect)
        assert "s3cr3t" not in where
        assert "s3cr3t" in repr(params)


@pytest.mark.parametrize("dialect", [SQLITE, POSTGRES], ids=lambda dialect: dialect.name)
def test_index_names_are_safe_short_and_distinct(dialect: Dialect) -> None:
    names: list[str] = []
    for table in ("t", "T", "x" * 63, "é" * 30):
        for path in HOSTILE:
            names += [index.name for index in index_definitions(table, IndexedField(path), dialect)]
    assert len(set(names)) == len(names)
    for name in names:
        assert re.fullmatch(r"[a-z0-9_]{1,63}", name)


@pytest.mark.parametrize("path", HOSTILE)
def test_hostile_field_names_are_data(path: str) -> None:
    database = apsw.Connection(":memory:")
    for statement in schema(SQLITE):
        database.execute(statement)
    field = IndexedField(path, as_kinds(["string", "number", "bool", "list"]))
    for index in index_definitions("resources", field, SQLITE):
        database.execute(index.sql)
    compiled = compile_query(build_query((QB[path] == "x") | QB[path].contains(1), sort=[path]), [field], SQLITE)
    sql = f"SELECT * FROM resources WHERE {compiled.where} ORDER BY {compiled.order_by}"
    assert list(database.execute(sql, compiled.params)) == []
    database.close()


def test_neither_the_id_nor_the_deleted_flag_gets_an_index_of_its_own() -> None:
    for name in ("resource_id", "is_deleted"):
        assert index_definitions("t", META_FIELDS[name], SQLITE) == []
        assert index_definitions("t", META_FIELDS[name], POSTGRES) == []


def test_identifiers_are_quoted() -> None:
    assert quote_identifier('a"b') == '"a""b"'
    for wrong in ("", "a\x00"):
        with pytest.raises(ValueError, match="identifier"):
            quote_identifier(wrong)


@pytest.mark.parametrize(
    ("prefix", "above"),
    [("a", "b"), ("a\U0010ffff", "b"), ("\ud7ff", "\ue000"), ("\U0010ffff", None), ("", None), ("=é", "=ê")],
)
def test_the_successor_is_by_code_point(prefix: str, above: str | None) -> None:
    assert successor(prefix) == above


def largest_conditions() -> list[Condition]:
    """Trees at the limits: the deepest, the widest, and those with the most values."""
    deep = QB["number"] == 1
    for level in range(30):
        other = QB["text"].starts_with("a") if level % 3 else QB["items"].contains("x")
        deep = (deep | other) if level % 2 else (deep & other)
    wide: Condition = Or(conditions=(QB["text"] != "x" * 300,) * 499)  # type: ignore[arg-type]
    values = [f"{number}" for number in range(QueryLimits().max_in_values)]
    many: Condition = Or(conditions=(QB["text"].in_(values),) * 10)  # type: ignore[arg-type]
    long = QB["text"].in_([f"{number:0300}" for number in range(QueryLimits().max_in_values)])
    return [~deep, wide, many, long]


def test_trees_at_the_limits_run_on_sqlite() -> None:
    database = apsw.Connection(":memory:")
    database.create_scalar_function("specstar_regex", regex_function, 2, deterministic=True)
    for statement in schema(SQLITE):
        database.execute(statement)
    for condition in largest_conditions():
        for tried in (condition, ~condition):
            where, params = compile_count(tried, FIELDS, SQLITE)
            assert list(database.execute(f"SELECT count(*) FROM resources WHERE {where}", params)) == [(0,)]
    database.close()


def test_times_are_compared_as_times() -> None:
    with pytest.raises(QueryError, match="not a time"):
        compile_count(QB["created_time"] > "soon", FIELDS, SQLITE)
    for condition in (
        QB["created_time"].contains("2"),
        QB["created_time"].regex("2"),
        QB["created_time"].starts_with("2"),
    ):
        with pytest.raises(QueryError, match="is a time"):
            compile_count(condition, FIELDS, SQLITE)


def test_an_unknown_field_is_refused_when_a_query_is_run() -> None:
    with pytest.raises(QueryError) as caught:
        compile_query(build_query(QB["txt"] == 1), FIELDS, SQLITE)
    assert caught.value.suggestion == "text"
