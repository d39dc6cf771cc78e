"""The indexes that the compiled queries use."""

from __future__ import annotations

import re
from typing import NamedTuple

from specstar.query.dialects import INDEXED, Dialect, quote_identifier
from specstar.query.fields import IndexedField, MetaField, ordered_kinds

__all__ = ["IndexDefinition", "index_definitions"]

NAME_BYTES = 63


class IndexDefinition(NamedTuple):
    """One index. Its name changes with its expression; a store may drop those of its table that are listed no more."""

    name: str
    sql: str


def index_definitions(
    table: str, field: IndexedField | MetaField, dialect: Dialect, *, schema: str | None = None
) -> list[IndexDefinition]:
    """The `CREATE INDEX IF NOT EXISTS` statements of one field, one a kind; none for `resource_id`, `is_deleted`, and a
    field without index.

    They serve equality, range, prefix, sort and keyset pages over rows that are not deleted. Lists have a GIN index on
    PostgreSQL; SQLite scans.
    """
    target = f"{quote_identifier(schema)}.{quote_identifier(table)}" if schema else quote_identifier(table)
    column = quote_identifier(INDEXED)
    definitions: list[IndexDefinition] = []

    def add(path: str, kind: str, body: str) -> None:
        name = index_name(table, path, kind, body)
        sql = f"CREATE INDEX IF NOT EXISTS {quote_identifier(name)} ON {target} {body}"
        definitions.append(IndexDefinition(name, sql))

    if isinstance(field, MetaField):
        if field.name not in ("resource_id", "is_deleted"):
            add(field.name, "meta", dialect.ordered_index(dialect.meta(quote_identifier(field.name), field)))
        return definitions
    for kind in ordered_kinds(field.kinds) if field.index else ():
        if kind != "list":
            add(field.path, kind, dialect.ordered_index(dialect.key(column, field.path, kind)))
        elif (body := dialect.list_index(dialect.item(column, field.path))) is not None:
            add(field.path, kind, body)
    return definitions


def index_name(table: str, path: str, kind: str, body: str) -> str:
    """A readable, safe name within 63 bytes, unique by a hash of what is indexed and how."""
    import hashlib

    digest = hashlib.sha256("\x00".join((table, path, kind, body)).encode()).hexdigest()[:16]
    readable = re.sub(r"[^a-z0-9]+", "_", f"{table}_{path}_{kind}".lower(), flags=re.ASCII).strip("_")
    return f"ix_{readable[: NAME_BYTES - len(digest) - 4]}_{digest}"
