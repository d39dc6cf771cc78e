"""The searches whose plans are checked, over many rows."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from specstar.query import META_FIELDS, QB, EvaluatedRow, IndexedField, Query, build_query, make_cursor, run_query
from specstar.query.fields import MetaField, as_kinds
from tests.unit.query.generated import START

ROWS = 100_000
FIELDS = (
    IndexedField("age", as_kinds(["number"])),
    IndexedField("name.last", as_kinds(["string"])),
    IndexedField("tags", as_kinds(["list"])),
)
LIST = "element of a list"
INDEXED: tuple[IndexedField | MetaField, ...] = (*FIELDS, META_FIELDS["created_time"])


@functools.cache
def planned_rows() -> list[EvaluatedRow]:
    return list(_rows())


@functools.cache
def expected_ids(name: str) -> list[str]:
    """What the search of `PLANNED` must find, by the plain evaluator."""
    query, _ = PLANNED[name]
    return [row.meta["resource_id"] for row in run_query(query, planned_rows(), FIELDS)]


def _rows() -> Iterator[EvaluatedRow]:
    for number in range(ROWS):
        scattered = number * 7919 % ROWS
        indexed: dict[str, Any] = {"name.last": f"n{scattered:05}", "tags": [f"t{number % 1000}", "all"]}
        if number % 10:
            indexed["age"] = scattered // 4
        time = START + timedelta(seconds=number)
        meta = {
            "resource_id": f"{number:08}",
            "current_revision_id": "r",
            "revision_count": 1,
            "version": 1,
            "created_time": time,
            "updated_time": time,
            "created_by": "",
            "updated_by": "",
            "is_deleted": number % 50 == 7,
            "schema_version": None,
        }
        yield EvaluatedRow(indexed, meta)


def _queries() -> dict[str, tuple[Query, str]]:
    middle = EvaluatedRow({"age": 12_500, "name.last": "n50000"}, {"resource_id": "00050000", "created_time": START})
    age, name = QB["age"], QB["name"]["last"]
    plans: dict[str, tuple[Query, str]] = {}

    def add(title: str, field: str, condition: Any = None, sort: tuple[str, ...] = (), *, paged: bool = False) -> None:
        query = build_query(condition, fields=FIELDS, sort=sort, limit=20)
        if paged:
            after = make_cursor(query.sort, middle.indexed, middle.meta)
            query = build_query(condition, fields=FIELDS, sort=sort, limit=20, after=after)
        plans[title] = (query, field)

    add("equality", "age", age == 77)
    add("equality of text", "name.last", name == "n00077")
    add("one of", "age", age.in_([1, 2, 3]))
    add("range", "age", age.between(100, 110))
    add("below", "age", age < 20)
    add("prefix", "name.last", name.starts_with("n0007"))
    add("sort", "age", sort=("age",))
    add("sort down", "age", sort=("-age",))
    add("sort of text", "name.last", sort=("-name.last",))
    add("range and sort", "age", age >= 18, ("age",))
    add("prefix and sort", "name.last", name.starts_with("n1"), ("-name.last",))
    add("next page", "age", sort=("age",), paged=True)
    add("next page down", "name.last", sort=("-name.last",), paged=True)
    add("newest", "created_time", sort=("-created_time",))
    add("next page of newest", "created_time", sort=("-created_time",), paged=True)
    add("null", "age", age.is_null())
    add("either", "age", (age == 77) | (name == "n00077"))
    # Without a limit: with one, PostgreSQL's planner may rightly bet on walking the ids until it has enough.
    plans[LIST] = (build_query(QB["tags"].contains("t77"), fields=FIELDS), "tags")
    return plans


PLANNED = _queries()
"""By name: the search, and the field whose index must serve it."""
