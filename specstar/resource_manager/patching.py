"""JSON merge patches (RFC 7396) of typed values, and members that a type has no field for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec import inspect

from specstar.query.modelling import options_of
from specstar.suggestions import closest, did_you_mean

__all__ = ["Shape", "UnknownMemberError", "parts_of"]

_Record: TypeAlias = inspect.StructType | inspect.DataclassType | inspect.TypedDictType
_LISTS = (
    inspect.ListType,
    inspect.SetType,
    inspect.FrozenSetType,
    inspect.VarTupleType,
    inspect.CollectionType,
)
_WITH_FIELDS = (inspect.StructType, inspect.DataclassType, inspect.TypedDictType)
_MAX_SHOWN = 80


class UnknownMemberError(ValueError):
    """A value has a member that its type has no field for: decoding would drop it without a word. A number in an array."""

    def __init__(self, name: str | int, near: str | None) -> None:
        super().__init__(name)
        self._name = name
        self._near = near
        self.path: list[str] = []

    def __str__(self) -> str:
        path = "".join(["$", *reversed(self.path)])
        return f"there is no field {self._name!r}{did_you_mean(self._near)} - at `{path[:1000]}`"


class Shape:
    """The names of the fields that a type has, at any depth.

    Where a type is a union of several with fields, the tag of a value tells which is meant; without one, a name that any of
    them has is taken.
    """

    def __init__(self, kind: inspect.Type) -> None:
        self._kinds = tuple(options_of(kind))
        self._named: dict[int, bool] = {}
        self._raw = any(_has_within(option, (inspect.RawType,), set()) for option in self._kinds)

    def check(self, value: Any) -> None:
        """Raise `UnknownMemberError` for a value, of plain ones, that has members without a field."""
        self._check(self._kinds, value)

    def merged(self, target: Any, patch: Any) -> Any:
        """The target, a tree of plain values, changed by a patch.

        Null sets a field to None where its type has that, and removes it elsewhere. A patch that names another alternative
        of a union replaces the value. Raises `UnknownMemberError`.
        """
        return self._merged(self._kinds, target, patch)

    def packed(self, value: Any, pack: Callable[[Any], msgspec.Raw]) -> Any:
        """The tree of plain values with those that the type keeps `Raw` packed, as `msgspec.convert` wants them."""
        return self._packed(self._kinds, value, pack) if self._raw else value

    def _packed(self, kinds: Sequence[inspect.Type], value: Any, pack: Callable[[Any], msgspec.Raw]) -> Any:
        # In a union with others msgspec takes no value for it.
        if kinds and all(isinstance(kind, inspect.RawType) for kind in kinds):
            return pack(value)
        if isinstance(value, dict):
            below = _Members(kinds, value)
            return {name: self._packed(below.options(name) or [], item, pack) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._packed(_items(kinds, place) or [], item, pack) for place, item in enumerate(value)]
        return value

    def _merged(self, kinds: Sequence[inspect.Type], target: Any, patch: Any) -> Any:
        if not isinstance(patch, dict):
            self._check(kinds, patch)
            return patch
        result = dict(target) if isinstance(target, dict) else {}
        records, maps = _with_members(kinds)
        before = _chosen(records, target)
        meant = _chosen(records, patch) or before
        if meant is not None:
            records = [meant]
            if before is not None and before is not meant:
                result = {}
        # A merge patch names members by text.
        named = {_text(key): key for key in result if not isinstance(key, str)}
        for name, value in patch.items():
            key = named.get(name, name) if name not in result else name
            fields = [field for record in records for field in record.fields if field.encode_name == name]
            if records and not fields and not _is_tag(records, name):
                raise _unknown(records, name)
            below = [option for field in fields for option in options_of(field.type)] if records else maps
            if value is not None:
                try:
                    result[key] = self._merged(below, result.get(key), value)
                except UnknownMemberError as error:
                    error.path.append(f".{_text(name)[:_MAX_SHOWN]}")
                    raise
            elif fields and any(isinstance(option, inspect.NoneType | inspect.AnyType) for option in below):
                result[key] = None
            else:
                result.pop(key, None)
        return result

    def _check(self, kinds: Sequence[inspect.Type], value: Any) -> None:
        if not isinstance(value, dict | list | tuple | set | frozenset) or not any(map(self._holds_names, kinds)):
            return
        if not isinstance(value, dict):
            if not any(isinstance(kind, inspect.AnyType) for kind in kinds):
                for place, item in enumerate(value):
                    self._check_item(kinds, place, item)
            return
        members = _Members(kinds, value)
        for name, item in value.items():
            below = members.options(name)
            if below is None:
                if _is_tag(members.records, name):
                    continue
                raise _unknown(members.records, name)
            try:
                self._check(below, item)
            except UnknownMemberError as error:
                error.path.append(f".{_text(name)[:_MAX_SHOWN]}")
                raise

    def _check_item(self, kinds: Sequence[inspect.Type], place: int, item: Any) -> None:
        below = _items(kinds, place)
        if below is None and any(isinstance(kind, inspect.StructType) and kind.array_like for kind in kinds):
            raise UnknownMemberError(place, None)
        try:
            self._check(below or [], item)
        except UnknownMemberError as error:
            error.path.append(f"[{place}]")
            raise

    def _holds_names(self, kind: inspect.Type) -> bool:
        """True if something of this type, or within it, has members that may be unknown."""
        known = self._named.get(id(kind))
        if known is None:
            known = self._named[id(kind)] = _has_within(kind, _WITH_FIELDS, set())
        return known


class _Members:
    """What the members of a dictionary of one of these types may be."""

    def __init__(self, kinds: Sequence[inspect.Type], value: dict[Any, Any]) -> None:
        self.records, self._maps = _with_members(kinds)
        meant = _chosen(self.records, value)
        if meant is not None:
            self.records = [meant]
        self._fields: dict[str, list[inspect.Type]] = {}
        for record in self.records:
            for field in record.fields:
                self._fields.setdefault(field.encode_name, []).extend(options_of(field.type))

    def options(self, name: Any) -> list[inspect.Type] | None:
        """The types of one member; None if there is no field for it."""
        return self._fields.get(name if isinstance(name, str) else _text(name)) if self.records else self._maps


def _with_members(kinds: Sequence[inspect.Type]) -> tuple[list[_Record], list[inspect.Type]]:
    """What a dictionary of one of these types may be: records, or else the types of the values of a mapping.

    Both are empty where anything goes, or where it cannot be told.
    """
    if any(isinstance(kind, inspect.AnyType | inspect.CustomType | inspect.RawType) for kind in kinds):
        return [], []
    records: list[_Record] = [kind for kind in kinds if _has_members(kind)]  # type: ignore[misc]
    maps = [option for kind in kinds if isinstance(kind, inspect.DictType) for option in options_of(kind.value_type)]
    return ([], []) if records and maps else (records, maps)


def _items(kinds: Sequence[inspect.Type], place: int) -> list[inspect.Type] | None:
    """What the member of a sequence at this place may be; None if none of the types has one there."""
    known = [options for kind in kinds if (options := _item_options(kind, place)) is not None]
    return [option for options in known for option in options] if known else None


def _item_options(kind: inspect.Type, place: int) -> list[inspect.Type] | None:
    """What the member of a sequence at this place may be; None if the type has none there."""
    if isinstance(kind, _LISTS):
        return list(options_of(kind.item_type))
    if isinstance(kind, inspect.TupleType):
        types = list(kind.item_types)
    elif isinstance(kind, inspect.NamedTupleType):
        types = [field.type for field in kind.fields]
    elif isinstance(kind, inspect.StructType) and kind.array_like:
        types = [field.type for field in kind.fields]
        if kind.tag_field is not None:
            types.insert(0, inspect.AnyType())  # the tag
    else:
        return None
    return list(options_of(types[place])) if place < len(types) else None


def _has_within(kind: inspect.Type, wanted: tuple[type[inspect.Type], ...], seen: set[int]) -> bool:
    if id(kind) in seen:
        return False  # a type that refers to itself
    seen.add(id(kind))
    return isinstance(kind, wanted) or any(_has_within(part, wanted, seen) for part in parts_of(kind))


def parts_of(kind: Any) -> Iterator[inspect.Type]:
    """The types of the members of a type."""
    for name in kind.__struct_fields__:
        value = getattr(kind, name)
        for part in value if isinstance(value, tuple) else (value,):
            inner = part.type if isinstance(part, inspect.Field) else part
            if isinstance(inner, inspect.Type):
                yield from options_of(inner)


def _has_members(kind: inspect.Type) -> bool:
    if isinstance(kind, inspect.StructType):
        return not kind.array_like
    return isinstance(kind, inspect.DataclassType | inspect.TypedDictType)


def _chosen(records: Sequence[_Record], value: Any) -> _Record | None:
    """The one that the tag of a value names; the only one."""
    if len(records) == 1:
        return records[0]
    if isinstance(value, dict):
        for record in records:
            tagged = isinstance(record, inspect.StructType) and record.tag_field is not None
            if tagged and value.get(record.tag_field) == record.tag:  # type: ignore[union-attr]
                return record
    return None


def _is_tag(records: Sequence[_Record], name: object) -> bool:
    return any(isinstance(record, inspect.StructType) and record.tag_field == name for record in records)


def _unknown(records: Sequence[_Record], name: object) -> UnknownMemberError:
    shown = _text(name)[:_MAX_SHOWN]
    known = [field.encode_name for record in records for field in record.fields]
    return UnknownMemberError(shown, closest(shown, known))


def _text(key: Any) -> str:
    return key if isinstance(key, str) else str(msgspec.to_builtins(key))
