"""Environment variables in strings, by the rules of Compose files.

`$VAR`, `${VAR}`, `${VAR:-default}` (unset or empty), `${VAR-default}` (unset), `${VAR:?message}`, `${VAR?message}`,
`${VAR:+other}` (set and not empty), `${VAR+other}` (set), `$$` for a dollar. Defaults nest. What a variable holds is
not expanded again. https://github.com/compose-spec/compose-spec/blob/main/12-interpolation.md
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["MAX_EXPANDED_CHARACTERS", "Expanded", "Expansion", "expand"]

MAX_EXPANDED_CHARACTERS = 1 << 20

_NAME = "[A-Za-z_][A-Za-z0-9_]*"
_TOKEN = re.compile(
    rf"\$(?:(?P<dollar>\$)|(?P<bare>{_NAME})|\{{(?P<name>{_NAME})(?P<operator>\}}|:?[-?+])|(?P<wrong>))|\}}"
)


class Expanded(str):
    """A string with a variable's value in it: may be coerced to its field's type, and is never shown in a message."""

    __slots__ = ()


class Expansion(NamedTuple):
    """The expanded text, and what was wrong: pairs of (reason, name of the missing variable or None)."""

    text: str
    problems: list[tuple[str, str | None]]


class _Open(NamedTuple):
    """A `${NAME operator` whose brace is not closed yet."""

    name: str
    begin: int
    start: int
    was_active: bool
    report: bool


def expand(
    text: str, environ: Mapping[str, str], *, limit: int = MAX_EXPANDED_CHARACTERS, secret: bool = False
) -> Expansion:
    """Expand the variables of `text` from `environ`, in one pass. At most `limit` characters come out.

    In a `secret` a `$NAME` may be meant as it stands, and be a part of it: it is not named where there is no such variable.
    A default that is not needed is not looked at, except for its syntax. Scanning ends at the first mistake of syntax.
    """
    out: list[str] = []
    problems: list[tuple[str, str | None]] = []
    missing: set[str] = set()
    opened: list[_Open] = []
    active = True
    size = position = 0

    for match in _TOKEN.finditer(text):
        start, end = match.span()
        piece = text[position:start] if active else ""
        position = end
        name = match["bare"] or match["name"]
        operator = match["operator"]
        if match["dollar"]:
            piece += "$" if active else ""
        elif match["wrong"] is not None:
            problems.append((_syntax(text, start), None))
            return Expansion("", problems)
        elif name is None:
            if opened:
                last = opened.pop()
                if last.report:
                    problems.append((_required(last.name, text[last.start : start]), last.name))
                active = last.was_active
            else:
                piece += "}"
        elif operator in (None, "}"):
            if active:
                value = environ.get(name)
                if value is not None:
                    piece += value
                elif secret and match["bare"]:
                    problems.append((_nameless(start), None))
                elif name not in missing:
                    missing.add(name)
                    problems.append((_undefined(name), name))
        else:
            value = environ.get(name)
            present = bool(value) if operator[0] == ":" else value is not None
            kind = operator[-1]
            if present and active and kind != "+" and value:
                piece += value
            opened.append(_Open(name, start, end, active, report=kind == "?" and active and not present))
            active = active and (present if kind == "+" else kind == "-" and not present)
        if piece:
            size += len(piece)
            if size > limit:
                problems.append((f"expands to more than {limit} characters", None))
                return Expansion("", problems)
            out.append(piece)

    if opened:
        problems.append((f"character {opened[-1].begin + 1}: the closing brace is missing", None))
        return Expansion("", problems)
    out.append(text[position:])
    return Expansion("".join(out), problems)


def _undefined(name: str) -> str:
    return f"environment variable {name} is not set; write ${{{name}:-default}} to give it a default, $$ for a dollar"


def _nameless(start: int) -> str:
    return f"character {start + 1}: this environment variable is not set; write $$ for a dollar"


def _required(name: str, message: str) -> str:
    said = f": {message[:200]}" if message else ""
    return f"required environment variable {name} is not set or empty{said}"


def _syntax(text: str, start: int) -> str:
    where = f"character {start + 1}"
    if text.startswith("${", start):
        return f"{where}: not a variable; write ${{NAME}}, ${{NAME:-default}}, or $$ for a dollar"
    return f"{where}: a single '$' that begins no variable; write $$ for a dollar"
