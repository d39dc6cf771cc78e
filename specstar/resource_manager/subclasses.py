"""Values of a subclass of a declared type: fields that it adds would be stored, and not be read back."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from msgspec import Raw, inspect, msgpack

from specstar.query.projection import field_names

__all__ = ["Subclasses"]


_members = msgpack.Decoder(dict[str, Raw] | list[Raw]).decode


class Subclasses:
    """Looks at values of one type; not at those within them, which would cost a walk a call."""

    __slots__ = ("cls",)

    def __init__(self, kind: inspect.Type) -> None:
        # The type itself, if its values are instances of that very class. Of a generic one there are none.
        cls = kind.cls if isinstance(kind, inspect.StructType | inspect.DataclassType) else None
        self.cls: type | None = cls if isinstance(cls, type) else None

    def check(self, value: Any) -> None:
        """Raise `ValueError` for a value of a subclass with fields of its own that would be stored."""
        cls: Any = self.cls
        given: Any = type(value)
        if cls is None or given is cls or not isinstance(value, cls):
            return
        added = field_names(given) - field_names(cls)
        if added and (lost := _stored(value, added)):
            raise ValueError(
                f"{given.__name__} adds the field {min(lost)!r} to {cls.__name__}, and it would not be read back: "
                "declare the subclass itself, or leave the field out"
            )


def _stored(value: Any, names: frozenset[str]) -> list[str]:
    """Those of these fields that are in the payload: not what is unset, private, or left out as its default."""
    members: Any = ()
    with suppress(TypeError, ValueError, OverflowError):  # who encodes it for good raises that
        members = _members(msgpack.encode(value))
    if isinstance(members, list):
        return list(names)
    kind: Any = type(value)
    fields, encoded = getattr(kind, "__struct_fields__", ()), getattr(kind, "__struct_encode_fields__", ())
    renamed: dict[str, str] = dict(zip(fields, encoded, strict=True))
    return [name for name in names if renamed.get(name, name) in members]
