"""What a caller asks for, as one query: a condition with its options, or a `Query` that has them itself."""

from __future__ import annotations

from collections.abc import Sequence

from specstar.errors import QueryError
from specstar.query import Condition, Fields, Query, SortKey, build_query, resolve_query

__all__ = ["query_of"]


def query_of(
    query: Condition | Query | None,
    fields: Fields | None,
    *,
    sort: Sequence[str | SortKey] = (),
    limit: int | None = None,
    offset: int = 0,
    after: str | None = None,
    include_deleted: bool = False,
) -> Query:
    """The query, checked against the fields of the model; without them its names are left for later. Raises `QueryError`."""
    if isinstance(query, Query):
        if sort or limit is not None or offset or after is not None or include_deleted:
            raise QueryError("a Query has its own sort, limit, offset, after and include_deleted: make them part of it")
        return query if fields is None else resolve_query(query, fields)
    return build_query(
        query, fields=fields, sort=sort, limit=limit, offset=offset, after=after, include_deleted=include_deleted
    )
