"""What a query may name: the declared fields of a model, and the meta fields that every resource has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, cast

from msgspec import Struct
from msgspec.structs import force_setattr

from specstar.errors import QueryError
from specstar.suggestions import closest

__all__ = [
    "ALL_KINDS",
    "META_FIELDS",
    "Fields",
    "Format",
    "IndexedField",
    "Kind",
    "MetaField",
    "as_kinds",
    "ordered_kinds",
    "unique",
]

Kind = Literal["bool", "number", "string", "list"]

ALL_KINDS: tuple[Kind, ...] = ("bool", "number", "string", "list")
"""The kinds of values, in their sort order; null comes before them all."""

Format = Literal["datetime", "date", "time", "timedelta", "decimal"]

MAX_PATH = 200


class IndexedField(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A field that queries can search and sort by.

    `path` is what queries say ("address.city"), in the names of the Python attributes. `kinds` are the kinds its values
    can have besides null. `keys` leads to it in the encoded payload, where that differs. `format` says what the encoded
    text stands for, so that it is normalised like the Python value. Without an `index` writes cost less, and searches by
    this field alone look at every row.
    """

    path: str
    kinds: frozenset[Kind] = frozenset(ALL_KINDS)
    keys: tuple[str | int, ...] = ()
    format: Format | None = None
    index: bool = True

    def __post_init__(self) -> None:
        if not self.path or len(self.path) > MAX_PATH or not self.path.isprintable() or not all(self.path.split(".")):
            raise QueryError(f"{self.path[:80]!r} is not the path of a field", path="indexed_fields")
        if not self.kinds or not self.kinds.issubset(ALL_KINDS):
            raise QueryError(f"the kinds of a field are some of {', '.join(ALL_KINDS)}", path=self.path)
        force_setattr(self, "kinds", frozenset(self.kinds))
        if not self.keys:
            force_setattr(self, "keys", tuple(self.path.split(".")))


class MetaField(Struct, frozen=True):
    """A field of the meta row: a typed column of its own in every store."""

    name: str
    kind: Literal["string", "number", "bool", "time"]
    nullable: bool = False


META_FIELDS: Mapping[str, MetaField] = {
    field.name: field
    for field in (
        MetaField("resource_id", "string"),
        MetaField("current_revision_id", "string"),
        MetaField("revision_count", "number"),
        MetaField("version", "number"),
        MetaField("created_time", "time"),
        MetaField("updated_time", "time"),
        MetaField("created_by", "string"),
        MetaField("updated_by", "string"),
        MetaField("is_deleted", "bool"),
        MetaField("schema_version", "string", nullable=True),
    )
}


class Fields:
    """The indexed fields of one model, by path. Build it once a model."""

    __slots__ = ("by_path",)

    def __init__(self, fields: Iterable[IndexedField] = ()) -> None:
        self.by_path: dict[str, IndexedField] = {field.path: field for field in fields}

    @classmethod
    def of(cls, fields: Fields | Iterable[IndexedField]) -> Fields:
        """The same, or built from a sequence."""
        return fields if isinstance(fields, Fields) else cls(fields)

    def resolve(self, name: str, *, meta: bool) -> IndexedField | MetaField:
        """The field that a query means by this name: an indexed one first, unless `meta`. Raises `QueryError`."""
        found: IndexedField | MetaField | None = None if meta else self.by_path.get(name)
        found = found or META_FIELDS.get(name)
        if found is None:
            known = list(META_FIELDS) if meta else [*self.by_path, *META_FIELDS]
            what = "a meta field" if meta else "an indexed field of this model, nor a meta field"
            near = closest(name, known)
            if near is None and not meta:
                what += (
                    "; a field of the model is searched once indexed_fields names it, older resources after reindex()"
                )
            raise QueryError(f"{name[:80]!r} is not {what}", path=name, suggestion=near)
        return found


def ordered_kinds(kinds: Iterable[str]) -> tuple[Kind, ...]:
    """The kinds in their sort order."""
    present = set(kinds)
    return tuple(kind for kind in ALL_KINDS if kind in present)


def unique(fields: Sequence[IndexedField]) -> tuple[IndexedField, ...]:
    """The fields without repeats; two different declarations of one path raise `QueryError`."""
    by_path: dict[str, IndexedField] = {}
    for field in fields:
        if by_path.setdefault(field.path, field) != field:
            raise QueryError("declared twice, with different kinds", path=field.path)
    return tuple(by_path.values())


def as_kinds(kinds: Iterable[str]) -> frozenset[Kind]:
    """Checked by `IndexedField` itself."""
    return cast("frozenset[Kind]", frozenset(kinds))
