"""The levels that are found in a payload are those of its value."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta, Raw, Struct, msgpack

from specstar.config.encoding import Encoding
from specstar.errors import LimitExceededError
from specstar.resource_manager.codec import Codec
from specstar.resource_manager.decodable import decodable_type
from specstar.resource_manager.nesting import MAX_LEVELS, Nesting


class Colour(Enum):
    red = 1


class Loose(Struct):
    content: Any = None
    more: Annotated[dict[str, Any] | None, Meta(description="more of it")] = None
    number: int = 0


class Extended(Loose):
    extra: Any = None


class Around(Struct):
    loose: Loose
    content: Any = None


class Chain(Struct):
    inner: Chain | None = None
    content: Any = None


class Row(Struct, array_like=True):
    content: Any = None


class Changing(Struct):
    content: Any = None

    def __post_init__(self) -> None:
        self.content = str(self.content)


@dataclass
class Plain:
    content: Any = None


@dataclass
class PlainExtended(Plain):
    extra: Any = None


class Coloured(Struct):
    content: Any = Colour.red
    more: Any = None


TEXTS = ["", "[[{{", "]]", "é" * 40, '"', '"["', "\\", '\\"[', '"\\\\"{', "[\\", "\n[\x00\\n"]


def of(levels: int, chance: random.Random, *, wide: int) -> Any:
    """A value of so many levels, some of them with more beside."""
    value: Any = chance.choice([1, None, *TEXTS])
    for _ in range(levels):
        text = chance.choice(TEXTS)
        value = chance.choice([[value], {"a": value}, [1, [], value], {"a": [2], "b": value}, {text: text, "b": value}])
    return [value, *({"i": number} for number in range(wide))] if wide else value


def changing(content: Any) -> Changing:
    value = Changing()
    value.content = content
    return value


def chain(content: Any) -> Chain:
    return Chain(Chain(Chain(content=content)))


SHAPES: dict[str, tuple[Any, Any]] = {
    "any": (Any, lambda content: content),
    "dictionary": (dict[str, list[Any]], lambda content: {"a": [content]}),
    "attribute": (Loose, Loose),
    "two-attributes": (Loose, lambda content: Loose(1, {"a": content})),
    "subclass": (Loose, lambda content: Extended(extra=content)),
    "around": (Around, lambda content: Around(Loose(content))),
    "recursive": (Chain, chain),
    "dataclass": (Plain, Plain),
    "dataclass-subclass": (Plain, lambda content: PlainExtended(extra=content)),
    "array": (Row, Row),
    "changing": (Changing, changing),
    "foreign-default": (Coloured, lambda content: Coloured(more=content)),
    "builtin": (Loose, lambda content: {"content": 1, "unknown": content}),
}


@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize("shape", SHAPES)
def test_a_value_is_refused_by_its_levels_however_it_is_looked_at(shape: str, encoding: Encoding) -> None:
    kind, made = SHAPES[shape]
    chance = random.Random(shape)
    form = msgspec.json if encoding is Encoding.json else msgspec.msgpack
    nesting = Nesting(decodable_type(kind), what="it", field="data")
    outside = levels_of(form.decode(form.encode(made([]))))
    for wide in (0, 40, 3000):
        for levels in (1, 100, *range(MAX_LEVELS - outside - 6, MAX_LEVELS - outside + 6)):
            given = made(of(levels, chance, wide=wide))
            payload = form.encode(given)
            found = levels_of(form.decode(payload))
            if found <= MAX_LEVELS:
                nesting.check(payload, encoding, given)
                continue
            with pytest.raises(LimitExceededError) as caught:
                nesting.check(payload, encoding, given)
            assert caught.value.actual == found


@pytest.mark.parametrize("beside", [{b"\xff": 1}, msgpack.Ext(1, b"[")], ids=["key", "extension"])
def test_what_has_no_json_is_looked_at_too(beside: Any) -> None:
    nesting = Nesting(decodable_type(Any), what="it", field="data")
    for levels in (1, *range(MAX_LEVELS - 6, MAX_LEVELS + 2)):
        given = [beside, of(levels, random.Random(levels), wide=300)]
        payload, found = msgpack.encode(given), levels_of(given)
        if found <= MAX_LEVELS:
            nesting.check(payload, Encoding.msgpack, given)
            continue
        with pytest.raises(LimitExceededError) as caught:
            nesting.check(payload, Encoding.msgpack, given)
        assert caught.value.actual == found


@pytest.mark.parametrize(
    ("hidden", "levels"), [(b"\x91" * 300 + b"\xc0", 1), (b'\xa1"', MAX_LEVELS)], ids=["deep", "quote"]
)
def test_what_is_encoded_already_hides_no_level(hidden: bytes, levels: int) -> None:
    nesting = Nesting(decodable_type(Any), what="it", field="data")
    given = [Raw(hidden), of(levels, random.Random(1), wide=300)]
    with pytest.raises(LimitExceededError) as caught:
        nesting.check(msgpack.encode(given), Encoding.msgpack, given)
    assert caught.value.actual == levels_of(msgpack.decode(msgpack.encode(given)))


def levels_of(tree: Any) -> int:
    if not isinstance(tree, dict | list):
        return 0
    return 1 + max(map(levels_of, tree.values() if isinstance(tree, dict) else tree), default=0)


@pytest.mark.parametrize("encoding", list(Encoding))
def test_members_that_only_a_newer_program_knows_count(encoding: Encoding) -> None:
    codec = Codec(Loose, encoding, name="loose")
    form = msgspec.json if encoding is Encoding.json else msgspec.msgpack
    stored = [
        form.encode({"content": 1, "extra": of(levels, random.Random(1), wide=0)})
        for levels in range(250, MAX_LEVELS + 1)
    ]
    for payload in stored:
        if levels_of(form.decode(payload)) <= MAX_LEVELS:
            assert codec.patched(payload, encoding, {"number": 1}, resource_id="a", revision_id="b").data.number == 1
        else:
            with pytest.raises(LimitExceededError):
                codec.patched(payload, encoding, {"number": 1}, resource_id="a", revision_id="b")
        assert codec.decode(payload, encoding, resource_id="a", revision_id="b") == Loose(1)
