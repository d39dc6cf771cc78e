"""The shape of a configuration: a plain tree into the public structs, with every mistake found."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct, ValidationError

from specstar.config.decoding import FieldProblem, StructTable
from specstar.config.loading import UNUSABLE, kind_of
from specstar.config.problems import Problems, join, nearest
from specstar.config.structs import BackendBinding, BackendConfig, BackendDefaults, ConnectionProfile

__all__ = ["read_config"]

_TABLES: dict[type[Struct], StructTable] = {
    kind: StructTable(kind) for kind in (BackendConfig, BackendDefaults, ConnectionProfile, BackendBinding)
}
_NO_DEFAULTS: frozenset[str] = frozenset()


def read_config(tree: dict[str, Any], problems: Problems) -> tuple[BackendConfig, frozenset[str]]:
    """The configuration, and the names of the defaults that were given.

    Where a part is wrong, its problem is recorded and a usable value takes its place, so that the rest can be checked.
    A name or type that is wrong becomes `UNUSABLE`.
    """
    if not problems:
        try:
            config = msgspec.convert(tree, BackendConfig)
        except ValidationError:
            pass
        else:
            defaults = tree.get("defaults")
            return config, frozenset(defaults) if defaults else _NO_DEFAULTS
    return _Reader(problems).config(tree)


class _Reader:
    def __init__(self, problems: Problems) -> None:
        self._problems = problems

    def config(self, tree: dict[str, Any]) -> tuple[BackendConfig, frozenset[str]]:
        parts: dict[str, Any] = {}
        given_defaults = _NO_DEFAULTS
        for key, value in tree.items():
            if key not in _TABLES[BackendConfig].types:
                self._unknown("", key, BackendConfig)
            elif value is UNUSABLE:
                continue
            elif key == "version":
                self._field(BackendConfig, key, value, key)
            elif key == "defaults":
                if self._is_object(value, key):
                    defaults = self._members(BackendDefaults, value, key)
                    parts[key] = BackendDefaults(**defaults)
                    given_defaults = frozenset(defaults)
            elif key == "connections":
                if self._is_object(value, key):
                    parts[key] = self._connections(value)
            elif not (key == "mq" and value is None):
                parts[key] = self._binding(value, key)
        return BackendConfig(**parts), given_defaults

    def _connections(self, tree: dict[str, Any]) -> dict[str, ConnectionProfile]:
        found = {}
        for name, value in tree.items():
            path = join("connections", name)
            members: dict[str, Any] = {"type": UNUSABLE}
            if self._is_object(value, path):
                members |= self._members(ConnectionProfile, value, path)
                if "type" not in value:
                    self._problems.add(path, 'needs "type", the backend type')
            found[name] = ConnectionProfile(**members)
        return found

    def _binding(self, value: Any, path: str) -> BackendBinding:
        if not self._is_object(value, path):
            return BackendBinding(use=UNUSABLE)
        members = self._members(BackendBinding, value, path)
        for name in ("use", "type"):
            if value.get(name) is not None and members.get(name) is None:
                members[name] = UNUSABLE
        return BackendBinding(**members)

    def _members(self, kind: type[Struct], tree: dict[str, Any], path: str) -> dict[str, Any]:
        """The fields of one struct that are right."""
        members = {}
        for key, value in tree.items():
            where = join(path, key)
            if key not in _TABLES[kind].types:
                self._unknown(path, key, kind)
            elif value is UNUSABLE:
                continue
            elif key == "options":
                if self._is_object(value, where):
                    members[key] = value
            elif (found := self._field(kind, key, value, where)) is not UNUSABLE:
                members[key] = found
        return members

    def _field(self, kind: type[Struct], key: str, value: Any, path: str) -> Any:
        try:
            decoded = _TABLES[kind].decode_field(key, value)
        except FieldProblem as problem:
            self._problems.add(path + problem.path, problem.reason, problem.suggestion)
            return UNUSABLE
        # Kept as it is, so that a name from the environment is known as such.
        return value if isinstance(value, str) and key in ("use", "type") else decoded

    def _is_object(self, value: Any, path: str) -> bool:
        if type(value) is dict:
            return True
        if value is not UNUSABLE:
            self._problems.add(path, f"expected object, got {kind_of(value)}")
        return False

    def _unknown(self, path: str, key: str, kind: type[Struct]) -> None:
        known = list(_TABLES[kind].types)
        near = nearest(key, known)
        self._problems.add(join(path, key), "unknown key" + ("" if near else f"; known: {', '.join(known)}"), near)
