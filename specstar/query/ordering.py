"""Sort keys, and the parts that each consists of: what is compared, row by row, on every backend.

A field of one kind is one part: values of that kind in order, everything else counted as null, before them all. A field
of several kinds is first ordered by kind (null, bool, number, string, list) and then within it. Text is ordered by code
point, by its first `KEY_LENGTH` characters. `resource_id` breaks all ties, in the direction of the last key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, cast

from msgspec import Struct

from specstar.errors import QueryError
from specstar.query.fields import META_FIELDS, Fields, Kind, MetaField, ordered_kinds
from specstar.query.limits import query_limits
from specstar.query.values import INT_MAX, INT_MIN, Scalar, micros_of

__all__ = [
    "KEY_LENGTH",
    "RANKS",
    "Part",
    "SortKey",
    "check_sort",
    "effective_sort",
    "kind_of",
    "parse_sort",
    "parts_of",
    "resolve_sort",
]

KEY_LENGTH = 256
"""Characters of a text that its order takes into account: it keeps index rows within PostgreSQL's 2,704 bytes."""

RANKS: Mapping[str, int] = {"null": 0, "bool": 1, "number": 2, "string": 3, "list": 4}

_FIRST = micros_of(datetime.min.replace(tzinfo=UTC))
_LAST = micros_of(datetime.max.replace(tzinfo=UTC))


class SortKey(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One key of a sort. Ascending: null and missing first; descending: last. `kinds` is set when it is resolved."""

    field: str
    descending: bool = False
    meta: bool = False
    kinds: tuple[Kind, ...] = ()


class Part(Struct, frozen=True):
    """One comparable column of a sort key: of the indexed data (`meta` false), or of the meta row."""

    kind: Literal["rank", "bool", "number", "string", "time"]
    field: str
    meta: bool
    descending: bool
    nullable: bool
    kinds: tuple[Kind, ...] = ()

    def value(self, indexed: Mapping[str, Any], meta: Mapping[str, Any]) -> Scalar:
        """The value of a row, None for null."""
        found: Any
        if self.meta:
            found = meta[self.field]
            return micros_of(found) if isinstance(found, datetime) else cast("Scalar", found)
        found = indexed.get(self.field)
        kind = kind_of(found)
        if self.kind == "rank":
            return RANKS[kind] if kind in self.kinds else 0
        if kind != self.kind:
            return None
        if kind == "string":
            return cast("Scalar", found[:KEY_LENGTH])
        # PostgreSQL writes large floats out in digits: they are read back as integers.
        return float(found) if kind == "number" and not INT_MIN <= found <= INT_MAX else cast("Scalar", found)

    def accepts(self, value: object) -> bool:
        """Whether this is a value that `value` could have returned."""
        if value is None:
            return self.nullable
        if isinstance(value, bool):
            return self.kind == "bool"
        if isinstance(value, str):
            return self.kind == "string"
        if isinstance(value, int):
            return self.kind in ("number", "rank") or (self.kind == "time" and _FIRST <= value <= _LAST)
        return isinstance(value, float) and self.kind == "number"


def kind_of(value: object) -> str:
    """The kind of a projected value. A list and anything else that is no scalar is a "list"."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else "list"


def parse_sort(sort: object) -> tuple[SortKey, ...]:
    """Sort keys from "age", "-age" or `SortKey`s, one or a sequence. Raises `QueryError`."""
    if isinstance(sort, str | SortKey):
        sort = (sort,)
    keys: list[SortKey] = []
    if not isinstance(sort, Iterable):
        raise QueryError("sort takes a list of keys such as 'age' or '-age'", path="sort")
    for key in sort:
        if isinstance(key, str) and key.strip("-"):
            keys.append(SortKey(field=key.removeprefix("-"), descending=key.startswith("-")))
        elif isinstance(key, SortKey):
            keys.append(key)
        else:
            raise QueryError(f"a sort key is text such as 'age' or '-age', got {key!r:.80}", path="sort")
    check_sort(keys)
    return tuple(keys)


def check_sort(keys: Sequence[SortKey]) -> None:
    """Raise `QueryError` for too many keys."""
    most = query_limits().max_sort_keys
    if len(keys) > most:
        raise QueryError(f"a sort has at most {most} keys, got {len(keys)}", path="sort")


def resolve_sort(keys: tuple[SortKey, ...], fields: Fields) -> tuple[SortKey, ...]:
    """The keys with their meta flags and kinds settled. Raises `QueryError` for an unknown or unsortable field."""
    resolved: list[SortKey] = []
    seen: set[tuple[str, bool]] = set()
    for key in keys:
        found = fields.resolve(key.field, meta=key.meta)
        if isinstance(found, MetaField):
            settled = SortKey(field=found.name, descending=key.descending, meta=True)
        elif found.kinds == {"list"}:
            raise QueryError("lists have no order to sort by", path=found.path)
        else:
            settled = SortKey(field=found.path, descending=key.descending, kinds=ordered_kinds(found.kinds))
        if (settled.field, settled.meta) not in seen:
            seen.add((settled.field, settled.meta))
            resolved.append(settled)
    return tuple(resolved)


def effective_sort(keys: tuple[SortKey, ...]) -> tuple[SortKey, ...]:
    """The resolved keys with the one that breaks ties, without keys that can no longer matter."""
    kept: list[SortKey] = []
    for key in keys:
        kept.append(key)
        if key.meta and key.field == "resource_id":
            return tuple(kept)
    return (*kept, SortKey(field="resource_id", meta=True, descending=bool(kept) and kept[-1].descending))


def parts_of(key: SortKey) -> tuple[Part, ...]:
    """The comparable columns of a resolved key."""
    if key.meta:
        meta = META_FIELDS[key.field]
        return (Part(meta.kind, key.field, True, key.descending, meta.nullable),)
    if len(key.kinds) == 1:
        kind = key.kinds[0]
        assert kind != "list"
        return (Part(kind, key.field, False, key.descending, True),)
    rank = Part("rank", key.field, False, key.descending, False, key.kinds)
    inner = [Part(kind, key.field, False, key.descending, True) for kind in key.kinds if kind != "list"]
    return (rank, *inner)
