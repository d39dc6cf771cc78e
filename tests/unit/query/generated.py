"""Random rows, conditions, queries and patterns, and the table that holds the rows on either engine."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from hypothesis import strategies as st

from specstar.query import (
    META_FIELDS,
    QB,
    SQLITE,
    Condition,
    Dialect,
    EvaluatedRow,
    IndexedField,
    MetaField,
    Query,
    build_query,
    index_definitions,
    make_cursor,
    micros_of,
    project,
    run_query,
)
from specstar.query.fields import as_kinds

ODD = "od\"d'\\é $1 ?"
FIELDS = (
    IndexedField("number", as_kinds(["number"])),
    IndexedField("text", as_kinds(["string"])),
    IndexedField("flag", as_kinds(["bool"])),
    IndexedField("items", as_kinds(["list"])),
    IndexedField("outer.inner", as_kinds(["string", "number"])),
    IndexedField(ODD, as_kinds(["bool", "number", "string", "list"])),
    # Hides the meta field of its name.
    IndexedField("version", as_kinds(["number"])),
)
KINDS = {field.path: field.kinds for field in FIELDS}
START = datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC)
LETTERS = "aAbBé\u0301ß日\U0001f600\U0010ffff\ud7ff\ue000%_\\'\"\n\r =<>0\x01\x7f"

texts = st.one_of(
    st.text(st.sampled_from(LETTERS), max_size=4),
    st.sampled_from(["null", "true", "1", "[]", "{}", "=", "a=b"]),
    st.builds(lambda n, end: "x" * n + end, st.sampled_from([255, 256, 257]), st.text("xyé", max_size=2)),
)
numbers = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([0.5, -0.5, 1.0, -0.0, 1e300, -1e300, 5e-324, 0.1, 0.1 + 0.2, 2.0**53, 2**53 + 1, 2.0**63]),
    st.sampled_from([2**63 - 1, -(2**63), 2**60, 2.0**60, 2**60 + 1, 1e17, 10**17 + 1, math.nextafter(1e17, 0)]),
    st.floats(allow_nan=False, allow_infinity=False),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
lists = st.lists(st.one_of(scalars, st.just({"x": 1}), st.just([1])), max_size=3)
BY_KIND: dict[str, st.SearchStrategy[Any]] = {"number": numbers, "string": texts, "bool": st.booleans(), "list": lists}
times = st.builds(lambda n: START + timedelta(microseconds=n), st.integers(-1, 1))
names = st.sampled_from(["ann", "bob", "", "Ann", "é", "a%"])


def _value(path: str) -> st.SearchStrategy[Any]:
    kinds = sorted(KINDS[path])
    odd: list[st.SearchStrategy[Any]] = [st.just({})] if "list" in kinds else []
    return st.one_of(st.none(), *(BY_KIND[kind] for kind in kinds), *odd)


@st.composite
def rows(draw: st.DrawFn) -> list[EvaluatedRow]:
    found: list[EvaluatedRow] = []
    ids = draw(st.lists(st.one_of(st.text("ab", min_size=1, max_size=3), texts), max_size=10, unique=True))
    for resource_id in ids:
        flat: dict[str, Any] = {path: draw(_value(path)) for path in KINDS if draw(st.integers(0, 4))}
        payload = {path: value for path, value in flat.items() if path != "outer.inner"}
        if "outer.inner" in flat:
            payload["outer"] = {"inner": flat["outer.inner"]}
        meta = {
            "resource_id": resource_id,
            "current_revision_id": draw(names),
            "revision_count": draw(st.integers(0, 2)),
            "version": draw(st.integers(0, 2)),
            "created_time": draw(times),
            "updated_time": draw(times),
            "created_by": draw(names),
            "updated_by": draw(names),
            "is_deleted": draw(st.integers(0, 3)) == 0,
            "schema_version": draw(st.one_of(st.none(), names)),
        }
        found.append(EvaluatedRow(project(payload, FIELDS), meta))
    return found


@st.composite
def patterns(draw: st.DrawFn, depth: int = 2) -> tuple[str, str]:
    """A pattern in our syntax, and the same one for `re`."""
    simple = st.sampled_from(
        [
            ("a", "a"), ("b", "b"), ("é", "é"), ("A", "A"), (".", "[^\n]"), ("\\.", "\\."), ("^", "^"), ("$", "\\Z"),
            ("\\d", "[0-9]"), ("\\w", "[0-9A-Za-z_]"), ("\\s", "[\t-\r ]"), ("\\D", "[^0-9]"), ("\\S", "[^\t-\r ]"),
            ("[a-c]", "[a-c]"), ("[^a]", "[^a]"), ("[]a]", "[\\]a]"), ("[^\\n-]", "[^\n\\-]"), ("[\\W_]", "[^0-9A-Za-z]"),
            ("\\n", "\n"), ("\\x41", "A"), ("\\u65e5", "日"), ("\\x{1F600}", "\U0001f600"), ("%", "%"), (" ", " "),
            ("\\\\", "\\\\"), ("'", "'"), ("[0-9é-日]", "[0-9é-日]"), ("]", "\\]"), ("-", "-"), ("[\\]\\^\\-]", "[\\]\\^\\-]"),
        ]
    )  # fmt: skip
    if depth == 0:
        return draw(simple)
    inner = patterns(depth=depth - 1)
    kind = draw(st.integers(0, 4))
    if kind == 0:
        return draw(simple)
    if kind == 1:
        parts = draw(st.lists(inner, max_size=4))
        return "".join(ours for ours, _ in parts), "".join(theirs for _, theirs in parts)
    if kind == 2:
        left, right = draw(inner), draw(inner)
        return f"(?:{left[0]}|{right[0]})", f"(?:{left[1]}|{right[1]})"
    ours, theirs = draw(inner)
    if kind == 3:
        return f"({ours})", f"(?:{theirs})"
    sign = draw(st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,}", "*?", "{0}"]))
    return f"(?P<g>{ours}){sign}", f"(?:{theirs}){sign}"


refs = st.sampled_from([QB[path] for path in KINDS] + [QB["outer"]["inner"], QB["revision_count"], QB["created_by"]])
meta_texts = st.sampled_from([QB.meta["resource_id"], QB.meta["schema_version"], QB["updated_by"]])
any_refs = st.one_of(refs, meta_texts, st.sampled_from([QB.meta["is_deleted"], QB.meta["version"]]))
time_refs = st.sampled_from([QB["created_time"], QB.meta["updated_time"]])
OPERATIONS = ["==", "!=", "<", "<=", ">", ">="]


def compared(ref: Any, sign: str, value: Any) -> Condition:
    condition: Condition = {
        "==": lambda: ref == value,
        "!=": lambda: ref != value,
        "<": lambda: ref < value,
        "<=": lambda: ref <= value,
        ">": lambda: ref > value,
        ">=": lambda: ref >= value,
    }[sign]()
    return condition


some = st.one_of(st.booleans(), numbers, texts)
leaves: st.SearchStrategy[Condition] = st.one_of(
    st.builds(compared, any_refs, st.sampled_from(OPERATIONS), some),
    st.builds(compared, time_refs, st.sampled_from(OPERATIONS), st.one_of(times, numbers)),
    st.builds(lambda ref, values: ref.in_(values), any_refs, st.lists(scalars, max_size=4)),
    st.builds(lambda ref, values: ref.not_in(values), any_refs, st.lists(scalars, max_size=4)),
    st.builds(lambda ref, values: ref.in_(values), time_refs, st.lists(times, max_size=3)),
    st.builds(lambda ref, value: ref.contains(value), any_refs, scalars),
    st.builds(lambda ref, value: ref.starts_with(value), any_refs, texts),
    st.builds(lambda ref, value: ref.ends_with(value), any_refs, texts),
    st.builds(lambda ref, value: ref.is_null(value), st.one_of(any_refs, time_refs), st.booleans()),
    st.builds(lambda ref, value: ref.exists(value), st.one_of(any_refs, time_refs), st.booleans()),
    st.builds(lambda ref, low, high: ref.between(low, high), any_refs, some, some),
    st.builds(lambda ref, found, fold: ref.regex(found[0], ignore_case=fold), any_refs, patterns(), st.booleans()),
)
conditions: st.SearchStrategy[Condition] = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a & b, inner, inner),
        st.builds(lambda a, b: a | b, inner, inner),
        st.builds(lambda a: ~a, inner),
    ),
    max_leaves=5,
)
sorts = st.lists(
    st.one_of(
        st.builds(
            lambda ref, down: ref.desc() if down else ref.asc(),
            st.one_of(any_refs, time_refs).filter(lambda ref: repr(ref) != "QB['items']"),
            st.booleans(),
        )
    ),
    max_size=3,
)


@st.composite
def queries(draw: st.DrawFn, found: list[EvaluatedRow]) -> Query:
    sort = draw(sorts)
    include_deleted = draw(st.booleans())
    after = None
    positioned = draw(st.booleans())
    if found and positioned:
        # Any row is a position, also one that the query itself leaves out.
        row = draw(st.sampled_from(found))
        after = make_cursor(build_query(fields=FIELDS, sort=sort).sort, row.indexed, row.meta)
    return build_query(
        draw(st.one_of(st.none(), conditions)),
        fields=FIELDS,
        sort=sort,
        limit=draw(st.one_of(st.none(), st.integers(0, 5))),
        offset=draw(st.integers(0, 2)),
        after=after,
        include_deleted=include_deleted,
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[EvaluatedRow], list[Query]]:
    found = draw(rows())
    return found, draw(st.lists(queries(found), min_size=1, max_size=6))


def columns(dialect: Dialect) -> str:
    """The columns that the compiler expects of a table, in the order of `record`."""
    if dialect is SQLITE:
        types = {"string": "TEXT", "number": "INTEGER", "bool": "INTEGER", "time": "INTEGER"}
        json = "TEXT"
    else:
        types = {"string": 'text COLLATE "C"', "number": "bigint", "bool": "boolean", "time": "timestamptz"}
        json = "jsonb"
    typed = [
        f"{field.name} {types[field.kind]}" + ("" if field.nullable else " NOT NULL") for field in META_FIELDS.values()
    ]
    return f"{', '.join(typed)}, indexed {json} NOT NULL, PRIMARY KEY (resource_id)"


def schema(dialect: Dialect, table: str = "resources") -> list[str]:
    """The table with every index there is."""
    fields: list[IndexedField | MetaField] = [*FIELDS, *META_FIELDS.values()]
    indexes = [index.sql for field in fields for index in index_definitions(table, field, dialect)]
    return [f"CREATE TABLE {table} ({columns(dialect)})", *indexes]


def record(row: EvaluatedRow, dialect: Dialect) -> tuple[Any, ...]:
    """A row as the parameters of an insert, in the order of the columns."""
    values = [row.meta[name] for name in META_FIELDS]
    if dialect is SQLITE:
        values = [micros_of(value) if isinstance(value, datetime) else value for value in values]
        values = [int(value) if isinstance(value, bool) else value for value in values]
    return (*values, msgspec.json.encode(row.indexed).decode())


def expected_ids(query: Query, found: list[EvaluatedRow]) -> list[str]:
    return [row.meta["resource_id"] for row in run_query(query, found, FIELDS)]
