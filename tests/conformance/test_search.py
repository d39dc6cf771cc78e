"""The searches of `MetaStore`: every operator means the same on every backend, as a plain Python model says."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio
import pytest

from specstar.errors import QueryError
from specstar.query import QB, Condition, Query, build_query, cursor_of
from specstar.roles import MetaStore, ResourceMeta
from tests.conformance.harness import Bench
from tests.conformance.samples import HOSTILE_IDS, TIME, changed, created, model, revised

SUITE = "meta"
FIELDS = model().indexed_fields
MISSING = object()

ROWS: dict[str, dict[str, Any]] = {
    "empty": {},
    "nulls": {"name": None, "age": None, "active": None, "tags": None, "address__city": None, "any": None},
    "ann": {"name": "Ann", "age": 41, "active": True, "tags": ["red", "blue"], "address__city": "Bern", "any": "41"},
    "bob": {"name": "bob", "age": 18, "active": False, "tags": [], "address__city": "", "any": 41},
    "cleo": {"name": "Cléo", "age": 18.5, "active": True, "tags": ["red"], "address__city": "Zürich", "any": True},
    "dan": {"name": "50%_off", "age": -3, "active": False, "tags": ["Red", "1"], "address__city": "bern", "any": 1},
    "eve": {"name": "*?[a]", "age": 0, "active": True, "tags": [1, 2], "address__city": "Bern\n", "any": "true"},
    "fay": {"name": "", "age": 2**62, "active": True, "tags": ["", "red blue"], "address__city": "BERN", "any": "1"},
    "gus": {"name": "日本語", "age": 1e300, "tags": ["日本"], "address__city": "東京", "any": 0},
    "hal": {
        "name": "a'b\"c\\d",
        "age": 41,
        "active": None,
        "tags": ["a'b", "\\"],
        "address__city": "x.y",
        "any": False,
    },
    "ida": {"name": "e\u0301", "age": 1e-300, "tags": ["e\u0301"], "address__city": "é", "any": ["x"]},
    "jo": {"name": "👩‍👧", "age": -(2**63), "tags": ["👩"], "address__city": "Bern Süd", "any": 0.5},
}


def kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "other"


def compare(name: str, check: Callable[[Any], bool], kind: str) -> Callable[[dict[str, Any]], bool]:
    return lambda row: kind_of(row.get(name)) == kind and check(row[name])


def has(name: str, check: Callable[[Any], bool]) -> Callable[[dict[str, Any]], bool]:
    return lambda row: check(row.get(name, MISSING))


def text(name: str, check: Callable[[str], bool]) -> Callable[[dict[str, Any]], bool]:
    return compare(name, check, "text")


CONDITIONS: dict[str, tuple[Condition, Callable[[dict[str, Any]], bool]]] = {
    "number eq": (QB["age"] == 41, compare("age", lambda v: v == 41, "number")),
    "number eq float": (QB["age"] == 41.0, compare("age", lambda v: v == 41, "number")),
    "number ne": (QB["age"] != 41, lambda row: row.get("age") != 41),
    "number lt": (QB["age"] < 18.5, compare("age", lambda v: v < 18.5, "number")),
    "number le": (QB["age"] <= 18.5, compare("age", lambda v: v <= 18.5, "number")),
    "number gt": (QB["age"] > 0, compare("age", lambda v: v > 0, "number")),
    "number ge": (QB["age"] >= 0, compare("age", lambda v: v >= 0, "number")),
    "number huge": (QB["age"] >= 2**62, compare("age", lambda v: v >= 2**62, "number")),
    "number smallest": (QB["age"] == -(2**63), compare("age", lambda v: v == -(2**63), "number")),
    "number between": (QB["age"].between(0, 41), compare("age", lambda v: 0 <= v <= 41, "number")),
    "text eq": (QB["name"] == "Ann", text("name", lambda v: v == "Ann")),
    "text eq is case-sensitive": (QB["name"] == "ann", text("name", lambda v: v == "ann")),
    "text eq does not normalise": (QB["name"] == "é", text("name", lambda v: v == "é")),
    "text eq empty": (QB["name"] == "", text("name", lambda v: v == "")),
    "text eq quotes": (QB["name"] == "a'b\"c\\d", text("name", lambda v: v == "a'b\"c\\d")),
    "text lt": (QB["name"] < "Z", text("name", lambda v: v < "Z")),
    "text ge": (QB["name"] >= "a", text("name", lambda v: v >= "a")),
    "text gt unicode": (QB["name"] > "日", text("name", lambda v: v.encode() > "日".encode())),
    "bool true": (QB["active"] == True, compare("active", lambda v: v, "bool")),  # noqa: E712
    "bool false": (QB["active"] == False, compare("active", lambda v: not v, "bool")),  # noqa: E712
    "kinds: number is not text": (QB["any"] == 41, compare("any", lambda v: v == 41, "number")),
    "kinds: text is not number": (QB["any"] == "41", text("any", lambda v: v == "41")),
    "kinds: one is not true": (QB["any"] == 1, compare("any", lambda v: v == 1, "number")),
    "kinds: true is not one": (QB["any"] == True, compare("any", lambda v: v, "bool")),  # noqa: E712
    "kinds: zero is not false": (QB["any"] == 0, compare("any", lambda v: v == 0, "number")),
    "kinds: false is not zero": (QB["any"] == False, compare("any", lambda v: not v, "bool")),  # noqa: E712
    "kinds: order": (QB["any"] > 0, compare("any", lambda v: v > 0, "number")),
    "in": (QB["name"].in_(["Ann", "bob", "nobody", "日本語"]), has("name", lambda v: v in ("Ann", "bob", "日本語"))),
    "in numbers": (QB["age"].in_([18, -3, 7]), compare("age", lambda v: v in (18, -3), "number")),
    "in mixed": (
        QB["any"].in_(["1", 0]),
        lambda row: row.get("any") == "1" or (row.get("any") == 0 and row["any"] is not False),
    ),
    "in nothing": (QB["name"].in_([]), lambda row: False),
    "in with null": (QB["name"].in_(["Ann", None]), has("name", lambda v: v in ("Ann", None) or v is MISSING)),
    "not in": (QB["name"].not_in(["Ann", "bob"]), has("name", lambda v: v not in ("Ann", "bob"))),
    "not in with null": (
        QB["name"].not_in(["Ann", None]),
        has("name", lambda v: v not in ("Ann", None) and v is not MISSING),
    ),
    "contains text": (QB["name"].contains("o"), text("name", lambda v: "o" in v)),
    "contains percent": (QB["name"].contains("%_"), text("name", lambda v: "%_" in v)),
    "contains star": (QB["name"].contains("*?["), text("name", lambda v: "*?[" in v)),
    "contains backslash": (QB["name"].contains("\\"), text("name", lambda v: "\\" in v)),
    "contains unicode": (QB["name"].contains("本"), text("name", lambda v: "本" in v)),
    "contains empty": (QB["name"].contains(""), text("name", lambda v: True)),
    "member": (QB["tags"].contains("red"), has("tags", lambda v: isinstance(v, list) and "red" in v)),
    "member is whole": (QB["tags"].contains("re"), lambda row: False),
    "member number": (QB["tags"].contains(1), has("tags", lambda v: isinstance(v, list) and 1 in v)),
    "member text": (QB["tags"].contains("1"), has("tags", lambda v: isinstance(v, list) and "1" in v)),
    "member unicode": (QB["tags"].contains("日本"), has("tags", lambda v: isinstance(v, list) and "日本" in v)),
    "starts with": (QB["name"].starts_with("An"), text("name", lambda v: v.startswith("An"))),
    "starts with is case-sensitive": (QB["name"].starts_with("an"), text("name", lambda v: v.startswith("an"))),
    "starts with percent": (QB["name"].starts_with("50%_"), text("name", lambda v: v.startswith("50%_"))),
    "starts with unicode": (QB["name"].starts_with("日"), text("name", lambda v: v.startswith("日"))),
    "starts with highest": (QB["name"].starts_with("\U0010ffff"), lambda row: False),
    "starts with empty": (QB["name"].starts_with(""), text("name", lambda v: True)),
    "ends with": (QB["name"].ends_with("語"), text("name", lambda v: v.endswith("語"))),
    "ends with underscore": (QB["name"].ends_with("_off"), text("name", lambda v: v.endswith("_off"))),
    "ends with empty": (QB["name"].ends_with(""), text("name", lambda v: True)),
    "regex": (QB["name"].regex("^[A-C]"), text("name", lambda v: re.search("^[A-C]", v) is not None)),
    "regex unanchored": (QB["name"].regex("o[bf]"), text("name", lambda v: re.search("o[bf]", v) is not None)),
    "regex ignoring case": (
        QB["name"].regex("ANN|BOB", ignore_case=True),
        text("name", lambda v: v.lower() in ("ann", "bob")),
    ),
    "regex end is the end": (QB["address.city"].regex("^Bern$"), text("address__city", lambda v: v == "Bern")),
    "nested": (QB["address"]["city"] == "Bern", text("address__city", lambda v: v == "Bern")),
    "nested by path": (QB["address.city"].starts_with("B"), text("address__city", lambda v: v.startswith("B"))),
    "is null": (QB["age"].is_null(), has("age", lambda v: v is None or v is MISSING)),
    "is not null": (QB["age"].is_null(False), has("age", lambda v: v is not None and v is not MISSING)),
    "eq null": (QB["active"] == None, has("active", lambda v: v is None or v is MISSING)),  # noqa: E711
    "ne null": (QB["active"] != None, has("active", lambda v: v is not None and v is not MISSING)),  # noqa: E711
    "exists": (QB["active"].exists(), has("active", lambda v: v is not MISSING)),
    "does not exist": (QB["active"].exists(False), has("active", lambda v: v is MISSING)),
    "and": (
        (QB["age"] >= 18) & (QB["active"] == True),  # noqa: E712
        lambda row: row.get("active") is True and (row.get("age") or 0) >= 18,
    ),
    "or": ((QB["age"] == 18) | (QB["name"] == "Ann"), lambda row: row.get("age") == 18 or row.get("name") == "Ann"),
    "not": (~(QB["age"] > 18), lambda row: not (row.get("age") is not None and row["age"] > 18)),
    "not of and": (
        ~((QB["active"] == True) & (QB["age"] > 0)),  # noqa: E712
        lambda row: not (row.get("active") is True and (row.get("age") or 0) > 0),
    ),
    "not of contains": (~QB["tags"].contains("red"), has("tags", lambda v: not (isinstance(v, list) and "red" in v))),
}


@pytest.fixture
async def meta(bench: Bench) -> MetaStore:
    return await bench.meta(model())


def query(condition: Condition | None = None, **options: Any) -> Query:
    return build_query(condition, fields=FIELDS, **options)


async def found(meta: MetaStore, condition: Condition | None = None, **options: Any) -> list[str]:
    return [row.resource_id for row, _ in await meta.search(query(condition, **options))]


async def fill(meta: MetaStore) -> dict[str, ResourceMeta]:
    changes = {name: created(name, **values) for name, values in ROWS.items()}
    assert await meta.write_many(list(changes.values())) == [None] * len(changes)
    return {name: change.meta for name, change in changes.items()}


async def test_every_operator_agrees_with_the_model(meta: MetaStore) -> None:
    await fill(meta)
    wrong: dict[str, Any] = {}
    for name, (condition, expected) in CONDITIONS.items():
        wanted = sorted(key for key, row in ROWS.items() if expected(row))
        answer = sorted(await found(meta, condition))
        number = await meta.count(query(condition).condition)
        if answer != wanted or number != len(wanted):
            wrong[name] = (answer, wanted, number)
        negated = sorted(await found(meta, ~condition))
        if negated != sorted(set(ROWS) - set(wanted)):
            wrong[f"~{name}"] = (negated, sorted(set(ROWS) - set(wanted)), None)
    assert wrong == {}


async def test_an_empty_store_finds_nothing(meta: MetaStore) -> None:
    assert await found(meta) == []
    assert await meta.count() == 0
    assert await meta.count(query(QB["age"] > 1).condition) == 0


async def test_rows_come_with_their_current_revision(meta: MetaStore) -> None:
    first = created("r", age=1)
    second = revised(first, age=2)
    await meta.write(first)
    assert await meta.search(query(QB["age"] == 1)) == [(first.meta, first.revision)]
    await meta.write(second)
    assert await meta.search(query(QB["age"] == 1)) == []
    assert await meta.search(query(QB["age"] == 2)) == [(second.meta, second.revision)]
    back = changed(second, current_revision_id=first.meta.current_revision_id, indexed_data={"age": 1})
    await meta.write(back)
    assert await meta.search(query(QB["age"] == 1)) == [(back.meta, first.revision)]


async def test_a_search_sees_every_write_before_it(meta: MetaStore) -> None:
    last = created("r", age=0)
    await meta.write(last)
    for number in range(1, 15):
        last = revised(last, age=number)
        await meta.write(last)
        assert await found(meta, QB["age"] == number) == ["r"]
        assert await found(meta, QB["age"] < number) == []
    await meta.erase("r")
    assert await found(meta) == []


async def test_deleted_rows_are_hidden_unless_asked_for(meta: MetaStore) -> None:
    for number in range(6):
        await meta.write(created(f"d{number}", deleted=number % 2 == 0, age=number))
    assert sorted(await found(meta)) == ["d1", "d3", "d5"]
    assert sorted(await found(meta, include_deleted=True)) == [f"d{number}" for number in range(6)]
    assert sorted(await found(meta, QB["age"] >= 2)) == ["d3", "d5"]
    assert await meta.count() == 3
    assert await meta.count(include_deleted=True) == 6
    assert await meta.count(query(QB["age"] >= 2).condition) == 2
    assert await meta.count(query(QB["age"] >= 2).condition, include_deleted=True) == 4


def sort_rank(value: Any) -> tuple[int, Any]:
    """Null and missing before all; then the kinds, each in its own order."""
    if value is MISSING or value is None:
        return (0, 0)
    return (1, value.encode() if isinstance(value, str) else value)


@pytest.mark.parametrize("field", ["age", "name", "address.city"])
async def test_sorting_both_ways(meta: MetaStore, field: str) -> None:
    await fill(meta)
    key = field.replace(".", "__")
    upwards = sorted(sorted(ROWS), key=lambda name: sort_rank(ROWS[name].get(key, MISSING)))
    assert await found(meta, sort=[field]) == upwards
    downwards = sorted(sorted(ROWS), key=lambda name: sort_rank(ROWS[name].get(key, MISSING)), reverse=True)
    ranks = [sort_rank(ROWS[name].get(key, MISSING)) for name in await found(meta, sort=[f"-{field}"])]
    assert ranks == [sort_rank(ROWS[name].get(key, MISSING)) for name in downwards]


async def test_ties_are_in_the_order_of_the_ids_in_the_direction_of_the_sort(meta: MetaStore) -> None:
    for name in ("b", "d", "a", "c"):
        await meta.write(created(name, age=1))
    assert await found(meta) == ["a", "b", "c", "d"]
    assert await found(meta, sort=["age"]) == ["a", "b", "c", "d"]
    assert await found(meta, sort=["-age"]) == ["d", "c", "b", "a"]


async def test_sorting_by_two_fields(meta: MetaStore) -> None:
    for name, age, city in (("a", 1, "y"), ("b", 2, "x"), ("c", 1, "x"), ("d", 2, "y")):
        await meta.write(created(name, age=age, address__city=city))
    assert await found(meta, sort=["-age", "address.city"]) == ["b", "d", "c", "a"]
    assert await found(meta, sort=["address.city", "-age"]) == ["b", "c", "d", "a"]


async def test_limit_and_offset(meta: MetaStore) -> None:
    for number in range(10):
        await meta.write(created(f"p{number}", age=number))
    assert await found(meta, sort=["age"], limit=3) == ["p0", "p1", "p2"]
    assert await found(meta, sort=["age"], limit=3, offset=8) == ["p8", "p9"]
    assert await found(meta, sort=["age"], offset=7) == ["p7", "p8", "p9"]
    assert await found(meta, sort=["age"], limit=0) == []
    assert await found(meta, sort=["age"], limit=5, offset=100) == []


@pytest.mark.parametrize("sort", [[], ["age"], ["-age"], ["name", "-age"], ["-created_time"]])
async def test_keyset_pages_show_each_row_once(meta: MetaStore, sort: list[str]) -> None:
    for number in range(23):
        indexed = {} if number % 5 == 0 else {"age": number % 4, "name": "ab"[number % 2] if number % 3 else None}
        await meta.write(created(f"k{number:02d}", **indexed))
    whole = await found(meta, sort=sort)
    assert len(whole) == 23
    seen: list[str] = []
    after: str | None = None
    while True:
        page_query = query(sort=sort, limit=4, after=after)
        page = await meta.search(page_query)
        seen += [row.resource_id for row, _ in page]
        if len(page) < 4:
            break
        after = cursor_of(page_query, page[-1][0])
    assert seen == whole


async def test_keyset_pages_while_others_write(meta: MetaStore) -> None:
    for number in range(0, 60, 2):
        await meta.write(created(f"w{number:03d}", age=number))
    seen: list[str] = []
    after: str | None = None
    fresh = 100
    while True:
        page_query = query(sort=["age"], limit=5, after=after)
        page = await meta.search(page_query)
        seen += [row.resource_id for row, _ in page]
        if len(page) < 5:
            break
        after = cursor_of(page_query, page[-1][0])
        # Before the place reached: must not show. Behind it: may.
        await meta.write(created(f"early{fresh}", age=-fresh))
        await meta.write(created(f"w{fresh}", age=fresh))
        await meta.erase(seen[0])
        fresh += 1
    assert len(seen) == len(set(seen))
    assert {name for name in seen if name.startswith("early")} == set()
    assert {f"w{number:03d}" for number in range(0, 60, 2)} <= set(seen)


async def test_meta_fields_can_be_searched(meta: MetaStore) -> None:
    rows = await fill(meta)
    moment = rows["dan"].created_time
    names = list(ROWS)
    place = names.index("dan")
    assert sorted(await found(meta, QB["created_time"] < moment)) == sorted(names[:place])
    assert sorted(await found(meta, QB["created_time"] >= moment)) == sorted(names[place:])
    assert await found(meta, QB["created_time"] == moment) == ["dan"]
    assert await found(meta, QB["updated_time"] > TIME + timedelta(days=3650)) == []
    assert await found(meta, QB["resource_id"] == "eve") == ["eve"]
    assert await found(meta, QB["resource_id"].in_(["eve", "nobody"])) == ["eve"]
    assert len(await found(meta, QB["created_by"] == "alice")) == len(ROWS)
    assert await found(meta, QB["updated_by"].starts_with("al")) == []
    assert len(await found(meta, QB["schema_version"] == "7")) == len(ROWS)
    assert await found(meta, QB["version"] > 1) == []
    assert await found(meta, sort=["-created_time"], limit=2) == names[::-1][:2]
    assert await found(meta, QB["current_revision_id"] == rows["jo"].current_revision_id) == ["jo"]


async def test_hostile_values_are_data(meta: MetaStore) -> None:
    for number, value in enumerate(HOSTILE_IDS):
        await meta.write(created(f"v{number:03d}", name=value, tags=[value]))
    for number, value in enumerate(HOSTILE_IDS):
        assert await found(meta, QB["name"] == value) == [f"v{number:03d}"]
        assert await found(meta, QB["tags"].contains(value)) == [f"v{number:03d}"]
        expected = [f"v{place:03d}" for place, text in enumerate(HOSTILE_IDS) if text.startswith(value)]
        assert sorted(await found(meta, QB["name"].starts_with(value))) == expected


async def test_ids_sort_by_their_bytes(meta: MetaStore) -> None:
    await meta.write_many([created(resource_id) for resource_id in HOSTILE_IDS])
    assert await found(meta) == sorted(HOSTILE_IDS, key=str.encode)


async def test_unknown_fields_are_refused(meta: MetaStore) -> None:
    with pytest.raises(QueryError):
        await meta.search(query(QB["nmae"] == "Ann"))
    with pytest.raises(QueryError):
        await meta.search(query(sort=["nmae"]))


async def test_explain_shows_the_index(meta: MetaStore) -> None:
    await meta.write_many([created(f"e{number:04d}", age=number, name=f"n{number}") for number in range(1000)])
    plan = await meta.explain(query(QB["age"] == 17, limit=20))
    assert plan
    assert "ind" in plan.lower()


async def test_searches_run_beside_writes(meta: MetaStore) -> None:
    answers: list[int] = []

    async def write(number: int) -> None:
        await meta.write(created(f"b{number:04d}", age=number))

    async def look() -> None:
        answers.append(len(await found(meta, QB["age"] >= 0)))

    async with anyio.create_task_group() as group:
        for number in range(200):
            group.start_soon(write, number)
            if number % 10 == 0:
                group.start_soon(look)
    assert len(answers) == 20
    assert all(0 <= answer <= 200 for answer in answers)
    assert await meta.count() == 200


async def test_a_new_index_covers_rows_that_were_there(bench: Bench) -> None:
    narrow = await bench.meta(model(fields=("name",)))
    await narrow.write(created("r", name="Ann", age=5))
    wide = await bench.meta(model())
    assert await found(wide, QB["age"] == 5) == ["r"]
    assert await found(wide, QB["name"] == "Ann") == ["r"]


async def test_searches_find_rows_after_reopening(bench: Bench, meta: MetaStore) -> None:
    await fill(meta)
    await bench.reopen()
    again = await bench.meta(model())
    assert sorted(await found(again, QB["age"] == 41)) == (["ann", "hal"] if bench.case.durable else [])


async def test_a_cancelled_search_leaves_its_neighbours_alone(meta: MetaStore) -> None:
    await fill(meta)
    answers: list[list[str]] = []
    scopes = [anyio.CancelScope() for _ in range(10)]

    async def cancelled(number: int) -> None:
        with scopes[number]:
            await found(meta, QB["age"] == 41)

    async def kept() -> None:
        answers.append(sorted(await found(meta, QB["age"] == 41)))

    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(cancelled, number)
            group.start_soon(kept)
        await anyio.lowlevel.checkpoint()
        for scope in scopes:
            scope.cancel()
    assert answers == [["ann", "hal"]] * 10
