"""From a model's annotations to its indexed fields."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from specstar.errors import QueryError
from specstar.query.fields import ALL_KINDS, IndexedField, Kind, as_kinds, unique
from specstar.suggestions import closest

__all__ = ["fields_of", "options_of"]

_LEAVES: dict[str, tuple[Kind, str | None]] = {
    "BoolType": ("bool", None),
    "IntType": ("number", None),
    "FloatType": ("number", None),
    "DecimalType": ("number", "decimal"),
    "TimeDeltaType": ("number", "timedelta"),
    "StrType": ("string", None),
    "BytesType": ("string", None),
    "ByteArrayType": ("string", None),
    "MemoryViewType": ("string", None),
    "UUIDType": ("string", None),
    "DateTimeType": ("string", "datetime"),
    "DateType": ("string", "date"),
    "TimeType": ("string", "time"),
}
_LISTS = frozenset({"ListType", "SetType", "FrozenSetType", "VarTupleType", "CollectionType", "TupleType"})
_RECORDS = frozenset({"StructType", "DataclassType", "TypedDictType", "NamedTupleType"})


def fields_of(model: Any, paths: Sequence[str | IndexedField]) -> tuple[IndexedField, ...]:
    """The indexed fields that the paths name in a msgspec Struct, dataclass, attrs class, TypedDict or NamedTuple.

    Names are those of the Python attributes, nested ones with dots. Raises `QueryError` for a path that leads nowhere
    (with the nearest name), or to something without an order of its own, such as a nested struct.
    """
    if isinstance(paths, str) or not isinstance(paths, Iterable):
        raise QueryError("indexed_fields takes a list of paths", path="indexed_fields")
    if not paths:
        return ()
    root: Any = None
    fields: list[IndexedField] = []
    for path in paths:
        if not isinstance(path, str | IndexedField):
            raise QueryError(f"a path is text, got {type(path).__name__}", path="indexed_fields")
        root = root if root is not None else _described(model)
        fields.append(_field(root, path) if isinstance(path, str) else _completed(root, path))
    return unique(fields)


def _completed(root: Any, given: IndexedField) -> IndexedField:
    """A field that was given as such: its path must lead somewhere too, and what it does not say is the model's."""
    found = _field(root, given.path)
    keys = found.keys if given.keys == tuple(given.path.split(".")) else given.keys
    kinds, form = (found.kinds, found.format) if given.kinds == frozenset(ALL_KINDS) else (given.kinds, given.format)
    return IndexedField(path=given.path, kinds=kinds, keys=keys, format=given.format or form, index=given.index)


def _described(model: Any) -> Any:
    import msgspec.inspect

    try:
        described = msgspec.inspect.type_info(model)
    except (TypeError, NameError, ValueError) as exc:
        raise QueryError(f"the type of the model cannot be read: {exc}", path="indexed_fields") from exc
    if all(_name(option) not in _RECORDS for option in options_of(described)):
        raise QueryError(
            f"{getattr(model, '__name__', model)!r} has no fields to index: a model is a msgspec Struct, a dataclass, "
            "an attrs class, a TypedDict or a NamedTuple",
            path="indexed_fields",
        )
    return described


def _field(root: Any, path: str) -> IndexedField:
    targets: list[tuple[Any, tuple[str | int, ...]]] = [(root, ())]
    walked = ""
    for part in path.split("."):
        inner = [found for described, keys in targets for found in _step(described, part, keys)]
        if not inner:
            names = sorted({name for described, _ in targets for name in _names(described)})
            near = closest(part, names)
            where = f"{walked!r} has" if walked else "the model has"
            raise QueryError(
                f"indexed field {path[:80]!r}: {where} no field {part[:80]!r}",
                path=path,
                suggestion=f"{walked}.{near}" if near and walked else near,
            )
        targets = inner
        walked = f"{walked}.{part}" if walked else part

    kinds: set[Kind] = set()
    formats: set[str] = set()
    refused: set[str] = set()
    for described, _ in targets:
        for option in options_of(described):
            found, formatted, problem = _kinds(option)
            kinds |= found
            formats |= formatted
            if problem:
                refused.add(problem)
    if not kinds:
        what = ", ".join(sorted(refused)) or "always null"
        hint = sorted(name for described, _ in targets for name in _names(described))
        advice = f"; index a field of it, e.g. {path}.{hint[0]}" if hint else ""
        raise QueryError(f"indexed field {path!r} cannot be searched, as it is {what}{advice}", path=path)
    keys = {keys for _, keys in targets}
    return IndexedField(
        path=path,
        kinds=as_kinds(kinds),
        keys=keys.pop() if len(keys) == 1 else (),
        format=formats.pop() if len(formats) == 1 else None,  # type: ignore[arg-type]
    )


def _name(described: Any) -> str:
    return type(described).__name__


def options_of(described: Any) -> Iterator[Any]:
    """What a value of a type may be: the members of unions, without their metadata."""
    if _name(described) == "Metadata":
        yield from options_of(described.type)
    elif _name(described) == "UnionType":
        for option in described.types:
            yield from options_of(option)
    else:
        yield described


def _names(described: Any) -> Iterator[str]:
    for option in options_of(described):
        if _name(option) in _RECORDS:
            yield from (field.name for field in option.fields)


def _step(described: Any, part: str, keys: tuple[str | int, ...]) -> Iterator[tuple[Any, tuple[str | int, ...]]]:
    for option in options_of(described):
        kind = _name(option)
        if kind in _RECORDS:
            for position, field in enumerate(option.fields):
                if field.name == part:
                    yield field.type, (*keys, _key(option, kind, position, field))
        elif kind == "DictType" and part:
            if not all(map(_is_text, options_of(option.key_type))):
                raise QueryError(
                    f"{part[:80]!r} cannot be indexed: it is a key of a mapping whose keys are no text", path=part
                )
            yield option.value_type, (*keys, part)
        elif kind == "AnyType" and part:
            yield option, (*keys, part)


def _is_text(key: Any) -> bool:
    if _name(key) == "EnumType":
        return issubclass(key.cls, str)
    if _name(key) == "LiteralType":
        return all(isinstance(value, str) for value in key.values)
    return _name(key) in ("StrType", "AnyType")


def _key(record: Any, kind: str, position: int, field: Any) -> str | int:
    if kind == "NamedTupleType":
        return position
    if kind == "StructType" and record.array_like:
        return position + (record.tag is not None)
    return str(field.encode_name)


def _kinds(option: Any) -> tuple[set[Kind], set[str], str | None]:
    """The kinds and formats of one type, or what it is that cannot be searched."""
    name = _name(option)
    if name in _LEAVES:
        kind, form = _LEAVES[name]
        return {kind}, {form} if form else set(), None
    if name == "NoneType":
        return set(), set(), None
    if name in ("AnyType", "RawType"):
        return (set(ALL_KINDS), set(), None) if name == "AnyType" else (set(), set(), "raw bytes")
    if name == "EnumType":
        return _of_values(member.value for member in option.cls)
    if name == "LiteralType":
        return _of_values(option.values)
    if name in _LISTS:
        items = option.item_types if name == "TupleType" else (option.item_type,)
        formats: set[str] = set()
        scalar = False
        for item in (inner for described in items for inner in options_of(described)):
            kinds, formatted, _ = _kinds(item)
            formats |= formatted
            scalar = scalar or bool(kinds - {"list"})
        return (
            ({"list"}, formats, None) if scalar or not items else (set(), set(), "a list of things with inner fields")
        )
    if name in _RECORDS:
        return set(), set(), f"a {getattr(option.cls, '__name__', 'record')}"
    return set(), set(), "a mapping" if name == "DictType" else f"of type {getattr(option, 'cls', name)}"


def _of_values(values: Any) -> tuple[set[Kind], set[str], str | None]:
    kinds: set[Kind] = set()
    for value in values:
        if isinstance(value, bool):
            kinds.add("bool")
        elif isinstance(value, int | float):
            kinds.add("number")
        elif isinstance(value, str):
            kinds.add("string")
    return kinds, set(), None if kinds else "an enum of values without an order"
