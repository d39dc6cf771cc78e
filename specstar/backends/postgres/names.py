"""Names of tables: any text a user gives becomes one safe, quoted identifier of at most 63 bytes, without collisions."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace

from specstar.query import quote_identifier

__all__ = ["TableNames", "base_name"]

# PostgreSQL cuts identifiers at 63 bytes; the rest of them is room for suffixes.
_BASE_LIMIT = 50
_HASH_LENGTH = 16
_UNSAFE = re.compile(r"[^A-Za-z0-9_]")
_HASHED = re.compile(rf"_[0-9a-f]{{{_HASH_LENGTH}}}$")


def base_name(prefix: str, model: str) -> str:
    """The stem of a model's table names; unchanged if it is safe and short, else cleaned, cut and told apart by a hash."""
    text = prefix + model
    safe = _UNSAFE.sub("_", text)
    # A name that looks hashed is hashed too, so that none can pass for the hash of another.
    if model and safe == text and len(safe) <= _BASE_LIMIT and not _HASHED.search(safe):
        return safe
    digest = hashlib.sha256(f"{prefix}\0{model}".encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_LENGTH]
    return f"{safe[: _BASE_LIMIT - _HASH_LENGTH - 1]}_{digest}"


@dataclass(frozen=True, slots=True)
class TableNames:
    """The quoted names of one model's tables, with their schema if one is configured."""

    base: str
    schema: str
    meta: str
    revision: str
    payload: str
    versions: str

    @classmethod
    def of(cls, *, prefix: str, schema: str, model: str) -> TableNames:
        """The names for a model under a table prefix, in a PostgreSQL schema ("" for that of the search_path)."""
        base = base_name(prefix, model)
        where = quote_identifier(schema) + "." if schema else ""
        return cls(
            base=base,
            schema=schema,
            meta=where + quote_identifier(base + "_meta"),
            revision=where + quote_identifier(base + "_revision"),
            payload=where + quote_identifier(base + "_payload"),
            versions=where + quote_identifier(base_name(prefix, "specstar_schema")),
        )

    def placed(self, schema: str) -> TableNames:
        """The same tables in a PostgreSQL schema that is named; for names without one."""
        where = quote_identifier(schema) + "."
        return replace(
            self,
            schema=schema,
            meta=where + self.meta,
            revision=where + self.revision,
            payload=where + self.payload,
            versions=where + self.versions,
        )
