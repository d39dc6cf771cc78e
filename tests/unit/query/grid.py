"""Every operator with every operand over every value that has tripped a query engine before: small, complete, no chance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from specstar.query import QB, Condition, EvaluatedRow, Query, build_query, make_cursor, project
from tests.unit.query.generated import FIELDS, OPERATIONS, compared

TIME = datetime(2024, 12, 31, 23, 59, 59, 123_456, tzinfo=UTC)
LONG = "é" * 256
TEXTS: list[str] = [
    "", " ", "=", "a", "A", "a%", "a_", "ab", "a\ud7ff", "a\ue000", "a\U0010ffff", "a\U0010ffffb", "b", "é", "e\u0301",
    "ﬀ", "\U0001f600", "\U0010ffff", "\U0010ffff\U0010ffff", "null", "1", "1.0", "true", "[]", "\\", "'", '"', "\n", "a\n",
    LONG[:255], LONG[:255] + "a", LONG, LONG + "a", LONG + "b", LONG + "é", LONG[:255] + "ê", LONG[:255] + "êa",
    "2024-01-01T00:00:00.000000Z", "a" * 255 + "\U0010ffff", "a" * 256, "a" * 300,
]  # fmt: skip
NUMBERS: list[int | float] = [
    0, 1, -1, 0.5, -0.5, 0.1, 0.1 + 0.2, 0.3, 1e-300, 5e-324, 1e300, -1e300, 1.7976931348623157e308, 2**31, 2**53 - 1, 2**53,
    2**53 + 1, 2.0**53, 2**60 + 1, 2**60, 2.0**60, 2**63 - 1, -(2**63), 2.0**63, -(2.0**63) * 1.0000000000000002, 2**62 + 1,
    math.nextafter(2.0**63, 0), math.nextafter(1.0, 2.0), math.pi, 1e22, 1e23, 123456789.123456789, 4.35, 2.675,
]  # fmt: skip
OTHERS: list[Any] = [None, True, False, [], ["a"], [1], [True], [None], [1.5, "1", "b"], [{}], {}]
VALUES: list[Any] = [*TEXTS, *NUMBERS, *OTHERS]
LISTED = [value for value in VALUES if not isinstance(value, list | dict)]


def grid_rows() -> list[EvaluatedRow]:
    """One row a value: in the field of its kind, in the one of all kinds, and texts in a meta field too."""
    rows: list[EvaluatedRow] = []
    for number, value in enumerate([*VALUES, ...]):
        payload = {} if value is ... else {_field(value): value, FIELDS[5].path: value}
        meta = {
            "resource_id": f"id{number:03}" if number % 2 else f"Id{number:03}",
            "current_revision_id": "r",
            "revision_count": number % 3,
            "version": 1,
            "created_time": TIME + timedelta(microseconds=number - 2),
            "updated_time": TIME,
            "created_by": value if isinstance(value, str) else "",
            "updated_by": "",
            "is_deleted": number % 7 == 6,
            "schema_version": value if isinstance(value, str) else None,
        }
        rows.append(EvaluatedRow(project(payload, FIELDS), meta))
    return rows


def _field(value: Any) -> str:
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, str):
        return "text"
    return "number" if isinstance(value, int | float) else "items" if isinstance(value, list) else "text"


def grid_conditions() -> Iterator[Condition]:
    everything = QB[FIELDS[5].path]
    for field in (QB["number"], QB["flag"], QB["text"], everything, QB["created_by"], QB["schema_version"]):
        yield from (field.is_null(), field.is_null(False), field.exists(), field.exists(False))
        for operand in LISTED:
            yield field == operand
            yield field.contains(operand)
            yield field.in_([operand, "a", 7])
            if operand is not None:
                yield from (compared(field, sign, operand) for sign in OPERATIONS)
            if isinstance(operand, str):
                yield from (field.starts_with(operand), field.ends_with(operand), ~field.starts_with(operand))
    yield from (QB["items"].contains(operand) for operand in LISTED)
    yield from (QB["items"] == operand for operand in LISTED)
    for offset in range(-2, 3):
        time = TIME + timedelta(microseconds=offset)
        for operand in (time, time.isoformat(), time.astimezone(UTC).date()):
            yield from (compared(QB["created_time"], sign, operand) for sign in OPERATIONS)
    for regex in (
        "",
        "^$",
        "^a",
        "a$",
        "^.$",
        "^.*$",
        "\\n",
        "\\\\",
        "[é-ﬀ]",
        "%|_",
        "^[^a-z]",
        "\\d",
        "\\s",
        "é{255}",
    ):
        yield from (everything.regex(regex), ~QB["text"].regex(regex), QB["created_by"].regex(regex, ignore_case=True))


def grid_queries(rows: list[EvaluatedRow]) -> Iterator[Query]:
    for condition in grid_conditions():
        yield build_query(condition, fields=FIELDS, include_deleted=True)
    for sort in (
        ["text"], ["-text"], ["number"], ["-number"], ["flag", "-text"], ["-" + FIELDS[5].path], [FIELDS[5].path, "-number"],
        ["schema_version", "-created_time"], ["-created_by", "-resource_id", "text"], [], ["-is_deleted", "revision_count"],
    ):  # fmt: skip
        built = build_query(fields=FIELDS, sort=sort)
        yield built
        for row in rows:
            after = make_cursor(built.sort, row.indexed, row.meta)
            yield build_query(fields=FIELDS, sort=sort, after=after, limit=7)
