"""Members of a patch that the model has no field for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, NotRequired, TypedDict

import msgspec
import pytest
from msgspec import Struct

from specstar import Job, SpecStar
from specstar.errors import DecodeError, InvalidInputError
from specstar.resource_manager.patching import Shape


class Street(TypedDict):
    house: int
    floor: NotRequired[int | None]


@dataclasses.dataclass
class Address:
    city: str
    street: Street


class Cat(Struct, tag=True):
    lives: int = 9


class Dog(Struct, tag="dog"):
    tricks: list[str] = []


class Place(NamedTuple):
    floor: int
    address: Address


class Point(Struct, array_like=True, tag=True):
    x: int
    address: Address | None = None


class Tree(NamedTuple):
    children: list[Tree]
    address: Address | None = None


class Person(Struct, rename="camel", omit_defaults=True):
    full_name: str = ""
    address: Address | None = None
    pet: Cat | Dog | None = None
    homes: dict[str, Address] = {}
    loose: dict[str, Any] | None = None
    open: Any = None
    boss: Person | None = None
    friends: list[Person] = []
    noted: Annotated[Address, msgspec.Meta(extra={"unit": "none"})] | None = None
    maybe: dict[str, Address] | None = None
    street: Street | None = None
    age: int = 0
    pair: tuple[Address, int] | None = None
    place: Place | None = None
    points: list[Point] = []
    tree: Tree | None = None


PERSON = Shape(msgspec.inspect.type_info(Person))
ANYTHING = Shape(msgspec.inspect.type_info(Any))


@pytest.mark.parametrize(
    "patch",
    [
        {},
        {"fullName": "Ann", "address": None},
        {"address": {"city": "Lyon", "street": {"house": 3}}},
        {"pet": {"type": "dog", "tricks": []}},
        {"homes": {"any name": {"city": "x"}, "gone": None}},
        {"loose": {"a": {"b": 1}}, "open": {"c": {}}},
        {"boss": {"boss": {"fullName": "Bo"}}},
        {
            "pair": [{"city": "x"}, 2],
            "place": [1, {"city": "x"}],
            "points": [["Point", 1, {"city": "x"}], ["Point", 2]],
        },
        "no object",
    ],
)
def test_what_the_model_has_is_taken(patch: Any) -> None:
    PERSON.check(patch)
    PERSON.merged({}, patch)


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"fullNmae": "Ann"}, r"no field 'fullNmae' \(did you mean 'fullName'\?\) - at `\$`"),
        ({"zzz": None}, r"no field 'zzz' - at `\$`"),
        (
            {"address": {"street": {"hous": 3}}},
            r"no field 'hous' \(did you mean 'house'\?\) - at `\$\.address\.street`",
        ),
        ({"pet": {"livs": 3}}, r"no field 'livs' .* - at `\$\.pet`"),
        ({"homes": {"one": {"cty": ""}}}, r"no field 'cty' .* - at `\$\.homes\.one`"),
        ({"boss": {"boss": {"full": 1}}}, r"no field 'full' .* - at `\$\.boss\.boss`"),
        ({"x" * 1000: 1}, r"no field 'x{80}' - at"),
        ({"friends": [{"fullName": "Bo"}, {"fullNam": "Cy"}]}, r"no field 'fullNam' .* - at `\$\.friends\[1\]`"),
        ({"noted": {"cty": 1}}, r"no field 'cty' .* - at `\$\.noted`"),
        ({"pet": {"type": "dog", "lives": 3}}, r"no field 'lives' - at `\$\.pet`"),
        ({"pair": [{"cty": 1}, 2]}, r"no field 'cty' .* - at `\$\.pair\[0\]`"),
        ({"place": [1, {"cty": 1}]}, r"no field 'cty' .* - at `\$\.place\[1\]`"),
        ({"points": [["Point", 1], ["Point", 1, {"cty": 2}]]}, r"no field 'cty' .* - at `\$\.points\[1\]\[2\]`"),
        ({"points": [["Point", 1, None, 2]]}, r"no field 3 - at `\$\.points\[0\]`"),
        ({"tree": [[[[], {"cty": 1}]]]}, r"no field 'cty' .* - at `\$\.tree\[0\]\[0\]\[1\]`"),
        ({"maybe": {"one": {"cty": 1}}}, r"no field 'cty' .* - at `\$\.maybe\.one`"),
    ],
)
def test_what_the_model_lacks_is_refused_with_its_path(patch: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PERSON.merged({}, patch)


def test_merging_is_that_of_the_rfc() -> None:
    """The cases of RFC 7396, appendix A, with objects."""
    assert ANYTHING.merged({"a": "b", "b": "c"}, {"a": None}) == {"b": "c"}
    assert ANYTHING.merged({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}) == {"a": {"b": "d"}}
    assert ANYTHING.merged({"a": [1]}, {"a": {"b": {"c": None}}}) == {"a": {"b": {}}}
    assert ANYTHING.merged({1: "one"}, {"1": None, "2": "two"}) == {"2": "two"}


@pytest.mark.parametrize(
    ("patch", "target", "result"),
    [
        ({"address": None}, {"address": {"city": "x"}}, {"address": None}),
        ({"open": None}, {"open": 5}, {"open": None}),
        ({"age": None}, {"age": 5}, {}),
        ({"street": {"floor": None}}, {"street": {"house": 1, "floor": 2}}, {"street": {"house": 1, "floor": None}}),
        ({"homes": {"one": None}}, {"homes": {"one": {}, "two": {}}}, {"homes": {"two": {}}}),
        ({"new": 1}, None, None),
    ],
)
def test_null_sets_what_may_be_none_and_removes_the_rest(patch: Any, target: Any, result: Any) -> None:
    if result is None:
        assert ANYTHING.merged(target, patch) == patch
    else:
        assert PERSON.merged(target, patch) == result


def test_another_alternative_replaces_the_value() -> None:
    cat = {"pet": {"type": "Cat", "lives": 3}}
    assert PERSON.merged(cat, {"pet": {"type": "dog", "tricks": ["sit"]}}) == {
        "pet": {"type": "dog", "tricks": ["sit"]}
    }
    assert PERSON.merged(cat, {"pet": {"lives": 2}}) == {"pet": {"type": "Cat", "lives": 2}}
    with pytest.raises(ValueError, match="no field 'tricks'"):
        PERSON.merged(cat, {"pet": {"tricks": []}})


class Old(Struct):
    name: str
    note: str | None = "none"


class New(Struct):
    name: str
    mail: str
    note: str | None = "none"
    tags: list[str] = []


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_a_patch_keeps_what_a_newer_program_wrote_and_mends_what_an_older_one_did(
    encoding: str, tmp_path: Path
) -> None:
    disk = {"type": "disk", "options": {"rootdir": str(tmp_path), "encoding": encoding}}
    older, newer = SpecStar(), SpecStar()
    for spec in (older, newer):
        spec.configure(backend={"meta": disk, "resource": disk})
    old, new = older.add_model(Old, name="person"), newer.add_model(New, name="person")
    async with older, newer:
        made = await new.create(New("Ann", "a@b", tags=["x"]))
        await old.patch(made.resource_id, {"note": None})
        assert (await old.get(made.resource_id)).data == Old("Ann", None)
        assert (await new.get(made.resource_id)).data == New("Ann", "a@b", None, ["x"])

        first = await old.create(Old("Bo"))
        with pytest.raises(DecodeError, match="mail"):
            await new.patch(first.resource_id, {"note": "x"})
        await new.patch(first.resource_id, {"mail": "b@b"})
        assert (await new.get(first.resource_id)).data == New("Bo", "b@b")
        with pytest.raises(InvalidInputError, match="mail"):
            await old.patch(made.resource_id, {"mail": "c@b"})
        frozen: Any = MappingProxyType({"note": "frozen"})
        await new.patch(first.resource_id, frozen)
        assert (await new.get(first.resource_id)).data.note == "frozen"


class OldRecord(Struct):
    a: int = 0


class NewRecord(Struct):
    a: int = 0
    extra: str = ""


class OldRow(Struct, array_like=True):
    a: int = 0


class NewRow(Struct, array_like=True):
    a: int = 0
    extra: str = ""


class OldSheet(Struct):
    name: str
    pair: tuple[OldRecord, int]
    rows: list[OldRow]
    blob: bytes = b""
    days: dict[int, str] = {}


class NewSheet(Struct):
    name: str
    pair: tuple[NewRecord, int]
    rows: list[NewRow]
    blob: bytes = b""
    days: dict[int, str] = {}


@pytest.mark.parametrize("before", ["json", "msgpack"])
@pytest.mark.parametrize("after", ["json", "msgpack"])
async def test_a_patch_keeps_what_lies_in_arrays_in_any_format(before: str, after: str, tmp_path: Path) -> None:
    def at(encoding: str) -> SpecStar:
        disk = {"type": "disk", "options": {"rootdir": str(tmp_path), "encoding": encoding}}
        spec = SpecStar()
        spec.configure(backend={"meta": disk, "resource": disk})
        return spec

    async with at(before) as newer:
        sheet = NewSheet("first", (NewRecord(1, "x"), 2), [NewRow(3, "y")], b"\0\1", {1: "one"})
        made = await newer.add_model(NewSheet, name="sheet").create(sheet)
    async with at(after) as older:
        sheets = older.add_model(OldSheet, name="sheet")
        await sheets.patch(made.resource_id, {"name": "second", "days": {"2": "two"}})
        await sheets.patch(made.resource_id, {"days": {"1": None}})
    async with at(before) as newer:
        found = (await newer.add_model(NewSheet, name="sheet").get(made.resource_id)).data
        assert found == NewSheet("second", (NewRecord(1, "x"), 2), [NewRow(3, "y")], b"\0\1", {2: "two"})


@dataclasses.dataclass
class Scored:
    name: str
    score: float | None = dataclasses.field(default=None, compare=False)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
async def test_numbers_that_json_lacks_are_refused_whatever_the_class_calls_equal(score: float) -> None:
    spec = SpecStar()
    spec.configure(backend={"mq": {"type": "simple"}})
    async with spec:
        scored = spec.add_model(Scored)
        with pytest.raises(InvalidInputError, match="JSON has no"):
            await scored.create(Scored("a", score))
        assert (await scored.create(Scored("b"))).resource_id


async def test_a_dictionary_in_place_of_a_value_may_not_have_unknown_members() -> None:
    spec = SpecStar()
    spec.configure(backend={"mq": {"type": "simple"}})
    cats: Any = spec.add_model(Cat)

    async def handler(job: Job[Cat]) -> None: ...

    queue: Any = spec.add_job(Cat, handler)
    async with spec:
        made = await cats.create({"type": "Cat", "lives": 8})
        assert (await cats.get(made.resource_id)).data == Cat(8)
        assert (await queue.enqueue({"type": "Cat", "lives": 7})).payload == Cat(7)
        for call in (cats.create, lambda value: cats.update(made.resource_id, value), queue.enqueue):
            with pytest.raises(InvalidInputError, match=r"no field 'livs' \(did you mean 'lives'\?\)"):
                await call({"type": "Cat", "livs": 8})


class Part(Struct):
    raw: msgspec.Raw
    size: int = 0


class Envelope(Struct):
    raw: msgspec.Raw
    number: float = 0.0
    maybe: msgspec.Raw | None = None
    many: list[msgspec.Raw] = []
    parts: list[Part] = []
    named: dict[str, Part] = {}


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_a_model_with_raw_fields_is_patched(tmp_path: Path, anyio_backend: Any, encoding: str) -> None:
    codec: Any = msgspec.json if encoding == "json" else msgspec.msgpack

    def raw(value: Any) -> msgspec.Raw:
        return msgspec.Raw(codec.encode(value))

    spec = SpecStar()
    storage = {"type": "disk", "options": {"rootdir": str(tmp_path), "encoding": encoding}}
    spec.configure(backend={"meta": storage, "resource": storage})
    envelopes = spec.add_model(Envelope, indexed_fields=["number"])
    async with spec:
        made = Envelope(raw({"a": [1, None]}), parts=[Part(raw(1)), Part(raw("x"))], named={"one": Part(raw([2]))})
        info = await envelopes.create(made)

        async def patched(patch: dict[str, Any]) -> Envelope:
            await envelopes.patch(info.resource_id, patch)
            return (await envelopes.get(info.resource_id)).data

        found = await patched({"number": 2.5})
        assert (found.number, codec.decode(found.raw), found.maybe) == (2.5, {"a": [1, None]}, None)
        assert [codec.decode(part.raw) for part in found.parts] == [1, "x"]
        found = await patched({"raw": {"a": None, "b": 1}, "many": [raw([3])], "named": {"one": {"size": 4}}})
        assert (codec.decode(found.raw), [codec.decode(one) for one in found.many]) == ({"b": 1}, [[3]])
        assert (codec.decode(found.named["one"].raw), found.named["one"].size) == ([2], 4)
        found = await patched({"named": {"two": Part(raw(5))}, "many": []})
        assert codec.decode(found.named["two"].raw) == 5
        with pytest.raises(InvalidInputError, match="no field 'sise'"):
            await patched({"named": {"one": {"sise": 4}}})
        with pytest.raises(InvalidInputError):
            await patched({"named": {"one": {"raw": object()}}})
