"""How deeply a value may be nested: what was written is read back also by a caller whose own stack is deep."""

from __future__ import annotations

from collections.abc import Callable
from gc import get_referents
from operator import attrgetter
from typing import Any

from msgspec import NODEFAULT, inspect, json, msgpack

from specstar.config.encoding import Encoding
from specstar.errors import LimitExceededError
from specstar.query.modelling import options_of
from specstar.resource_manager.patching import parts_of

__all__ = ["MAX_LEVELS", "TOO_DEEP", "Nesting"]

# Encoders, decoders and patches recurse, up to two frames a level, and Python allows 1,000 frames in all.
MAX_LEVELS = 256
# For a RecursionError: how deep the value is, it does not say.
TOO_DEEP = f"it is nested too deeply, or the call is: a value may have {MAX_LEVELS} levels"

# The first bytes of arrays and maps in MessagePack: https://github.com/msgpack/msgpack/blob/master/spec.md
_MSGPACK_OPENINGS = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])
# A value of these types is made of what Python itself has, which a walk goes through without looking at other objects.
_PLAIN = (
    inspect.AnyType,
    inspect.NoneType,
    inspect.BoolType,
    inspect.IntType,
    inspect.FloatType,
    inspect.StrType,
    inspect.BytesType,
    inspect.ListType,
    inspect.DictType,
)
_PLAIN_DEFAULTS = (type(NODEFAULT), type(None), bool, int, float, str, bytes)
_PLAIN_FACTORIES = (NODEFAULT, list, dict)
# A look at the payload costs by its bytes, a walk through the value by its members.
_SMALL = 1 << 14
_WIDE = 32


class Nesting:
    """Looks at the payloads of one type. `what` and `field` are for the error."""

    def __init__(self, kind: inspect.Type, *, what: str, field: str) -> None:
        self._kind = kind
        self._what = what
        self._field = field
        self._bounded: bool | None = None
        self._plain = False
        # Or the class of the value, and its attributes that may be deep, if they are plain.
        self._cls: type[Any] | None = None
        self._loose: Callable[[Any], Any] = _itself

    def check(self, payload: bytes, encoding: Encoding, given: Any, decoded: Any) -> None:
        """Raise `LimitExceededError` for more than `MAX_LEVELS` levels of lists and objects.

        `decoded` is what the payload says to its type, `given` what it was made of. Most payloads cost next to nothing, and
        few are decoded once more.
        """
        if self._bounded is None:
            self._look()
        if self._bounded or len(payload) <= MAX_LEVELS:
            return
        small = len(payload) <= _SMALL
        if small and encoding is Encoding.json and _has_few_openings(payload, encoding):
            return
        # One of a subclass, or a dictionary, may have members that are not decoded.
        if self._plain or type(given) is type(decoded) is self._cls:
            if _is_shallow(self._loose(decoded), payload, look=small and encoding is Encoding.msgpack):
                return
        elif _has_few_openings(payload, encoding):
            return
        tree = json.decode(payload) if encoding is Encoding.json else msgpack.decode(payload)
        if _is_shallow(tree, payload, look=False):
            return
        levels = _levels(tree)
        if levels > MAX_LEVELS:
            message = f"{self._what} is nested too deeply: it has {levels} levels, at most {MAX_LEVELS} are allowed"
            raise LimitExceededError(message, field=self._field, limit=MAX_LEVELS, actual=levels)

    def _look(self) -> None:
        kind = self._kind
        self._plain = _is_plain(kind, set())
        if isinstance(kind, inspect.StructType | inspect.DataclassType) and not _has_code(kind.cls):
            loose = [field for field in kind.fields if not _is_bounded(field.type, {}, {id(kind)})]
            if loose and all(_is_plain(field.type, set()) and _has_plain_default(field) for field in loose):
                self._cls, self._loose = kind.cls, attrgetter(*[field.name for field in loose])
        self._bounded = _is_bounded(kind, {}, set())


def _has_code(cls: type[Any]) -> bool:
    """True if a value may say something else than the payload that it was decoded from."""
    return hasattr(cls, "__post_init__") or hasattr(cls, "__attrs_attrs__")


def _itself(value: Any) -> Any:
    return value


def _has_few_openings(payload: bytes, encoding: Encoding) -> bool:
    """True if there are too few lists and objects in a payload, or what looks like them."""
    if encoding is Encoding.msgpack:
        return len(payload) - len(payload.translate(None, _MSGPACK_OPENINGS)) <= MAX_LEVELS
    # Unlike count(), replace() looks for a byte with memchr, and no further than it must.
    most = MAX_LEVELS + 1
    left = len(payload.replace(b"[", b"", most)) + len(payload.replace(b"{", b"", most))
    return 2 * len(payload) - left <= MAX_LEVELS


def _is_shallow(value: Any, payload: bytes, *, look: bool) -> bool:
    """True if a plain value surely has not too many levels. `look`: at the payload, MessagePack, before all of a wide one."""
    nodes = [value]
    most = len(payload)
    for _ in range(MAX_LEVELS - 2):
        # All that a level refers to, without a step of Python for each of them.
        nodes = get_referents(*nodes)
        if not nodes:
            return True
        if look and len(nodes) > _WIDE:
            if _has_few_openings(payload, Encoding.msgpack):
                return True
            look = False
        most -= len(nodes)
        if most < 0:  # more than the payload has: it refers to what is none of its members
            return False
    return False


def _levels(tree: Any) -> int:
    levels = 0
    nodes = [tree]
    while nodes := [node for node in nodes if type(node) is dict or type(node) is list]:
        levels += 1
        nodes = [item for node in nodes for item in (node.values() if type(node) is dict else node)]
    return levels


def _is_plain(kind: inspect.Type, around: set[int]) -> bool:
    return id(kind) not in around and all(
        isinstance(option, _PLAIN) and all(_is_plain(part, {*around, id(kind)}) for part in parts_of(option))
        for option in options_of(kind)
    )


def _has_plain_default(field: inspect.Field) -> bool:
    return isinstance(field.default, _PLAIN_DEFAULTS) and field.default_factory in _PLAIN_FACTORIES


def _is_bounded(kind: inspect.Type, known: dict[int, bool], around: set[int]) -> bool:
    """True if no value of this type is nested deeper than the type itself. What is `Raw` is not taken apart."""
    if isinstance(kind, inspect.AnyType | inspect.CustomType) or id(kind) in around:
        return False
    found = known.get(id(kind))
    if found is None:
        inner = {*around, id(kind)}
        found = known[id(kind)] = all(_is_bounded(part, known, inner) for part in parts_of(kind))
    return found
