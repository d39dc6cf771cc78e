"""JSON merge patches (RFC 7396) of typed values."""

from __future__ import annotations

import difflib
from typing import Any

import msgspec
from msgspec import inspect

__all__ = ["merged", "refuse_unknown_members"]

_NAMED = (inspect.StructType, inspect.DataclassType, inspect.TypedDictType)
_MAX_SHOWN = 80


def merged(target: Any, patch: Any) -> Any:
    """The target, a tree of plain values, changed by a patch."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    # A merge patch names members by text.
    named = {str(msgspec.to_builtins(key)): key for key in result if not isinstance(key, str)}
    for name, value in patch.items():
        key = named.get(name, name) if name not in result else name
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def refuse_unknown_members(kind: inspect.Type, patch: Any, path: str = "$") -> None:
    """Raise `ValueError` for a member of a dictionary that the type has no field for: decoding drops it without a word."""
    if not isinstance(patch, dict):
        return
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    objects = [one for one in kinds if isinstance(one, _NAMED)]
    others = [one for one in kinds if isinstance(one, inspect.DictType | inspect.AnyType | inspect.CustomType)]
    if len(kinds) == len(others) == 1 and isinstance(others[0], inspect.DictType):
        for name, value in patch.items():
            refuse_unknown_members(others[0].value_type, value, f"{path}.{name}")
    elif objects and not others:
        fields = {field.encode_name: field.type for one in objects for field in one.fields}
        tags = {one.tag_field for one in objects if isinstance(one, inspect.StructType)}
        for name, value in patch.items():
            if name in fields:
                if len(objects) == 1:
                    refuse_unknown_members(fields[name], value, f"{path}.{name}")
            elif name not in tags:
                shown = str(name)[:_MAX_SHOWN]
                near = difflib.get_close_matches(shown, fields, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise ValueError(f"there is no field {shown!r}{hint} - at `{path}`")
