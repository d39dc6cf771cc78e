"""Types that no value can be decoded into: found when they are declared, not at the first value."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["decodable_type"]

_DECODED = (dict, list, str, int, float, bool, bytes, type(None))


def decodable_type(kind: Any) -> msgspec.inspect.Type:
    """What msgspec knows of a type. Raises `TypeError`, with the path of the field, if that is nothing for a part of it.

    Such are pydantic models, and classes that are neither Struct, dataclass, attrs class, TypedDict nor NamedTuple.
    """
    info = msgspec.inspect.type_info(kind)
    found = _find(info, "", set())
    if found is not None:
        path, cls = found
        where = f"its field {path!r} is of type" if path else "it is of type"
        raise TypeError(
            f"{where} {cls.__module__}.{cls.__qualname__}, which msgspec does not decode; use a msgspec.Struct, a dataclass, "
            "an attrs class, a TypedDict or a NamedTuple"
        )
    return info


def _find(info: Any, path: str, seen: set[int]) -> tuple[str, type] | None:
    if id(info) in seen:
        return None  # a type that refers to itself
    seen.add(id(info))
    if isinstance(info, msgspec.inspect.CustomType):
        return (path, info.cls) if _is_hopeless(info.cls) else None
    if isinstance(info, msgspec.inspect.DataclassType) and hasattr(info.cls, "__attrs_attrs__"):
        for field in info.fields:
            if field.name.startswith("_"):
                raise TypeError(
                    f"the field {field.name!r} of the attrs class {info.cls.__qualname__} is private, which msgspec does not "
                    "encode: rename it, or use a dataclass or a msgspec.Struct"
                )
    if isinstance(info, msgspec.inspect.Field):
        below = [(info.type, f"{path}.{info.name}" if path else info.name)]
    elif isinstance(info, msgspec.inspect.Type):
        values = [getattr(info, name) for name in info.__struct_fields__]
        below = [(part, path) for value in values for part in (value if isinstance(value, tuple) else (value,))]
    else:
        return None
    for part, where in below:
        found = _find(part, where, seen)
        if found is not None:
            return found
    return None


def _is_hopeless(cls: Any) -> bool:
    """Not `object` or an abstract class, of which what is decoded may be an instance."""
    if cls is msgspec.UnsetType:
        return False
    try:
        return not any(issubclass(decoded, cls) for decoded in _DECODED)
    except TypeError:
        return False
