"""Values of a subclass of a declared type: fields that it adds would be stored, and not be read back."""

from __future__ import annotations

from typing import Any

from msgspec import inspect

from specstar.query.projection import field_names

__all__ = ["Subclasses"]


class Subclasses:
    """Looks at values of one type; not at those within them, which would cost a walk a call."""

    __slots__ = ("cls",)

    def __init__(self, kind: inspect.Type) -> None:
        # The type itself, if its values are instances of that very class. Of a generic one there are none.
        cls = kind.cls if isinstance(kind, inspect.StructType | inspect.DataclassType) else None
        self.cls = cls if isinstance(cls, type) else None

    def check(self, value: Any) -> None:
        """Raise `ValueError` for a value of a subclass with fields of its own."""
        cls: Any = self.cls
        given: Any = type(value)
        if cls is None or given is cls or not isinstance(value, cls):
            return
        added = field_names(given) - field_names(cls)
        if added:
            raise ValueError(
                f"{given.__name__} adds the field {min(added)!r} to {cls.__name__}, and it would not be read back: "
                "declare the subclass itself, or leave the field out"
            )
