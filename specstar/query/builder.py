"""`QB`, the query builder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal, NoReturn

from specstar.errors import QueryError
from specstar.query.conditions import (
    Compare,
    Condition,
    Contains,
    EndsWith,
    Exists,
    In,
    IsNull,
    Regex,
    StartsWith,
)
from specstar.query.ordering import SortKey

__all__ = ["QB", "FieldRef", "QueryBuilder"]


class FieldRef:
    """A field in a query: compare it, or call one of the methods, to get a condition.

    `QB["address"]["city"]` is `QB["address.city"]`. A comparison matches only values of the operand's own kind; it
    never converts text to a number or back. Conditions combine with `&`, `|` and `~`. Operands that cannot be compared
    (a dict, NaN, an integer beyond 64 bits, text with NUL) raise `QueryError`.
    """

    __slots__ = ("_meta", "_path")

    def __init__(self, path: str, *, meta: bool = False) -> None:
        self._path = _named(path)
        self._meta = meta

    def __getitem__(self, name: str) -> FieldRef:
        if self._meta:
            raise QueryError("meta fields have no inner fields", path=self._path)
        return FieldRef(f"{self._path}.{_named(name)}")

    def __repr__(self) -> str:
        return f"QB.meta[{self._path!r}]" if self._meta else f"QB[{self._path!r}]"

    def __eq__(self, other: object) -> Condition:  # type: ignore[override]
        return self._compare("eq", other)

    def __ne__(self, other: object) -> Condition:  # type: ignore[override]
        return ~self._compare("eq", other)

    def __lt__(self, other: Any) -> Condition:
        return self._compare("lt", other)

    def __le__(self, other: Any) -> Condition:
        return self._compare("le", other)

    def __gt__(self, other: Any) -> Condition:
        return self._compare("gt", other)

    def __ge__(self, other: Any) -> Condition:
        return self._compare("ge", other)

    __hash__: ClassVar[None] = None  # type: ignore[assignment]
    __iter__: ClassVar[None] = None

    def __contains__(self, item: object) -> NoReturn:
        raise QueryError(f"write {self!r}.contains(...) instead of 'in'", path=self._path)

    def _unparenthesised(self) -> NoReturn:
        raise QueryError(
            "& and | bind tighter than comparisons: put each in parentheses, (QB['a'] == 1) & (QB['b'] == 2)",
            path=self._path,
        )

    def __and__(self, other: object) -> NoReturn:
        self._unparenthesised()

    def __rand__(self, other: object) -> NoReturn:
        self._unparenthesised()

    def __or__(self, other: object) -> NoReturn:
        self._unparenthesised()

    def __ror__(self, other: object) -> NoReturn:
        self._unparenthesised()

    def __bool__(self) -> NoReturn:
        raise QueryError(f"{self!r} has no truth value: compare it, e.g. {self!r}.is_(True)", path=self._path)

    def __invert__(self) -> NoReturn:
        raise QueryError(f"{self!r} alone is no condition: write {self!r}.is_(False) instead of ~", path=self._path)

    def is_(self, value: bool | None) -> Condition:
        """The same as `==`, in a form that linters leave alone: of True, False, or None for null and missing."""
        if value is not None and not isinstance(value, bool):
            raise QueryError("is_ takes True, False or None: compare other values with ==", path=self._path)
        return self._compare("eq", value)

    def in_(self, values: Iterable[Any]) -> Condition:
        """Equal to one of the values; None among them stands for null or missing."""
        return In(field=self._path, meta=self._meta, values=_listed(values, self._path))

    def not_in(self, values: Iterable[Any]) -> Condition:
        """Equal to none of the values; null and missing match unless None is among them."""
        return ~self.in_(values)

    def between(self, low: Any, high: Any) -> Condition:
        """From `low` to `high`, both included."""
        return self._compare("ge", low) & self._compare("le", high)

    def contains(self, value: Any) -> Condition:
        """A list with this element; also, where `value` is text, text with this part (case-sensitive, no wildcards)."""
        return Contains(field=self._path, meta=self._meta, value=value)

    def starts_with(self, prefix: str) -> Condition:
        """Text that begins with `prefix` (case-sensitive, no wildcards)."""
        return StartsWith(field=self._path, meta=self._meta, value=prefix)

    def ends_with(self, suffix: str) -> Condition:
        """Text that ends with `suffix` (case-sensitive, no wildcards)."""
        return EndsWith(field=self._path, meta=self._meta, value=suffix)

    def regex(self, pattern: str, *, ignore_case: bool = False) -> Condition:
        """Text in which the pattern is found, anywhere unless anchored. `ignore_case` is for ASCII letters.

        Syntax: `specstar.query.regex`. Raises `QueryError` for a pattern that not every backend reads alike.
        """
        return Regex(field=self._path, meta=self._meta, pattern=pattern, ignore_case=ignore_case)

    def is_null(self, value: bool = True) -> Condition:
        """Null or missing; with False, neither."""
        condition = IsNull(field=self._path, meta=self._meta)
        return condition if _flag(value, self._path) else ~condition

    def exists(self, value: bool = True) -> Condition:
        """Present, be it null; with False, missing."""
        condition = Exists(field=self._path, meta=self._meta)
        return condition if _flag(value, self._path) else ~condition

    def asc(self) -> SortKey:
        """A sort key, smallest first, null and missing before all."""
        return SortKey(field=self._path, meta=self._meta)

    def desc(self) -> SortKey:
        """A sort key, largest first, null and missing after all."""
        return SortKey(field=self._path, meta=self._meta, descending=True)

    def _compare(self, op: Literal["eq", "lt", "le", "gt", "ge"], value: Any) -> Condition:
        if isinstance(value, FieldRef):
            raise QueryError(f"a field is compared with a value, not with another field ({value!r})", path=self._path)
        if op == "eq" and value is None:
            return IsNull(field=self._path, meta=self._meta)
        return Compare(field=self._path, meta=self._meta, op=op, value=value)


class _Meta:
    __slots__ = ()

    def __getitem__(self, name: str) -> FieldRef:
        return FieldRef(name, meta=True)


class QueryBuilder:
    """`QB["age"]` names an indexed field, or the meta field of that name if the model indexes none of that name.

    `QB.meta["created_time"]` always names the meta field.
    """

    __slots__ = ()

    meta: _Meta = _Meta()

    def __getitem__(self, path: str) -> FieldRef:
        return FieldRef(path)


QB = QueryBuilder()


def _listed(values: Any, path: str) -> tuple[Any, ...]:
    if isinstance(values, str | bytes | FieldRef) or not isinstance(values, Iterable):
        raise QueryError("in_ takes a list of values", path=path)
    return tuple(values)


def _named(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise QueryError("a field is named by text, e.g. QB['age'] or QB['address']['city']")
    return name


def _flag(value: object, path: str) -> bool:
    if not isinstance(value, bool):
        raise QueryError(f"expected True or False, got {type(value).__name__}", path=path)
    return value
