"""Members of a patch that the model has no field for."""

from __future__ import annotations

import dataclasses
from typing import Any, TypedDict

import msgspec
import pytest
from msgspec import Struct

from specstar import Job, SpecStar
from specstar.errors import InvalidInputError
from specstar.resource_manager.patching import merged, refuse_unknown_members


class Street(TypedDict):
    house: int


@dataclasses.dataclass
class Address:
    city: str
    street: Street


class Cat(Struct, tag=True):
    lives: int = 9


class Dog(Struct, tag="dog"):
    tricks: list[str] = []


class Person(Struct, rename="camel", omit_defaults=True):
    full_name: str = ""
    address: Address | None = None
    pet: Cat | Dog | None = None
    homes: dict[str, Address] = {}
    loose: dict[str, Any] | None = None
    open: Any = None
    boss: Person | None = None


PERSON = msgspec.inspect.type_info(Person)


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
        "no object",
    ],
)
def test_what_the_model_has_is_taken(patch: Any) -> None:
    refuse_unknown_members(PERSON, patch)


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
    ],
)
def test_what_the_model_lacks_is_refused_with_its_path(patch: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refuse_unknown_members(PERSON, patch)


def test_merging_is_that_of_the_rfc() -> None:
    """The cases of RFC 7396, appendix A, with objects."""
    assert merged({"a": "b", "b": "c"}, {"a": None}) == {"b": "c"}
    assert merged({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}) == {"a": {"b": "d"}}
    assert merged({"a": [1]}, {"a": {"b": {"c": None}}}) == {"a": {"b": {}}}
    assert merged({1: "one"}, {"1": None, "2": "two"}) == {"2": "two"}


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
