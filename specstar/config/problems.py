"""The mistakes found in a configuration: collected with their paths, raised together."""

from __future__ import annotations

import re
from collections.abc import Iterable

from specstar.config.expansion import Expanded
from specstar.errors import ConfigError, ConfigProblem
from specstar.suggestions import closest

__all__ = ["Problems", "join", "nearest", "quoted"]

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_$-]+\Z")
_LONGEST_NAME = 80


class Problems:
    """Collects problems in the order found; the same one at the same path counts once."""

    def __init__(self) -> None:
        self._found: dict[ConfigProblem, None] = {}

    def add(self, path: str, reason: str, suggestion: str | None = None) -> None:
        """Record a mistake."""
        self._found[ConfigProblem(path, reason, suggestion)] = None

    def extend(self, path: str, problems: Iterable[ConfigProblem]) -> None:
        """Record the problems of another error below `path`."""
        for problem in problems:
            self.add(f"{path}.{problem.path}" if problem.path else path, problem.reason, problem.suggestion)

    def __len__(self) -> int:
        return len(self._found)

    def error(self, source: str | None) -> ConfigError:
        """All of them as one error."""
        return ConfigError(tuple(self._found), source=source)


def join(path: str, key: object) -> str:
    """The JSON path of a member: `a.b`, or `a['b c']` and `a[0]`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    text = str(key)
    if text.isidentifier() and text.isascii() and len(text) <= _LONGEST_NAME:
        return f"{path}.{text}" if path else text
    if _PLAIN_KEY.match(text) and len(text) <= _LONGEST_NAME:
        return f"{path}.{text}" if path else text
    return f"{path}[{_cut(text)}]"


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The known name closest to a mistyped one, if any is close. None for a value that came from the environment."""
    if not isinstance(name, str) or isinstance(name, Expanded) or len(name) > _LONGEST_NAME:
        return None
    return closest(name, known)


def quoted(value: str) -> str:
    """A name for a message: quoted and cut, or where it came from if it may not be shown."""
    return "(from the environment)" if isinstance(value, Expanded) else _cut(value)


def _cut(text: str) -> str:
    return repr(text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}...")
