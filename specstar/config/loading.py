"""From what `backend=` was given (object, mapping or JSON file) to one tree of plain values, variables expanded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from specstar.config.expansion import MAX_EXPANDED_CHARACTERS, Expanded, expand
from specstar.config.problems import Problems, join, nearest
from specstar.config.redaction import looks_secret, redacted
from specstar.config.structs import BackendBinding, BackendConfig, BackendDefaults, ConnectionProfile
from specstar.errors import ConfigError, ConfigProblem

__all__ = ["MAX_FILE_BYTES", "UNUSABLE", "ConfigSource", "Loaded", "kind_of", "load"]

MAX_FILE_BYTES = 1 << 20
_CHUNK = 1 << 16
_MAX_DEPTH = 64
_MAX_EXPANDED_TOTAL = 8 << 20

ConfigSource: TypeAlias = "BackendConfig | Mapping[str, Any] | str | os.PathLike[str]"


class _Unusable:
    """Stands where a value was reported as a problem already, so that it is not reported again."""

    def __repr__(self) -> str:
        return "UNUSABLE"


UNUSABLE: Final[Any] = _Unusable()
_STRUCTS = (BackendBinding, BackendConfig, BackendDefaults, ConnectionProfile)


class Loaded(NamedTuple):
    """The tree (keys are strings, values plain, `Expanded` or `UNUSABLE`), and the file it came from."""

    tree: dict[str, Any]
    source: str | None


def load(source: ConfigSource, environ: Mapping[str, str], problems: Problems) -> Loaded:
    """Read a configuration. A file that cannot be parsed raises `ConfigError`; other mistakes go to `problems`."""
    name: str | None = None
    given: Any = source
    if isinstance(source, (str, os.PathLike)):
        name = os.fsdecode(source)
        given = _read_json(name)
    if isinstance(given, BackendConfig):
        tree = _TreeReader(None, problems).read_struct(given)
    elif isinstance(given, Mapping):
        tree = _TreeReader(environ, problems).read_top(given)
    else:
        kinds = "a BackendConfig, a mapping or the path of a JSON file" if name is None else "a JSON object"
        raise ConfigError(f"expected {kinds}, got {kind_of(given)}", source=name)
    return Loaded(tree, name)


class _TreeReader:
    """Copies a tree, expands its strings (if there is an environment), and refuses what is no plain value."""

    def __init__(self, environ: Mapping[str, str] | None, problems: Problems) -> None:
        self._environ = environ
        self._problems = problems
        self._keys: list[str | int] = []
        self._budget = _MAX_EXPANDED_TOTAL

    def read_top(self, tree: Mapping[Any, Any]) -> dict[str, Any]:
        """The top level, without `$schema` and the `x-...` keys, which are left to other tools."""
        own = {}
        for key, value in tree.items():
            if key == "$schema":
                if not isinstance(value, str):
                    self._problems.add("$schema", f"expected str, got {kind_of(value)}")
            elif not (isinstance(key, str) and key.startswith("x-")):
                own[key] = value
        if type(tree) is _Repeating:
            own = _Repeating(own)
            own.repeated = tree.repeated
        return self._mapping(own)

    def read_struct(self, value: Any) -> dict[str, Any]:
        """One of the public structs as a mapping. Its strings are taken as they are; its parts must be structs too."""
        environ, self._environ = self._environ, None
        out = {}
        for name in value.__struct_fields__:
            member = getattr(value, name)
            self._keys.append(name)
            expected = _EXPECTED.get((type(value), name))
            if expected is not None and not isinstance(member, expected) and not (member is None and name == "mq"):
                self._report(f"expected {expected.__name__}, got {kind_of(member)}")
            elif member is None and name in ("use", "type", "mq"):
                pass
            elif name == "connections" and isinstance(member, Mapping):
                out[name] = self._connections(member)
            else:
                out[name] = self._value(member)
            self._keys.pop()
        self._environ = environ
        return out

    def _connections(self, connections: Mapping[Any, Any]) -> dict[str, Any]:
        profiles = {}
        for name, profile in connections.items():
            if isinstance(profile, ConnectionProfile):
                profiles[name] = profile
                continue
            self._keys.append(str(name))
            self._report(f"expected ConnectionProfile, got {kind_of(profile)}")
            self._keys.pop()
        return self._mapping(profiles)

    def _value(self, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            if self._environ is not None and "$" in value:
                return self._expanded(value)
            if "\0" in value or not value.isascii():
                return self._text(value)
            return value
        if kind is bool or kind is int or value is None:
            return value
        if kind is float:
            if isfinite(value):
                return value
            self._report("expected a finite number")
            return UNUSABLE
        if kind is dict or isinstance(value, Mapping):
            return self._nested(self._mapping, value)
        if kind is list or kind is tuple:
            return self._nested(self._sequence, value)
        if kind in _STRUCTS:
            return self.read_struct(value)
        if isinstance(value, os.PathLike):
            path = os.fspath(value)
            return self._text(path) if isinstance(path, str) else path
        if isinstance(value, str):
            return self._value(str.__str__(value))
        return value

    def _nested(self, read: Any, value: Any) -> Any:
        if len(self._keys) >= _MAX_DEPTH:
            self._report(f"nested deeper than {_MAX_DEPTH} levels")
            return UNUSABLE
        return read(value)

    def _mapping(self, mapping: Mapping[Any, Any]) -> dict[str, Any]:
        out = {}
        keys = self._keys
        for given, value in mapping.items():
            if not isinstance(given, str):
                self._report(f"expected str as key, got {kind_of(given)}")
                continue
            key = given if type(given) is str else str.__str__(given)
            kind = type(value)
            if (
                kind is bool
                or kind is int
                or (kind is str and value.isascii() and "$" not in value and "\0" not in value)
            ):
                out[key] = value
                continue
            keys.append(key)
            out[key] = self._value(value)
            keys.pop()
        if type(mapping) is _Repeating:
            for key in mapping.repeated:
                keys.append(key)
                self._report("the key stands more than once in its object")
                keys.pop()
        return out

    def _sequence(self, sequence: list[Any] | tuple[Any, ...]) -> list[Any]:
        out = []
        for index, value in enumerate(sequence):
            self._keys.append(index)
            out.append(self._value(value))
            self._keys.pop()
        return out

    def _expanded(self, text: str) -> Any:
        assert self._environ is not None
        limit = min(self._budget, MAX_EXPANDED_CHARACTERS)
        expansion = expand(text, self._environ, limit=limit)
        if expansion.problems and self._is_secret(text):
            # Only then is it worth the looking: the reasons must not name a part of it.
            expansion = expand(text, self._environ, limit=limit, secret=True)
        self._budget -= len(expansion.text)
        if not expansion.problems:
            return self._text(Expanded(expansion.text)) if _has_variable(text) else self._text(expansion.text)
        for reason, variable in expansion.problems:
            self._report(reason, None if variable is None else _similar_variable(variable, self._environ))
        return UNUSABLE

    def _is_secret(self, text: str) -> bool:
        return any(looks_secret(str(key)) for key in self._keys) or redacted(text) != text

    def _text(self, text: str) -> Any:
        if "\0" in text:
            self._report("contains a NUL character")
            return UNUSABLE
        try:
            text.encode()
        except UnicodeEncodeError:
            self._report("contains half a surrogate pair, which is no text")
            return UNUSABLE
        return text

    def _report(self, reason: str, suggestion: str | None = None) -> None:
        path = ""
        for key in self._keys:
            path = join(path, key)
        self._problems.add(path, reason, suggestion)


_EXPECTED: dict[tuple[type, str], type] = {
    (BackendConfig, "defaults"): BackendDefaults,
    (BackendConfig, "meta"): BackendBinding,
    (BackendConfig, "resource"): BackendBinding,
    (BackendConfig, "blob"): BackendBinding,
    (BackendConfig, "mq"): BackendBinding,
}


def _has_variable(text: str) -> bool:
    return "$" in text.replace("$$", "")


def _similar_variable(name: str, environ: Mapping[str, str]) -> str | None:
    if name in environ:
        return None  # it is there, but empty
    return nearest(name, (known for known in environ if abs(len(known) - len(name)) <= 3 and known[:1] == name[:1]))


def kind_of(value: Any) -> str:
    """What a value is, in the words of JSON where it has one."""
    names: dict[type, str] = {
        dict: "object",
        _Repeating: "object",
        list: "array",
        type(None): "null",
        Expanded: "str",
    }
    return names.get(type(value), type(value).__name__)


class _Repeating(dict[str, Any]):
    """A JSON object in which keys stand more than once."""

    repeated: list[str]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) == len(pairs):
        return plain
    repeating = _Repeating(plain)
    seen: set[str] = set()
    repeating.repeated = [key for key, _ in pairs if key in seen or seen.add(key)]  # type: ignore[func-returns-value]
    return repeating


def _no_constant(name: str) -> Any:
    raise _NotJSON(f"{name} is not JSON")


class _NotJSON(ValueError):
    pass


@cache
def _decoder() -> Callable[[str], Any]:
    import json

    return json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant).decode


def _read_json(path: str) -> Any:
    if path.lstrip()[:1] in ("{", "["):
        raise ConfigError("expected the path of a JSON file, got JSON text; pass json.loads(text), or a path")
    try:
        data = _read_bytes(path)
    except FileNotFoundError as error:
        where = "" if Path(path).is_absolute() else f" in {Path.cwd()}"
        raise ConfigError(f"there is no such file{where}", source=path) from error
    except ValueError as error:
        raise ConfigError(f"not a path: {error}") from error
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or type(error).__name__}", source=path) from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"larger than {MAX_FILE_BYTES} bytes: not a configuration", source=path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        # The bytes themselves may be part of a secret: the cause, which holds them all, is left out.
        raise ConfigError(f"line {line}: not UTF-8 (byte {error.start + 1})", source=path) from None
    return _parse(text, path)


def _read_bytes(path: str) -> bytes:
    """The start of a file, one byte beyond the limit at most."""
    file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        data = b""
        while len(data) <= MAX_FILE_BYTES and (more := os.read(file, _CHUNK)):
            data += more
        return data
    finally:
        os.close(file)


def _parse(text: str, path: str) -> Any:
    from json import JSONDecodeError

    if not text.strip():
        raise ConfigError("the file is empty", source=path)
    try:
        return _decoder()(text)
    except JSONDecodeError as error:
        reason = f"line {error.lineno}, column {error.colno}: broken JSON: {error.msg}"
    except _NotJSON as error:
        reason = f"broken JSON: {error}"
    except ValueError:
        reason = "broken JSON: a number with too many digits"
    except RecursionError:
        reason = "broken JSON: nested too deep"
    # Raised here, outside the handlers: the parser's error holds the whole document, secrets and all.
    raise ConfigError(ConfigProblem("", reason), source=path)
