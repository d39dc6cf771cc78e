"""Values of subclasses: what they add to the declared type would be stored, and not be read back."""

from __future__ import annotations

import dataclasses
from typing import Any, Generic, TypeVar

import attrs
import pytest
from msgspec import UNSET, Struct, UnsetType

from specstar import Job, SpecStar
from specstar.config.encoding import Encoding
from specstar.errors import InvalidInputError
from specstar.resource_manager.codec import Codec

T = TypeVar("T")


class Shape(Struct):
    name: str


class Circle(Shape):
    radius: int = 1


@dataclasses.dataclass
class Point:
    x: int


@dataclasses.dataclass
class Point3(Point):
    z: int = 0


class Labelled(Shape):
    label: str | UnsetType = UNSET


class Named(Shape, omit_defaults=True):
    title: str = "none"


class Column(Shape, rename="upper"):
    width: int = 1


class Row(Struct, array_like=True):
    name: str


class WideRow(Row):
    width: int = 1


@attrs.define
class Place:
    x: int


@attrs.define
class CachedPlace(Place):
    _cache: int = 0


class Box(Struct, Generic[T]):
    content: T


@pytest.mark.parametrize(
    ("model", "value"),
    [
        (Shape, Circle("c")),
        (Shape, Labelled("l", label="a")),
        (Shape, Named("n", title="a")),
        (Shape, Column("c")),
        (Point, Point3(1)),
        (Row, WideRow("r")),
    ],
)
def test_added_fields_are_refused(model: Any, value: Any) -> None:
    codec: Codec[Any] = Codec(model, Encoding.json, name="Model")
    with pytest.raises(InvalidInputError, match="would not be read back: declare the subclass itself"):
        codec.checked(value)


@pytest.mark.parametrize(("model", "value"), [(Shape, Labelled("l")), (Shape, Named("n")), (Place, CachedPlace(1))])
@pytest.mark.parametrize("encoding", list(Encoding))
def test_added_fields_that_are_not_stored_are_taken(model: Any, value: Any, encoding: Encoding) -> None:
    codec: Codec[Any] = Codec(model, encoding, name="Model")
    payload, stored = codec.checked(value)
    assert type(stored) is model
    assert codec.decode(payload, encoding, resource_id="a", revision_id="b") == stored


@pytest.mark.parametrize("model", [object, Any, Box[Shape], dict[str, Shape]])
def test_other_models_take_what_they_took(model: Any) -> None:
    codec: Codec[Any] = Codec(model, Encoding.json, name="Model")
    value = {"content": Shape("s")} if model is dict[str, Shape] else Box(Shape("s"))
    assert codec.checked(value)[0] == b'{"content":{"name":"s"}}'


async def test_jobs_refuse_them_too() -> None:
    async def draw(job: Job[Shape]) -> None: ...

    spec = SpecStar()
    spec.configure(backend={"mq": {"type": "simple"}})
    queue = spec.add_job(Shape, draw)
    async with spec:
        await queue.enqueue(Shape("s"))
        with pytest.raises(InvalidInputError, match="Circle adds the field 'radius' to Shape"):
            await queue.enqueue(Circle("c"))
