"""How deeply a value may be nested: what was written is read back also by a caller whose own stack is deep."""

from __future__ import annotations

from typing import Any

from msgspec import inspect, json, msgpack

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


class Nesting:
    """Looks at the payloads of one type."""

    def __init__(self, kind: inspect.Type) -> None:
        self._kind = kind
        self._bounded: bool | None = None

    def check(self, payload: bytes, encoding: Encoding, *, what: str, field: str) -> None:
        """Raise `LimitExceededError` for more than `MAX_LEVELS` levels of lists and objects."""
        if _openings(payload, encoding) <= MAX_LEVELS:
            return
        if self._bounded is None:
            self._bounded = _is_bounded(self._kind, {}, set())
        if self._bounded:
            return
        levels = _levels(json.decode(payload) if encoding is Encoding.json else msgpack.decode(payload))
        if levels > MAX_LEVELS:
            message = f"{what} is nested too deeply: it has {levels} levels, at most {MAX_LEVELS} are allowed"
            raise LimitExceededError(message, field=field, limit=MAX_LEVELS, actual=levels)


def _openings(payload: bytes, encoding: Encoding) -> int:
    """At least as many as lists and objects in it, and cheaper to count."""
    if len(payload) <= MAX_LEVELS:
        return 0
    if encoding is Encoding.json:
        return payload.count(b"[") + payload.count(b"{")
    return len(payload) - len(payload.translate(None, _MSGPACK_OPENINGS))


def _levels(tree: Any) -> int:
    levels = 0
    nodes = [tree]
    while nodes := [node for node in nodes if type(node) is dict or type(node) is list]:
        levels += 1
        nodes = [item for node in nodes for item in (node.values() if type(node) is dict else node)]
    return levels


def _is_bounded(kind: inspect.Type, known: dict[int, bool], around: set[int]) -> bool:
    """True if no value of this type is nested deeper than the type itself. What is `Raw` is not taken apart."""
    if isinstance(kind, inspect.AnyType | inspect.CustomType) or id(kind) in around:
        return False
    found = known.get(id(kind))
    if found is None:
        inner = {*around, id(kind)}
        found = known[id(kind)] = all(_is_bounded(part, known, inner) for part in parts_of(kind))
    return found
