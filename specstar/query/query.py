"""`Query`: a condition with order, page and scope."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from specstar.errors import QueryError
from specstar.query.builder import FieldRef
from specstar.query.conditions import And, AnyCondition, Condition, Leaf, Not, Or, check_limits
from specstar.query.cursor import check_cursor
from specstar.query.fields import Fields, IndexedField, MetaField
from specstar.query.ordering import SortKey, check_sort, parse_sort, resolve_sort
from specstar.query.values import INT_MAX

__all__ = ["Query", "build_query", "decode_query", "resolve_condition", "resolve_query"]


class Query(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a store searches for. Make it with `build_query`, which also resolves the names against the model's fields.

    `limit` None is no limit. `after` is a cursor from `cursor_of`: results begin behind the row it stands for. Deleted
    resources are left out unless `include_deleted`.
    """

    condition: AnyCondition | None = None
    sort: tuple[SortKey, ...] = ()
    limit: int | None = None
    offset: int = 0
    after: str | None = None
    include_deleted: bool = False

    def __post_init__(self) -> None:
        for name, value in (("limit", self.limit), ("offset", self.offset)):
            if name == "limit" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= INT_MAX:
                raise QueryError(f"{name} is a number from 0, got {value!r:.80}", path=name)


def build_query(
    condition: Condition | None = None,
    *,
    fields: Fields | Iterable[IndexedField] | None = None,
    sort: Iterable[str | SortKey] | str | SortKey = (),
    limit: int | None = None,
    offset: int = 0,
    after: str | None = None,
    include_deleted: bool = False,
) -> Query:
    """A checked query, and a resolved one where the model's `fields` are given. Raises `QueryError`."""
    if condition is not None and not isinstance(condition, Condition):
        if isinstance(condition, FieldRef):
            raise QueryError(f"{condition!r} alone is no condition: compare it, e.g. {condition!r}.is_(True)")
        raise QueryError(f"a query is made with QB, e.g. QB['age'] >= 18, got {type(condition).__name__}")
    query = Query(
        condition=condition,  # type: ignore[arg-type]  # the union lists every concrete condition
        sort=parse_sort(sort),
        limit=limit,
        offset=offset,
        after=after,
        include_deleted=include_deleted,
    )
    if fields is not None:
        return resolve_query(query, fields)
    if condition is not None:
        check_limits(condition)
    return query


def decode_query(data: bytes | str | dict[str, Any]) -> Query:
    """A query from its JSON text or plain mapping; `sort` may hold texts such as "-age". Raises `QueryError`."""
    try:
        raw: Any = data if isinstance(data, dict) else msgspec.json.decode(data)
        if isinstance(raw, dict) and "sort" in raw:
            keys = raw["sort"] if isinstance(raw["sort"], list | tuple) else [raw["sort"]]
            texts = [key if isinstance(key, str) else msgspec.convert(key, SortKey) for key in keys]
            raw = {**raw, "sort": parse_sort(texts)}
        query = msgspec.convert(raw, Query)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as exc:
        raise QueryError(f"not a query: {exc}") from exc
    if query.condition is not None:
        check_limits(query.condition)
    return query


def resolve_query(query: Query, fields: Fields | Iterable[IndexedField]) -> Query:
    """The query with every name settled, its limits and its cursor checked. Does nothing twice. Raises `QueryError`."""
    known = Fields.of(fields)
    condition = None if query.condition is None else resolve_condition(query.condition, known)
    check_sort(query.sort)
    sort = resolve_sort(query.sort, known)
    if query.after is not None:
        check_cursor(query.after, sort)
    if condition is query.condition and sort == query.sort:
        return query
    return replace(query, condition=condition, sort=sort)


def resolve_condition(condition: Condition, fields: Fields | Iterable[IndexedField]) -> Condition:
    """The condition with the meta flag of each field settled. Raises `QueryError`: unknown name, too large."""
    check_limits(condition)
    return _resolved(condition, Fields.of(fields))


def _resolved(node: Condition, fields: Fields) -> Condition:
    if isinstance(node, Leaf):
        found = fields.resolve(node.field, meta=node.meta)
        return replace(node, meta=True) if isinstance(found, MetaField) and not node.meta else node
    if isinstance(node, And | Or):
        children = tuple(_resolved(child, fields) for child in node.conditions)
        unchanged = all(new is old for new, old in zip(children, node.conditions, strict=True))
        return node if unchanged else type(node)(conditions=children)  # type: ignore[arg-type]
    if isinstance(node, Not):
        child = _resolved(node.condition, fields)
        return node if child is node.condition else Not(condition=child)  # type: ignore[arg-type]
    raise QueryError(f"{type(node).__name__} is no condition that stores know")
