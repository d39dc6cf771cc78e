"""The compiler from `Query` to SQL, for both dialects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from specstar.errors import QueryError
from specstar.query import regex
from specstar.query.conditions import (
    And,
    Compare,
    Condition,
    Contains,
    EndsWith,
    Exists,
    In,
    IsNull,
    Leaf,
    Not,
    Or,
    Regex,
    StartsWith,
)
from specstar.query.cursor import cursor_position
from specstar.query.dialects import INDEXED, Dialect, ParamKind, quote_identifier
from specstar.query.fields import META_FIELDS, Fields, IndexedField, MetaField
from specstar.query.ordering import KEY_LENGTH, Part, effective_sort, kind_of, parts_of
from specstar.query.query import Query, resolve_condition, resolve_query
from specstar.query.values import Scalar, micros_of, parse_time

__all__ = ["Compiled", "compile_count", "compile_query", "meta_operand", "successor"]

_OPERATORS = {"eq": "=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


class Compiled(NamedTuple):
    """The pieces of a SELECT, none of them with its keyword but `page`; `page` may be empty.

    `SELECT ... FROM t WHERE {where} ORDER BY {order_by} {page}` with `params`, in the order of the text.
    """

    where: str
    order_by: str
    page: str
    params: list[Any]


def compile_query(
    query: Query,
    fields: Fields | Iterable[IndexedField],
    dialect: Dialect,
    *,
    alias: str | None = None,
    first_param: int = 1,
) -> Compiled:
    """The query in SQL. `alias` qualifies columns; `first_param` numbers the first `$n`. Raises `QueryError`."""
    known = Fields.of(fields)
    query = resolve_query(query, known)
    writer = _Writer(known, dialect, alias, first_param)
    where = writer.scope(query.condition, query.include_deleted)
    if query.after is not None:
        where = f"{where} AND {writer.behind(cursor_position(query.after, query.sort))}"
    order = ", ".join(
        writer.part(part) + (" DESC" if part.descending else "")
        for key in effective_sort(query.sort)
        for part in parts_of(key)
    )
    return Compiled(where, order, dialect.page(query.limit, query.offset), writer.params)


def compile_count(
    condition: Condition | None,
    fields: Fields | Iterable[IndexedField],
    dialect: Dialect,
    *,
    include_deleted: bool = False,
    alias: str | None = None,
    first_param: int = 1,
) -> tuple[str, list[Any]]:
    """The WHERE of a condition, with its parameters. Raises `QueryError`."""
    known = Fields.of(fields)
    writer = _Writer(known, dialect, alias, first_param)
    resolved = None if condition is None else resolve_condition(condition, known)
    return writer.scope(resolved, include_deleted), writer.params


class _Writer:
    """Writes SQL left to right, so that parameters come in the order of the text."""

    def __init__(self, fields: Fields, dialect: Dialect, alias: str | None, first_param: int) -> None:
        self.fields = fields
        self.dialect = dialect
        self.prefix = f"{quote_identifier(alias)}." if alias else ""
        self.first_param = first_param
        self.params: list[Any] = []
        self.indexed = self.column(INDEXED)

    def column(self, name: str) -> str:
        return self.prefix + quote_identifier(name)

    @property
    def number(self) -> int:
        return self.first_param + len(self.params)

    def param(self, value: Scalar, kind: ParamKind) -> str:
        placeholder = self.dialect.placeholder(self.number, kind)
        self.params.append(self.dialect.bind(value, kind))
        return placeholder

    def scope(self, condition: Condition | None, include_deleted: bool) -> str:
        scope = None if include_deleted else self.dialect.not_deleted(self.column("is_deleted"))
        parts = [scope] if scope else []
        if condition is not None:
            parts.append(self.condition(condition, scope if self.dialect.scopes_branches else None))
        return " AND ".join(parts) or "TRUE"

    def condition(self, node: Condition, scope: str | None = None) -> str:
        """Two-valued at every Not: there, NULL counts as false. AND and OR may carry NULL up to it.

        `scope`, which holds for the whole, is repeated in each branch of an OR.
        """
        if isinstance(node, And):
            return _joined("AND", [self.condition(child, scope) for child in node.conditions]) or "TRUE"
        if isinstance(node, Or):
            lead = f"{scope} AND " if scope else ""
            return _joined("OR", [lead + self.condition(child, scope) for child in node.conditions]) or "FALSE"
        if isinstance(node, Not):
            return f"({self.condition(node.condition)}) IS NOT TRUE"
        if not isinstance(node, Leaf):
            raise QueryError(f"{type(node).__name__} is no condition that stores know")
        field = self.fields.resolve(node.field, meta=node.meta)
        return self.meta_leaf(node, field) if isinstance(field, MetaField) else self.leaf(node, field)

    # Conditions on the projection.

    def leaf(self, node: Leaf, field: IndexedField) -> str:
        path = field.path
        if isinstance(node, Compare):
            return self.compare(path, field, node.op, node.value)
        if isinstance(node, In):
            return self.one_of(path, field, node.values)
        if isinstance(node, IsNull):
            return self.null(path, field)
        if isinstance(node, Exists):
            return self.dialect.exists(self.indexed, path)
        if isinstance(node, Contains):
            return self.contains(path, field, node.value)
        text = self.dialect.text(self.indexed, path)
        if isinstance(node, StartsWith):
            key = self.dialect.key(self.indexed, path, "string")
            within = self.prefix_range(key, "=" + node.value[:KEY_LENGTH])
            return within if len(node.value) <= KEY_LENGTH else f"({within} AND {self.text_leaf(node, text)})"
        return self.text_leaf(node, text)

    def null(self, path: str, field: IndexedField) -> str:
        exact = self.dialect.is_null(self.indexed, path)
        if len(field.kinds) != 1 or "list" in field.kinds:
            return exact
        (kind,) = field.kinds
        # The key alone decides among declared kinds, and can use the index.
        return f"({self.dialect.key(self.indexed, path, kind)} = {self.dialect.null_key(kind)} AND {exact})"

    def compare(self, path: str, field: IndexedField, op: str, value: Scalar) -> str:
        if value is None:
            return self.null(path, field)
        kind = kind_of(value)
        key = self.dialect.key(self.indexed, path, kind)
        if isinstance(value, str):
            return self.compare_text(key, path, op, value)
        above_null = f"{key} > {self.dialect.null_key(kind)} AND " if op in ("lt", "le") else ""
        written = f"{above_null}{key} {_OPERATORS[op]} {self.param(value, _param_kind(kind))}"
        return f"({written})" if above_null else written

    def compare_text(self, key: str, path: str, op: str, value: str) -> str:
        above_null = f"{key} >= '=' AND " if op in ("lt", "le") else ""
        if len(value) < KEY_LENGTH:
            written = f"{above_null}{key} {_OPERATORS[op]} {self.param('=' + value, 'string')}"
            return f"({written})" if above_null else written
        # The key holds only the beginning of a long text: narrow by it, then compare the whole.
        near = {"eq": "=", "lt": "<=", "le": "<=", "gt": ">=", "ge": ">="}[op]
        narrowed = f"{above_null}{key} {near} {self.param(self.dialect.text_key(value), 'string')}"
        text = self.dialect.text(self.indexed, path)
        return f"({narrowed} AND {text} {_OPERATORS[op]} {self.param(value, 'string')})"

    def one_of(self, path: str, field: IndexedField, values: Sequence[Scalar]) -> str:
        parts: list[str] = []
        if any(value is None for value in values):
            parts.append(self.null(path, field))
        for kind in ("bool", "number", "string"):
            same = [value for value in values if kind_of(value) == kind and not _is_long(value)]
            if same:
                operands = ["=" + str(value) for value in same] if kind == "string" else same
                key = self.dialect.key(self.indexed, path, kind)
                parts.append(self.extended(self.dialect.one_of(key, operands, _param_kind(kind), self.number)))
        parts += [self.compare(path, field, "eq", value) for value in values if _is_long(value)]
        return _joined("OR", parts) or "FALSE"

    def contains(self, path: str, field: IndexedField, value: Scalar) -> str:
        parts: list[str] = []
        if "list" in field.kinds:
            parts.append(self.extended(self.dialect.has_item(self.indexed, path, value, self.number)))
        if "string" in field.kinds and isinstance(value, str):
            parts.append(self.dialect.has_part(self.dialect.text(self.indexed, path), self.param(value, "string")))
        return _joined("OR", parts) or "FALSE"

    def text_leaf(self, node: Leaf, text: str) -> str:
        """A condition on a whole text expression, which may be NULL."""
        if isinstance(node, Regex):
            pattern = regex.translate(node.pattern, ignore_case=node.ignore_case, path=node.field)
            return self.dialect.has_match(text, self.param(pattern, "string"))
        if not isinstance(node, StartsWith | EndsWith):
            raise QueryError(f"{type(node).__name__} is no condition that stores know", path=node.field)
        if not node.value:
            return f"{text} IS NOT NULL"
        spell = self.dialect.has_prefix if isinstance(node, StartsWith) else self.dialect.has_suffix
        return spell(text, self.param(node.value, "string"), len(node.value))

    def prefix_range(self, key: str, prefix: str) -> str:
        written = f"{key} >= {self.param(prefix, 'string')}"
        above = successor(prefix)
        return written if above is None else f"({written} AND {key} < {self.param(above, 'string')})"

    def extended(self, written: tuple[str, list[Any]]) -> str:
        self.params += written[1]
        return written[0]

    # Conditions on the meta columns.

    def meta_leaf(self, node: Leaf, field: MetaField) -> str:
        column = self.column(field.name)
        if isinstance(node, Exists):
            return "TRUE"
        if isinstance(node, IsNull) or (isinstance(node, Compare) and node.value is None):
            return f"{column} IS NULL" if field.nullable else "FALSE"
        if isinstance(node, Compare):
            return self.meta_compare(column, field, node.op, node.value)
        if isinstance(node, In):
            return self.meta_one_of(column, field, node.values)
        if field.kind == "time":
            raise QueryError(f"{field.name} is a time: compare it, or use between or in_", path=field.name)
        if isinstance(node, Contains):
            if field.kind != "string" or not isinstance(node.value, str):
                return "FALSE"
            return self.dialect.has_part(column, self.param(node.value, "string"))
        if field.kind != "string":
            return "FALSE"
        if isinstance(node, StartsWith) and not field.nullable:
            return self.prefix_range(self.dialect.meta(column, field), node.value) if node.value else "TRUE"
        return self.text_leaf(node, column)

    def meta_compare(self, column: str, field: MetaField, op: str, value: Scalar) -> str:
        operand = meta_operand(field, value)
        if operand is None:
            return "FALSE"
        key = self.dialect.meta(column, field)
        if not field.nullable:
            return f"{key} {_OPERATORS[op]} {self.param(operand, field.kind)}"
        above_null = f"{key} >= '=' AND " if op in ("lt", "le") else ""
        return f"({above_null}{key} {_OPERATORS[op]} {self.param(f'={operand}', field.kind)})"

    def meta_one_of(self, column: str, field: MetaField, values: Sequence[Scalar]) -> str:
        parts = [f"{column} IS NULL"] if field.nullable and None in values else []
        operands = [operand for value in values if (operand := meta_operand(field, value)) is not None]
        if operands:
            key = column if field.nullable else self.dialect.meta(column, field)
            parts.append(self.extended(self.dialect.one_of(key, operands, field.kind, self.number)))
        return _joined("OR", parts) or "FALSE"

    # Order and position.

    def part(self, part: Part) -> str:
        if part.meta:
            return self.dialect.meta(self.column(part.field), META_FIELDS[part.field])
        if part.kind == "rank":
            return self.dialect.rank(self.indexed, part.field, part.kinds)
        return self.dialect.key(self.indexed, part.field, part.kind)

    def operand(self, part: Part, value: Scalar) -> str:
        if value is None:
            return "''" if part.meta else self.dialect.null_key(part.kind)
        if part.kind == "rank":
            return self.param(value, "int")
        prefixed = part.kind == "string" and (part.nullable or not part.meta)
        return self.param(f"={value}" if prefixed else value, part.kind)

    def behind(self, position: Sequence[tuple[Part, Scalar]]) -> str:
        """Rows that come after a position. Keys are never NULL, so plain comparisons hold."""
        directions = {part.descending for part, _ in position}
        if len(directions) == 1:
            sign = "<" if directions.pop() else ">"
            first = position[0][0]
            plain = first.meta and not first.nullable
            bound = self.bound(*position[0]) if self.dialect.bounds_rows and not plain else ""
            left = ", ".join(self.part(part) for part, _ in position)
            right = ", ".join(self.operand(part, value) for part, value in position)
            return f"{bound}({left}) {sign} ({right})"
        bound = self.bound(*position[0])
        branches: list[str] = []
        for last in range(len(position)):
            equal = [f"{self.part(part)} = {self.operand(part, value)}" for part, value in position[:last]]
            part, value = position[last]
            sign = "<" if part.descending else ">"
            branches.append(_joined("AND", [*equal, f"{self.part(part)} {sign} {self.operand(part, value)}"]))
        return f"{bound}{_joined('OR', branches)}"

    def bound(self, part: Part, value: Scalar) -> str:
        """What follows from the rest already, in a form that an index can use."""
        return f"{self.part(part)} {'<=' if part.descending else '>='} {self.operand(part, value)} AND "


def meta_operand(field: MetaField, value: Scalar) -> Scalar:
    """The operand as the column holds it (a time as microseconds), None if it cannot match. Raises `QueryError`."""
    kind = kind_of(value)
    if field.kind == "time" and isinstance(value, str):
        return micros_of(parse_time(value, field.name))
    return value if kind == field.kind else None


def successor(text: str) -> str | None:
    """The least text that is greater than everything that begins with `text`; None if there is none."""
    for end in range(len(text), 0, -1):
        code = ord(text[end - 1])
        if code < 0x10FFFF:
            return text[: end - 1] + chr(0xE000 if code == 0xD7FF else code + 1)
    return None


def _is_long(value: Scalar) -> bool:
    return isinstance(value, str) and len(value) >= KEY_LENGTH


def _param_kind(kind: str) -> ParamKind:
    return "bool" if kind == "bool" else "number" if kind == "number" else "string"


def _joined(word: str, parts: Sequence[str]) -> str:
    """Balanced, as SQLite bounds the depth of an expression; with parentheses."""
    if len(parts) <= 1:
        return parts[0] if parts else ""
    if len(parts) <= 16:
        return "(" + f" {word} ".join(parts) + ")"
    middle = len(parts) // 2
    return f"({_joined(word, parts[:middle])} {word} {_joined(word, parts[middle:])})"
