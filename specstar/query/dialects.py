"""The two SQL engines: how each spells the canonical expressions, and how it takes parameters.

A key expression is never NULL: null, missing and values of other kinds have a sentinel below all others (text keys
carry a leading `=`, so that "" is free; numbers have minus infinity, bools -1). So one index range serves a sort and a
keyset page in both directions, and row comparisons hold for every row. The very same expression stands in the index.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal

from specstar.query.fields import MetaField
from specstar.query.ordering import KEY_LENGTH, RANKS
from specstar.query.values import Scalar, time_of

__all__ = ["INDEXED", "POSTGRES", "SQLITE", "Dialect", "ParamKind", "PostgresBatch", "quote_identifier"]

ParamKind = Literal["string", "number", "bool", "time", "int"]

INDEXED = "indexed"
_IS_DELETED = '"is_deleted"'


def quote_identifier(name: str) -> str:
    """An identifier in double quotes, valid in both engines. The caller keeps it within 63 bytes."""
    if not name or "\x00" in name:
        raise ValueError("an identifier is text without NUL")
    return '"' + name.replace('"', '""') + '"'


class Dialect(ABC):
    """Spells expressions. `column` arguments are quoted column references, `path` is the key in the projection."""

    name: str
    scopes_branches: bool
    """Whether a partial index serves a branch of an OR only if the branch itself says that the row is not deleted."""
    bounds_rows: bool
    """Whether a row comparison that begins with an expression needs a plain bound beside it to use an index."""

    def placeholder(self, number: int, kind: ParamKind) -> str:
        return "?"

    @abstractmethod
    def bind(self, value: Scalar, kind: ParamKind) -> Any: ...

    @abstractmethod
    def key(self, column: str, path: str, kind: str) -> str:
        """The canonical typed key of a field."""

    @abstractmethod
    def null_key(self, kind: str) -> str:
        """The sentinel of `key`, as SQL."""

    @abstractmethod
    def rank(self, column: str, path: str, kinds: Sequence[str]) -> str:
        """The rank of the value's kind, 0 for null, missing and kinds that are not listed."""

    @abstractmethod
    def text(self, column: str, path: str) -> str:
        """The whole text of a field; NULL if it is none."""

    @abstractmethod
    def item(self, column: str, path: str) -> str:
        """The JSON value of a field, as a list index takes it."""

    @abstractmethod
    def is_null(self, column: str, path: str) -> str: ...

    @abstractmethod
    def exists(self, column: str, path: str) -> str: ...

    @abstractmethod
    def meta(self, column: str, field: MetaField) -> str:
        """A meta column as an expression that compares like its key."""

    @abstractmethod
    def not_deleted(self, column: str) -> str:
        """The condition that the indexes are made for."""

    @abstractmethod
    def ordered_index(self, key: str) -> str:
        """What follows the table's name in a CREATE INDEX: rows that are not deleted by key, then by id."""

    @abstractmethod
    def list_index(self, item: str) -> str | None:
        """The same for the elements of lists, if the engine has such an index."""

    @abstractmethod
    def has_part(self, text: str, placeholder: str) -> str: ...

    @abstractmethod
    def has_prefix(self, text: str, placeholder: str, length: int) -> str: ...

    @abstractmethod
    def has_suffix(self, text: str, placeholder: str, length: int) -> str: ...

    @abstractmethod
    def has_match(self, text: str, placeholder: str) -> str: ...

    @abstractmethod
    def has_item(self, column: str, path: str, value: Scalar, number: int) -> tuple[str, list[Any]]:
        """Whether the list at `path` has this element, with the parameters, the first being number `number`."""

    @abstractmethod
    def one_of(self, expression: str, values: Sequence[Scalar], kind: ParamKind, number: int) -> tuple[str, list[Any]]:
        """Whether the expression is one of the values (at least one)."""

    @abstractmethod
    def page(self, limit: int | None, offset: int) -> str: ...

    def text_key(self, text: str) -> str:
        """A text operand as its key, for text shorter than `KEY_LENGTH`, or cut to it."""
        return "=" + text[:KEY_LENGTH]


class _SQLite(Dialect):
    """JSON text with json_extract; times are INTEGER microseconds, bools INTEGER."""

    name = "sqlite"
    scopes_branches = True
    bounds_rows = True

    def bind(self, value: Scalar, kind: ParamKind) -> Any:
        return int(value) if isinstance(value, bool) else value

    def key(self, column: str, path: str, kind: str) -> str:
        json_type, extract = self._type(column, path), self._extract(column, path)
        if kind == "string":
            return f"CASE WHEN {json_type} = 'text' THEN '=' || substr({extract}, 1, {KEY_LENGTH}) ELSE '' END"
        if kind == "number":
            return f"CASE WHEN {json_type} IN ('integer', 'real') THEN {extract} ELSE -9e999 END"
        return f"CASE {json_type} WHEN 'true' THEN 1 WHEN 'false' THEN 0 ELSE -1 END"

    def null_key(self, kind: str) -> str:
        return {"string": "''", "number": "-9e999", "bool": "-1"}[kind]

    def rank(self, column: str, path: str, kinds: Sequence[str]) -> str:
        names = {
            "bool": ("true", "false"),
            "number": ("integer", "real"),
            "string": ("text",),
            "list": ("array", "object"),
        }
        cases = " ".join(f"WHEN '{name}' THEN {RANKS[kind]}" for kind in kinds for name in names[kind])
        return f"CASE {self._type(column, path)} {cases} ELSE 0 END"

    def text(self, column: str, path: str) -> str:
        return f"CASE WHEN {self._type(column, path)} = 'text' THEN {self._extract(column, path)} END"

    def item(self, column: str, path: str) -> str:
        return self._extract(column, path)

    def is_null(self, column: str, path: str) -> str:
        return f"COALESCE({self._type(column, path)}, 'null') = 'null'"

    def exists(self, column: str, path: str) -> str:
        return f"{self._type(column, path)} IS NOT NULL"

    def meta(self, column: str, field: MetaField) -> str:
        return f"CASE WHEN {column} IS NULL THEN '' ELSE '=' || {column} END" if field.nullable else column

    def not_deleted(self, column: str) -> str:
        return f"{column} = 0"

    def ordered_index(self, key: str) -> str:
        return f'({key}, "resource_id") WHERE {self.not_deleted(_IS_DELETED)}'

    def list_index(self, item: str) -> str | None:
        return None

    def has_part(self, text: str, placeholder: str) -> str:
        return f"instr({text}, {placeholder}) > 0"

    def has_prefix(self, text: str, placeholder: str, length: int) -> str:
        return f"substr({text}, 1, {length}) = {placeholder}"

    def has_suffix(self, text: str, placeholder: str, length: int) -> str:
        return f"substr({text}, -{length}) = {placeholder}"

    def has_match(self, text: str, placeholder: str) -> str:
        return f"specstar_regex({placeholder}, {text})"

    def has_item(self, column: str, path: str, value: Scalar, number: int) -> tuple[str, list[Any]]:
        items = f"json_each({column}, {_json_path(path)}) AS item"
        each = f"{self._type(column, path)} = 'array' AND EXISTS (SELECT 1 FROM {items}"
        if value is None:
            return f"({each} WHERE item.type = 'null'))", []
        if isinstance(value, bool):
            return f"({each} WHERE item.type = '{str(value).lower()}'))", []
        kinds = "('text')" if isinstance(value, str) else "('integer', 'real')"
        return f"({each} WHERE item.type IN {kinds} AND item.value = ?))", [value]

    def one_of(self, expression: str, values: Sequence[Scalar], kind: ParamKind, number: int) -> tuple[str, list[Any]]:
        return f"{expression} IN ({', '.join('?' * len(values))})", [self.bind(value, kind) for value in values]

    def page(self, limit: int | None, offset: int) -> str:
        if limit is None and not offset:
            return ""
        return f"LIMIT {-1 if limit is None else int(limit)}" + (f" OFFSET {int(offset)}" if offset else "")

    @staticmethod
    def _type(column: str, path: str) -> str:
        return f"json_type({column}, {_json_path(path)})"

    @staticmethod
    def _extract(column: str, path: str) -> str:
        return f"json_extract({column}, {_json_path(path)})"


class _Postgres(Dialect):
    """JSONB; numbers are compared as numeric, text in the "C" collation, which in UTF-8 is the order of code points."""

    name = "postgres"
    scopes_branches = False
    bounds_rows = False

    _TYPES: dict[ParamKind, str] = {  # noqa: RUF012
        "string": "text",
        "number": "numeric",
        "bool": "integer",
        "int": "integer",
        "time": "timestamptz",
    }

    def placeholder(self, number: int, kind: ParamKind) -> str:
        return f"${number}::{self._TYPES[kind]}"

    def bind(self, value: Scalar, kind: ParamKind) -> Any:
        if kind == "number":
            # The shortest text of a double is also what jsonb keeps of it, so equal doubles are equal numerics.
            return Decimal(repr(value))
        if kind == "time":
            return time_of(value)  # type: ignore[arg-type]
        return int(value) if isinstance(value, bool) else value

    def key(self, column: str, path: str, kind: str) -> str:
        item = self.item(column, path)
        if kind == "string":
            text = f"'=' || left({column} ->> {_pg_literal(path)}, {KEY_LENGTH})"
            return f"(CASE jsonb_typeof({item}) WHEN 'string' THEN {text} ELSE '' END) COLLATE \"C\""
        if kind == "number":
            return f"(CASE jsonb_typeof({item}) WHEN 'number' THEN {item}::numeric ELSE '-Infinity'::numeric END)"
        return f"(CASE {item} WHEN 'true'::jsonb THEN 1 WHEN 'false'::jsonb THEN 0 ELSE -1 END)"

    def null_key(self, kind: str) -> str:
        return {"string": "''", "number": "'-Infinity'::numeric", "bool": "-1"}[kind]

    def rank(self, column: str, path: str, kinds: Sequence[str]) -> str:
        names = {"bool": ("boolean",), "number": ("number",), "string": ("string",), "list": ("array", "object")}
        cases = " ".join(f"WHEN '{name}' THEN {RANKS[kind]}" for kind in kinds for name in names[kind])
        return f"(CASE jsonb_typeof({self.item(column, path)}) {cases} ELSE 0 END)"

    def text(self, column: str, path: str) -> str:
        text = f"{column} ->> {_pg_literal(path)}"
        return f"(CASE jsonb_typeof({self.item(column, path)}) WHEN 'string' THEN {text} END) COLLATE \"C\""

    def is_null(self, column: str, path: str) -> str:
        return f"COALESCE(jsonb_typeof({self.item(column, path)}), 'null') = 'null'"

    def exists(self, column: str, path: str) -> str:
        return f"{self.item(column, path)} IS NOT NULL"

    def meta(self, column: str, field: MetaField) -> str:
        if field.kind == "bool":
            return f"({column}::integer)"
        if field.kind == "number":
            # As operands are: PostgreSQL compares bigint with numeric by way of numeric, which no index of bigint serves.
            return f"({column}::numeric)"
        if field.kind != "string":
            return column
        if field.nullable:
            return f"(CASE WHEN {column} IS NULL THEN '' ELSE '=' || {column} END) COLLATE \"C\""
        return f'{column} COLLATE "C"'

    def not_deleted(self, column: str) -> str:
        return f"NOT {column}"

    def ordered_index(self, key: str) -> str:
        # Not a partial index: the planner takes no statistics of an expression from those, and would guess.
        return f'({_IS_DELETED}, {key}, "resource_id" COLLATE "C")'

    def list_index(self, item: str) -> str | None:
        return f"USING gin ({item} jsonb_path_ops)"

    def has_part(self, text: str, placeholder: str) -> str:
        return f"strpos({text}, {placeholder}) > 0"

    def has_prefix(self, text: str, placeholder: str, length: int) -> str:
        return f"left({text}, {length}) = {placeholder}"

    def has_suffix(self, text: str, placeholder: str, length: int) -> str:
        return f"right({text}, {length}) = {placeholder}"

    def has_match(self, text: str, placeholder: str) -> str:
        return f"{text} ~ {placeholder}"

    def has_item(self, column: str, path: str, value: Scalar, number: int) -> tuple[str, list[Any]]:
        # By way of text, as connections may carry a jsonb codec of their own. A scalar never contains an array.
        return f"{self.item(column, path)} @> ${number}::text::jsonb", [json.dumps([value], ensure_ascii=False)]

    def one_of(self, expression: str, values: Sequence[Scalar], kind: ParamKind, number: int) -> tuple[str, list[Any]]:
        placeholder = f"${number}::{self._TYPES[kind]}[]"
        return f"{expression} = ANY({placeholder})", [[self.bind(value, kind) for value in values]]

    def page(self, limit: int | None, offset: int) -> str:
        # Checked integers stand in the text: with a parameter the planner would not know that a page is short.
        parts = ([] if limit is None else [f"LIMIT {int(limit)}"]) + ([f"OFFSET {int(offset)}"] if offset else [])
        return " ".join(parts)

    def item(self, column: str, path: str) -> str:
        return f"({column} -> {_pg_literal(path)})"


class PostgresBatch(_Postgres):
    """PostgreSQL, for many queries of one shape in one statement: operands are columns `k.p1`, `k.p2` of a table `k` that
    holds a row for each query. `types` are the types of these columns, in the order of the parameters.
    """

    def __init__(self) -> None:
        self.types: list[str] = []

    def placeholder(self, number: int, kind: ParamKind) -> str:
        self.types.append(self._TYPES[kind])
        return f"k.p{number}"


SQLITE: Dialect = _SQLite()
POSTGRES: Dialect = _Postgres()


def _json_path(path: str) -> str:
    """A projection key as a SQLite JSON path literal; the label follows the rules of JSON strings."""
    return "'$." + json.dumps(path, ensure_ascii=False).replace("'", "''") + "'"


def _pg_literal(text: str) -> str:
    quoted = text.replace("'", "''")
    return "E'" + quoted.replace("\\", "\\\\") + "'" if "\\" in quoted else f"'{quoted}'"
