"""Keyset cursors: the position of one row in one order, as opaque url-safe text.

A cursor holds the sort it belongs to, the row's values and its id. It is not signed: whoever changes it only moves the
position, as its values are checked by kind and always travel as parameters.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from msgspec import Struct

from specstar.errors import QueryError
from specstar.query.limits import query_limits
from specstar.query.ordering import Part, SortKey, effective_sort, parts_of
from specstar.query.values import Scalar, normalise

if TYPE_CHECKING:
    from specstar.query.query import Query

__all__ = ["Row", "check_cursor", "cursor_of", "cursor_position", "make_cursor"]

VERSION = 1


class Row(Protocol):
    """What `cursor_of` reads: the meta fields as attributes, and the projection."""

    @property
    def indexed_data(self) -> dict[str, Any]: ...


class _Cursor(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    version: int
    sort: tuple[SortKey, ...]
    values: tuple[Scalar, ...]


def cursor_of(query: Query, row: Row) -> str:
    """The cursor behind this row, for the `after` of the next page. `query` is resolved (`build_query(fields=...)`)."""
    meta = {key.field: getattr(row, key.field) for key in effective_sort(query.sort) if key.meta}
    return make_cursor(query.sort, row.indexed_data, meta)


def make_cursor(sort: tuple[SortKey, ...], indexed: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
    """The cursor behind a row given as its projection and its meta fields. `sort` must be resolved."""
    keys = effective_sort(sort)
    if any(not key.meta and not key.kinds for key in keys):
        raise QueryError("a cursor needs a resolved query: build it with build_query(fields=...)", path="sort")
    values = tuple(part.value(indexed, meta) for key in keys for part in parts_of(key))
    packed = msgspec.json.encode(_Cursor(VERSION, keys, values))
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode("ascii")


def check_cursor(after: str, sort: tuple[SortKey, ...]) -> None:
    """Raise `QueryError` unless this is a cursor of this resolved sort."""
    cursor_position(after, sort)


def cursor_position(after: str, sort: tuple[SortKey, ...]) -> list[tuple[Part, Scalar]]:
    """The parts of the resolved sort with the values of the row that the cursor stands for. Raises `QueryError`."""
    keys = effective_sort(sort)
    cursor = _decoded(after)
    if cursor.version != VERSION:
        raise QueryError("the cursor comes from another version of specstar: start from the first page", path="after")
    if cursor.sort != keys:
        raise QueryError("the cursor belongs to another sort: start from the first page", path="after")
    parts = [part for key in keys for part in parts_of(key)]
    if len(parts) != len(cursor.values):
        raise QueryError("not a cursor", path="after")
    position: list[tuple[Part, Scalar]] = []
    for part, value in zip(parts, cursor.values, strict=True):
        checked = normalise(value, "after")
        if not part.accepts(checked):
            raise QueryError("not a cursor", path="after")
        position.append((part, checked))
    return position


def _decoded(after: str) -> _Cursor:
    if not isinstance(after, str):
        raise QueryError(f"a cursor is text, got {type(after).__name__}", path="after")
    most = query_limits().max_cursor_characters
    if len(after) > most:
        raise QueryError(f"a cursor has at most {most} characters, got {len(after)}", path="after")
    if not after:
        raise QueryError("not a cursor", path="after")
    try:
        packed = base64.b64decode(after.encode("ascii") + b"=" * (-len(after) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(packed, type=_Cursor)
    except (msgspec.MsgspecError, binascii.Error, UnicodeError, RecursionError, ValueError) as exc:
        raise QueryError("not a cursor", path="after") from exc
