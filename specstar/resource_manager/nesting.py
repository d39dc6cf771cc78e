"""How deeply a value may be nested: what was written is read back also by a caller whose own stack is deep."""

from __future__ import annotations

from contextlib import suppress
from gc import get_referents
from itertools import accumulate
from typing import Any

from msgspec import MsgspecError, Raw, inspect, json, msgpack

from specstar.config.encoding import Encoding
from specstar.errors import LimitExceededError
from specstar.resource_manager.patching import parts_of

__all__ = ["MAX_LEVELS", "TOO_DEEP", "Nesting"]

# Encoders, decoders and patches recurse, up to two frames a level, and Python allows 1,000 frames in all.
MAX_LEVELS = 256
# For a RecursionError: how deep the value is, it does not say.
TOO_DEEP = f"it is nested too deeply, or the call is: a value may have {MAX_LEVELS} levels"

# The first bytes of arrays and maps in MessagePack: https://github.com/msgpack/msgpack/blob/master/spec.md
_MSGPACK_OPENINGS = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_MARKS = bytes(set(range(256)) - set(b'[]{}"'))
_STEPS = bytes.maketrans(b"[]", b"\x01\xff")  # one down, one up: as signed bytes
_check_json = json.Decoder(Raw).decode


class Nesting:
    """Looks at the payloads of one type. `what` and `field` are for the error."""

    def __init__(self, kind: inspect.Type, *, what: str, field: str) -> None:
        self._kind = kind
        self._what = what
        self._field = field
        self._bounded: bool | None = None

    def check(self, payload: bytes, encoding: Encoding, value: Any) -> None:
        """Raise `LimitExceededError` for more than `MAX_LEVELS` levels of lists and objects. Most payloads cost next to nothing.

        `value` is what the payload was made of.
        """
        if self._bounded is None:
            self._bounded = _is_bounded(self._kind, {}, set())
        if self._bounded or len(payload) <= MAX_LEVELS or _has_few_openings(payload, encoding):
            return
        levels = _levels_of_json(payload) if encoding is Encoding.json else _levels_of_msgpack(payload, value)
        if levels > MAX_LEVELS:
            message = f"{self._what} is nested too deeply: it has {levels} levels, at most {MAX_LEVELS} are allowed"
            raise LimitExceededError(message, field=self._field, limit=MAX_LEVELS, actual=levels)


def _has_few_openings(payload: bytes, encoding: Encoding) -> bool:
    """True if there are too few lists and objects in a payload, or what looks like them."""
    if encoding is Encoding.msgpack:
        return len(payload) - len(payload.translate(None, _MSGPACK_OPENINGS)) <= MAX_LEVELS
    # Unlike count(), replace() looks for a byte with memchr, and no further than it must.
    most = MAX_LEVELS + 1
    left = len(payload.replace(b"[", b"", most)) + len(payload.replace(b"{", b"", most))
    return 2 * len(payload) - left <= MAX_LEVELS


def _levels_of_json(payload: bytes) -> int:
    """By its brackets alone: decoding would take several times as long. At least one."""
    text = payload.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in payload else payload
    # Two quotes in a row are no string, or end one and begin the next: what is around them stays in a string, or outside.
    marks = text.translate(_BRACKETS, _NO_MARKS).replace(b'""', b"")
    outside = b"".join(marks.split(b'"')[::2])
    inner = outside.replace(b"[]", b"")  # one level less, and most of the brackets
    return 1 + max(accumulate(memoryview(inner.translate(_STEPS)).cast("b")), default=0)


def _levels_of_msgpack(payload: bytes, value: Any) -> int:
    # To encode once more takes less time than to decode; but what has no JSON, or is encoded already, does not go that way.
    with suppress(TypeError, ValueError, OverflowError, MsgspecError):
        text = json.encode(value)
        _check_json(text)  # a `Raw` in it holds MessagePack, whose brackets are none
        if (levels := _levels_of_json(text)) <= MAX_LEVELS:
            return levels
    levels, nodes = 0, [msgpack.decode(payload)]
    # All that a level refers to, without a step of Python for each of them.
    while inner := get_referents(*nodes):
        levels, nodes = levels + 1, inner
    return levels + any(isinstance(node, dict | list) for node in nodes)


def _is_bounded(kind: inspect.Type, known: dict[int, bool], around: set[int]) -> bool:
    """True if no value of this type is nested deeper than the type itself. What is `Raw` is not taken apart."""
    if isinstance(kind, inspect.AnyType | inspect.CustomType) or id(kind) in around:
        return False
    found = known.get(id(kind))
    if found is None:
        inner = {*around, id(kind)}
        found = known[id(kind)] = all(_is_bounded(part, known, inner) for part in parts_of(kind))
    return found
