"""From models to fields, and from objects to projections."""

from __future__ import annotations

import enum
import math
import uuid
from collections import deque
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pytest

from specstar.errors import QueryError
from specstar.query import META_FIELDS, QB, Fields, IndexedField, MetaField, Projector, build_query, fields_of, project
from specstar.query.fields import Format, as_kinds


class Level(enum.IntEnum):
    LOW = 1


class Mode(enum.Enum):
    ON = "on"


class City(msgspec.Struct, rename="camel"):
    name: str
    post_code: int | None = None
    plain: str | msgspec.UnsetType = msgspec.UNSET


class Point(msgspec.Struct, array_like=True, tag=True):
    x: float
    y: float


class Pair(NamedTuple):
    left: int
    right: str


class Square(msgspec.Struct, tag=True):
    side: int = 0

    @property
    def area(self) -> int:
        return self.side**2

    def colour(self) -> str:
        return "red"


class Plot(msgspec.Struct, tag=True):
    area: int
    colour: str = "green"


class Loose(TypedDict, total=False):
    items: str


@dataclass
class Old:
    size: int


class Owner(msgspec.Struct):
    of: Old | Pair


class Other(msgspec.Struct, tag=True):
    colour: str


class Third(msgspec.Struct, tag=True):
    colour: int


class Model(msgspec.Struct, rename="camel"):
    age: int
    full_name: str
    score: float | None = None
    active: bool = True
    tags: list[str] = []
    days: set[date] = set()
    fixed: tuple[int, str] = (1, "a")
    many: tuple[float, ...] = ()
    home: City | None = None
    point: Point | None = None
    pair: Pair | None = None
    old: Old | None = None
    loose: Loose | None = None
    variant: Other | Third | None = None
    extra: dict[str, int] = {}
    anything: Any = None
    level: Level = Level.LOW
    mode: Mode | None = None
    choice: Literal["a", 1] = "a"
    checked: Annotated[int, msgspec.Meta(ge=0)] = 0
    price: Decimal = Decimal(0)
    span: timedelta = timedelta()
    at: datetime | None = None
    day: date | None = None
    clock: time | None = None
    key: uuid.UUID | None = None
    raw: bytes = b""
    cities: list[City] = []
    nothing: None = None
    mixed: int | str | None = None


def one(path: str) -> IndexedField:
    (field,) = fields_of(Model, [path])
    return field


@pytest.mark.parametrize(
    ("path", "kinds", "keys", "form"),
    [
        ("age", {"number"}, ("age",), None),
        ("full_name", {"string"}, ("fullName",), None),
        ("score", {"number"}, ("score",), None),
        ("active", {"bool"}, ("active",), None),
        ("tags", {"list"}, ("tags",), None),
        ("days", {"list"}, ("days",), "date"),
        ("fixed", {"list"}, ("fixed",), None),
        ("many", {"list"}, ("many",), None),
        ("home.name", {"string"}, ("home", "name"), None),
        ("home.post_code", {"number"}, ("home", "postCode"), None),
        ("point.y", {"number"}, ("point", 2), None),
        ("pair.right", {"string"}, ("pair", 1), None),
        ("old.size", {"number"}, ("old", "size"), None),
        ("loose.items", {"string"}, ("loose", "items"), None),
        ("variant.colour", {"number", "string"}, ("variant", "colour"), None),
        ("extra.items", {"number"}, ("extra", "items"), None),
        ("anything", {"number", "string", "bool", "list"}, ("anything",), None),
        ("anything.deep.er", {"number", "string", "bool", "list"}, ("anything", "deep", "er"), None),
        ("level", {"number"}, ("level",), None),
        ("mode", {"string"}, ("mode",), None),
        ("choice", {"number", "string"}, ("choice",), None),
        ("checked", {"number"}, ("checked",), None),
        ("price", {"number"}, ("price",), "decimal"),
        ("span", {"number"}, ("span",), "timedelta"),
        ("at", {"string"}, ("at",), "datetime"),
        ("day", {"string"}, ("day",), "date"),
        ("clock", {"string"}, ("clock",), "time"),
        ("key", {"string"}, ("key",), None),
        ("raw", {"string"}, ("raw",), None),
        ("mixed", {"number", "string"}, ("mixed",), None),
    ],
)
def test_kinds_come_from_annotations(path: str, kinds: set[str], keys: tuple[Any, ...], form: Format | None) -> None:
    assert one(path) == IndexedField(path, as_kinds(kinds), keys, form)


@pytest.mark.parametrize(
    ("path", "suggestion"),
    [("aeg", "age"), ("home.nmae", "home.name"), ("fullName", "full_name"), ("zzz", None), ("age.x", None), ("", None)],
)
def test_an_unknown_path_is_refused_with_the_nearest_name(path: str, suggestion: str | None) -> None:
    with pytest.raises(QueryError) as caught:
        fields_of(Model, ["age", path])
    assert caught.value.suggestion == suggestion


@pytest.mark.parametrize(
    ("path", "advice"), [("home", "home.name"), ("cities", "list"), ("extra", "mapping"), ("nothing", "null")]
)
def test_what_has_no_order_is_refused(path: str, advice: str) -> None:
    with pytest.raises(QueryError, match=advice):
        fields_of(Model, [path])


@pytest.mark.parametrize("model", [int, list[int], object, "Missing"])
def test_a_model_has_fields(model: Any) -> None:
    assert fields_of(model, []) == ()
    with pytest.raises(QueryError):
        fields_of(model, ["a"])


def test_paths_are_a_list_and_repeats_are_one() -> None:
    assert fields_of(Model, ["age", "age"]) == (one("age"),)
    with pytest.raises(QueryError, match="list of paths"):
        fields_of(Model, "age")
    with pytest.raises(QueryError, match="declared twice"):
        fields_of(Model, ["age", IndexedField("age", index=False)])


@pytest.mark.parametrize("path", ["", ".", "a..b", "a.", "a\nb", "a\x00", "x" * 201])
def test_a_path_is_printable_and_short(path: str) -> None:
    with pytest.raises(QueryError):
        IndexedField(path)


def test_the_field_of_a_name_is_the_indexed_one_first() -> None:
    fields = Fields([IndexedField("version")])

    assert isinstance(fields.resolve("version", meta=False), IndexedField)
    assert fields.resolve("version", meta=True) is META_FIELDS["version"]
    assert isinstance(fields.resolve("created_time", meta=False), MetaField)
    resolved = build_query((QB["version"] == 1) & (QB["created_by"] == "a"), fields=fields).condition
    assert resolved == (QB["version"] == 1) & (QB.meta["created_by"] == "a")


def test_a_misspelt_field_of_a_query_gets_the_nearest_name() -> None:
    with pytest.raises(QueryError) as caught:
        build_query(QB["agee"] == 1, fields=fields_of(Model, ["age"]))
    assert (caught.value.path, caught.value.suggestion) == ("agee", "age")
    with pytest.raises(QueryError) as caught:
        build_query(QB.meta["created_tme"] == 1, fields=[])
    assert caught.value.suggestion == "created_time"
    with pytest.raises(QueryError, match="no inner fields"):
        QB.meta["created_time"]["year"]


def test_a_field_that_is_not_indexed_is_told_what_to_do() -> None:
    fields = Fields([IndexedField("age")])
    with pytest.raises(QueryError, match=r"'lines' is not an indexed field .* indexed_fields names it, .*reindex\(\)$"):
        fields.resolve("lines", meta=False)
    with pytest.raises(QueryError, match=r"^'lines' is not a meta field$"):
        fields.resolve("lines", meta=True)


MODEL = Model(
    age=1,
    full_name="Ann",
    score=2.0,
    tags=["b", "a"],
    days={date(2024, 1, 2)},
    home=City("Bern", 3000),
    point=Point(1.5, 2.5),
    pair=Pair(1, "r"),
    old=Old(7),
    loose={"items": "l"},
    variant=Third(5),
    extra={"items": 4},
    anything={"deep": {"er": [1, {"x": 1}, [2]]}},
    mode=Mode.ON,
    price=Decimal("1.10"),
    span=timedelta(seconds=1.5),
    at=datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=2))),
    day=date(2024, 1, 2),
    clock=time(1, 2),
    key=uuid.UUID(int=5),
    raw=b"\x00",
)
PATHS = [
    "age", "full_name", "score", "active", "tags", "days", "fixed", "many", "home.name", "home.post_code", "home.plain",
    "point.y", "pair.right", "old.size", "loose.items", "variant.colour", "extra.items", "anything", "anything.deep.er",
    "anything.gone", "level", "mode", "choice", "price", "span", "at", "day", "clock", "key", "raw", "mixed",
]  # fmt: skip


def test_a_projection_is_flat_and_normalised() -> None:
    projection = Projector(Model, PATHS)(MODEL)

    assert projection == {
        "age": 1,
        "full_name": "Ann",
        "score": 2,
        "active": True,
        "tags": ["b", "a"],
        "days": ["2024-01-02"],
        "fixed": [1, "a"],
        "many": [],
        "home.name": "Bern",
        "home.post_code": 3000,
        "point.y": 2.5,
        "pair.right": "r",
        "old.size": 7,
        "loose.items": "l",
        "variant.colour": 5,
        "extra.items": 4,
        "anything": {},
        "anything.deep.er": [1, {}, {}],
        "level": 1,
        "mode": "on",
        "choice": "a",
        "price": 1.1,
        "span": 1.5,
        "at": "2024-01-02T01:04:05.000006Z",
        "day": "2024-01-02",
        "clock": "01:02:00.000000",
        "key": "00000000-0000-0000-0000-000000000005",
        "raw": "AA==",
        "mixed": None,
    }
    assert type(projection["score"]) is int


def test_the_projection_of_the_encoded_payload_is_the_same() -> None:
    projector = Projector(Model, PATHS)

    assert project(msgspec.to_builtins(MODEL), projector.fields) == projector(MODEL)
    empty = Model(1, "x")
    assert project(msgspec.json.decode(msgspec.json.encode(empty)), projector.fields) == projector(empty)


def test_a_none_on_the_way_leaves_the_key_out() -> None:
    projection = Projector(Model, ["home.name", "point.y", "loose.items", "mixed"])(Model(1, "x"))

    assert projection == {"mixed": None}


def test_a_property_of_another_member_of_a_union_is_no_field() -> None:
    project = Projector(Square | Plot, ["area", "colour"])
    assert project(Square(2)) == {}
    assert project(Plot(2)) == {"area": 2, "colour": "green"}
    project = Projector(Owner, ["of.size", "of.left"])
    assert project(Owner(Old(2))) == {"of.size": 2}
    assert project(Owner(Pair(2, "r"))) == {"of.left": 2}


def test_other_kinds_of_models_project_too() -> None:
    assert Projector(Old, ["size"])(Old(3)) == {"size": 3}
    assert Projector(Pair, ["right"])(Pair(1, "r")) == {"right": "r"}
    assert Projector(Loose, ["items"])({"items": "x"}) == {"items": "x"}
    assert Projector(Loose, ["items"])({}) == {}
    assert Projector(Model, ["anything"])(Model(1, "x", anything=deque([1]))) == {"anything": [1]}


@pytest.mark.parametrize("value", [math.nan, math.inf, 2**63, "a\x00", "\ud800", ["a\x00"], Decimal("Infinity")])
def test_values_that_no_backend_can_hold_are_refused(value: Any) -> None:
    with pytest.raises(QueryError) as caught:
        Projector(Model, ["anything"])(Model(1, "x", anything=value))
    assert caught.value.path == "anything"


def test_encoded_text_of_another_form_is_refused() -> None:
    with pytest.raises(QueryError, match="not a datetime"):
        project({"at": "soon"}, [one("at")])


def test_time_text_sorts_like_time() -> None:
    moments = [
        datetime(1, 1, 1, tzinfo=UTC), datetime(999, 12, 31, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC),
        datetime(2024, 1, 1, 0, 0, 0, 1, tzinfo=UTC), datetime(2024, 1, 1, 2, tzinfo=timezone(timedelta(hours=1))),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    ]  # fmt: skip
    projector = Projector(Model, ["at"])
    texts = [projector(Model(1, "x", at=moment))["at"] for moment in moments]

    assert texts == sorted(texts)
    assert {len(text) for text in texts} == {27}


class Color(enum.Enum):
    red = "red"


class Named(enum.StrEnum):
    one = "one"


class Keyed(msgspec.Struct, rename="camel"):
    by_number: dict[int, int] = {}
    by_color: dict[Color, int] = {}
    by_name: dict[Named, int] = {}
    by_text: dict[str, int] | None = None
    inner_one: Keyed | None = None


def test_a_field_that_is_given_is_looked_up_in_the_model_too() -> None:
    with pytest.raises(QueryError, match="by_txt"):
        fields_of(Keyed, [IndexedField("by_txt.a", index=False)])
    with pytest.raises(QueryError, match="cannot be searched"):
        fields_of(Keyed, [IndexedField("inner_one", index=False)])
    (plain,), (given,) = fields_of(Keyed, ["by_text.a"]), fields_of(Keyed, [IndexedField("by_text.a", index=False)])
    assert (given.kinds, given.keys, given.format, given.index) == (plain.kinds, plain.keys, plain.format, False)
    (own,) = fields_of(Keyed, [IndexedField("by_text.a", kinds=as_kinds(["string"]))])
    assert (own.kinds, own.keys) == (as_kinds(["string"]), ("byText", "a"))


def test_keys_that_are_no_text_cannot_be_named() -> None:
    for path in ("by_number.5", "by_color.red"):
        with pytest.raises(QueryError, match="whose keys are no text"):
            fields_of(Keyed, [path])
    assert fields_of(Keyed, ["by_name.one"])[0].keys == ("byName", "one")
