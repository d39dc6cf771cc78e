"""Plain values into typed structs: all at once when right, field by field when not, so that every mistake is found."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct, ValidationError

from specstar.config.expansion import Expanded
from specstar.config.loading import UNUSABLE
from specstar.config.problems import nearest
from specstar.config.redaction import HIDDEN

__all__ = ["FieldProblem", "StructTable"]

_AT = re.compile(r" - at `\$(?P<path>.*)`$")
_MAX_EXACT_INTEGER = 1 << 53


class FieldProblem(Exception):
    """A value that does not fit its field. `path` is below the field, like `.a[0]`."""

    def __init__(self, reason: str, suggestion: str | None = None, path: str = "") -> None:
        self.reason = reason
        self.suggestion = suggestion
        self.path = path
        super().__init__(reason)


class Decoded(NamedTuple):
    """The struct, or the problems: (key or "", reason, suggestion, path below the key). Neither: reported elsewhere."""

    value: Any
    problems: list[tuple[str, str, str | None, str]]


class StructTable:
    """What decoding into one struct type needs to know, worked out once.

    Strings that came from the environment (`Expanded`) become what their field wants: a string if it takes one, else an
    int, float, bool or null. Literal strings are not coerced. A float without a fraction fits an integer field, as in
    JSON Schema.
    """

    def __init__(
        self,
        struct_type: type[Struct],
        *,
        aliases: Mapping[str, str] | None = None,
        secrets: frozenset[str] = frozenset(),
    ) -> None:
        fields = msgspec.structs.fields(struct_type)
        self.struct_type = struct_type
        self.aliases: dict[str, str] = dict(aliases or {})
        self.types: dict[str, Any] = {field.encode_name: field.type for field in fields}
        self.attributes: dict[str, str] = {field.encode_name: field.name for field in fields}
        self.required: tuple[str, ...] = tuple(field.encode_name for field in fields if field.required)
        self.secrets: frozenset[str] = frozenset(
            name for name in self.types if name in secrets or self.attributes[name] in secrets
        )
        self._required_attributes = tuple(self.attributes[name] for name in self.required)
        self._forbids = struct_type.__struct_config__.forbid_unknown_fields

    def decode(self, values: Mapping[str, Any]) -> Decoded:
        """Decode a mapping whose keys are field names."""
        coerced = self._coerced(values)
        if coerced is not None:
            try:
                struct = msgspec.convert(coerced, self.struct_type)
            except ValidationError:
                pass
            else:
                complete = all(_filled(getattr(struct, name)) for name in self._required_attributes)
                if complete and (self._forbids or values.keys() <= self.types.keys()):
                    return Decoded(struct, [])
        return self._decode_fields(values)

    def _coerced(self, values: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The values with those from the environment decoded; None if one cannot be, or was reported already."""
        coerced: dict[str, Any] | None = None
        for name, value in values.items():
            kind = type(value)
            if kind is Expanded or value is UNUSABLE or ((kind is dict or kind is list) and _has_special(value)):
                if name not in self.types or _unusable(value):
                    return None
                if coerced is None:
                    coerced = dict(values)
                try:
                    coerced[name] = self.decode_field(name, value)
                except FieldProblem:
                    return None
        return values if coerced is None else coerced

    def check_fields(self, values: Mapping[str, Any]) -> list[tuple[str, str, str | None, str]]:
        """The problems of the given values alone; others may be given elsewhere."""
        return self._fields(values)[1]

    def _decode_fields(self, values: Mapping[str, Any]) -> Decoded:
        clean, problems = self._fields(values)
        for name in self.required:
            if name not in values:
                problems.append((name, self._missing(name), None, ""))
        if problems or len(clean) != len(values):
            return Decoded(None, problems)
        try:
            return Decoded(msgspec.convert(clean, self.struct_type), [])
        except ValidationError as error:
            # Fields that fit one by one: the struct's own __post_init__ refuses them together.
            reason = self.without_secrets(_AT.sub("", str(error)), values)
            return Decoded(None, [("", reason, None, "")])

    def _fields(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str, str | None, str]]]:
        clean: dict[str, Any] = {}
        problems: list[tuple[str, str, str | None, str]] = []
        for name, value in values.items():
            if name not in self.types:
                problems.append((name, "unknown option" + self._known(name), self.nearest(name), ""))
            elif not _unusable(value):
                try:
                    clean[name] = self.decode_field(name, value)
                except FieldProblem as problem:
                    problems.append((name, problem.reason, problem.suggestion, problem.path))
        return clean, problems

    def decode_field(self, name: str, value: Any) -> Any:
        """One value for one field. Raises `FieldProblem`, whose reason never holds the value."""
        if type(value) is Expanded:
            expanded, plain = True, str(value)
        else:
            expanded = _has_expanded(value)
            plain = _plain(value) if expanded else value
        kind = self.types[name]
        if name in self.required and not _filled(plain):
            raise FieldProblem("required option is empty")
        try:
            result = msgspec.convert(plain, kind)
        except ValidationError as error:
            reason = error
            for candidate, strict in ((_integral(plain), True), (plain, False)):
                if strict or expanded:
                    try:
                        result = msgspec.convert(candidate, kind, strict=strict)
                        break
                    except ValidationError as closer:
                        reason = closer  # the type fits now, but not the range
            else:
                # The driver's text may hold the value; its cause is dropped for the same reason.
                raise self._problem(reason, kind, plain, hidden=expanded or name in self.secrets) from None
        if type(result) is float and not isfinite(result):
            raise FieldProblem("expected a finite number")
        return result

    def nearest(self, name: str) -> str | None:
        """The closest field name or alias."""
        return nearest(name, [*self.types, *self.aliases])

    def without_secrets(self, text: str, values: Mapping[str, Any]) -> str:
        """A message of foreign code, with secret values and values from the environment blotted out."""
        found: list[str] = []
        for name, value in values.items():
            _collect(value, name in self.secrets, found)
        for secret in sorted(set(found), key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        return text

    def _known(self, name: str) -> str:
        if self.nearest(name) is not None:
            return ""
        return f"; known: {', '.join(self.types)}" if self.types else "; there are none"

    def _missing(self, name: str) -> str:
        others = [alias for alias, target in self.aliases.items() if target == name]
        return (
            f"required option is missing ({' or '.join([name, *others])})" if others else "required option is missing"
        )

    def _problem(self, error: ValidationError, kind: Any, value: Any, *, hidden: bool) -> FieldProblem:
        text = str(error)
        at = _AT.search(text)
        path = at["path"] if at else ""
        reason = _AT.sub("", text).replace("`", "")
        if reason.startswith("Expected"):
            reason = "e" + reason[1:]
            return FieldProblem(reason, None, path)
        choices = _choices(kind) if not path else []
        if choices:
            near = None if hidden or not isinstance(value, str) else nearest(value, [str(choice) for choice in choices])
            return FieldProblem(f"expected one of {', '.join(map(repr, choices))}", near)
        if reason.startswith("Object "):
            return FieldProblem("o" + reason[1:], None, path)
        return FieldProblem("the value is not accepted", None, path)


def _leaves(value: Any) -> Iterator[Any]:
    kind = type(value)
    if kind is dict or kind is list:
        for member in value.values() if kind is dict else value:
            yield from _leaves(member)
    else:
        yield value


def _with_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    kind = type(value)
    if kind is dict:
        return {key: _with_leaves(member, change) for key, member in value.items()}
    if kind is list:
        return [_with_leaves(member, change) for member in value]
    return change(value)


def _has_special(value: Any) -> bool:
    return any(type(leaf) is Expanded or leaf is UNUSABLE for leaf in _leaves(value))


def _has_expanded(value: Any) -> bool:
    return any(type(leaf) is Expanded for leaf in _leaves(value))


def _unusable(value: Any) -> bool:
    return any(leaf is UNUSABLE for leaf in _leaves(value))


def _plain(value: Any) -> Any:
    return _with_leaves(value, lambda leaf: str(leaf) if type(leaf) is Expanded else leaf)


def _integral(value: Any) -> Any:
    return _with_leaves(value, _integer_if_exact)


def _integer_if_exact(value: Any) -> Any:
    exact = type(value) is float and value.is_integer() and abs(value) <= _MAX_EXACT_INTEGER
    return int(value) if exact else value


def _filled(value: Any) -> bool:
    return not (isinstance(value, str) and not value.strip())


def _collect(value: Any, secret: bool, found: list[str]) -> None:
    for leaf in _leaves(value):
        if isinstance(leaf, str) and leaf and (secret or type(leaf) is Expanded):
            found.append(str(leaf))


def _choices(kind: Any) -> list[Any]:
    """The values that an enum or literal type takes, in a union with null too."""
    from msgspec import inspect

    found: list[Any] = []
    pending: list[Any] = [inspect.type_info(kind)]
    while pending:
        info = pending.pop()
        if isinstance(info, inspect.Metadata):
            pending.append(info.type)
        elif isinstance(info, inspect.UnionType):
            pending.extend(info.types)
        elif isinstance(info, inspect.LiteralType):
            found.extend(info.values)
        elif isinstance(info, inspect.EnumType):
            found.extend(member.value for member in info.cls)
    return found
