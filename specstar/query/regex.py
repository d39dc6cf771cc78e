"""One regular expression syntax with one meaning: a subset of RE2, found anywhere in the text unless anchored.

- literals, any non-ASCII character, `\\` before punctuation; `\\n \\t \\r \\f \\v \\xHH \\x{H...} \\uHHHH`
- `.` any character but newline; `^` or `\\A` the start, `$` or `\\z` the end of the text (never of a line)
- `[abc]`, `[^a-z]`; `\\d \\w \\s` and `\\D \\W \\S`, ASCII, inside and outside brackets
- `|`, `(...)`, `(?:...)`, `(?P<name>...)`; `* + ? {m} {m,} {m,n}` up to 255, lazy forms with the same matches

Refused with `QueryError`, as engines differ on them or lack them: back-references, lookaround, `\\b`, inline flags,
`\\p{...}`, `[[:alpha:]]`, possessive and doubled quantifiers, a quantified anchor, an unescaped `{` or `}` that is no
quantifier, and what `QueryLimits` bounds: characters, levels of groups, and the steps that repetitions multiply to.

The pattern is parsed here and written anew in the few forms that RE2 and PostgreSQL read alike, with every class
spelled out. RE2 takes time linear in the text.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from specstar.errors import QueryError
from specstar.query.limits import RANGES, query_limits

__all__ = ["MAX_REPEAT", "regex_function", "search", "spelled", "translate"]

MAX_REPEAT = 255
"""The highest count of a repetition, PostgreSQL's own."""

# RE2's own, for repetitions within each other: kMaxRepeat in https://github.com/google/re2/blob/main/re2/parse.cc
_MOST_NESTED = 1_000
_MOST_STEPS = RANGES["max_pattern_steps"].most
_MOST_GROUPS = RANGES["max_pattern_groups"].most
_TOP = 0x10FFFF
_DIGITS = [(0x30, 0x39)]
_WORDS = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_SPACES = [(0x09, 0x0D), (0x20, 0x20)]
_CONTROLS = {"n": 10, "t": 9, "r": 13, "f": 12, "v": 11}

Ranges = list[tuple[int, int]]


def translate(pattern: str, *, ignore_case: bool = False, path: str | None = None) -> str:
    """The pattern in the form that RE2 and PostgreSQL read alike. Raises `QueryError`, also beyond the limits."""
    limits = query_limits()
    if len(pattern) > limits.max_pattern_characters:
        most = limits.max_pattern_characters
        raise QueryError(f"a pattern has at most {most} characters, got {len(pattern)}", path=path)
    parsed = _parsed(pattern, ignore_case, path)
    if parsed.steps > limits.max_pattern_steps:
        raise _bad(pattern, _too_large(limits.max_pattern_steps), path)
    if parsed.groups > limits.max_pattern_groups:
        raise _bad(pattern, _too_nested(limits.max_pattern_groups), path)
    return parsed.written


def spelled(pattern: str, *, ignore_case: bool = False, path: str | None = None) -> str:
    """The same for a pattern that is checked already, as that of a resolved condition is: for each row of a search."""
    return _parsed(pattern, ignore_case, path).written


class _Parsed(NamedTuple):
    written: str
    steps: int
    groups: int


# Known to no limits but the hard ones, which never change: what is cached here is measured anew against the others.
@functools.lru_cache(maxsize=512)
def _parsed(pattern: str, ignore_case: bool, path: str | None) -> _Parsed:
    return _Parser(pattern, ignore_case, path).whole()


def search(translated: str, text: str) -> bool:
    """Whether a translated pattern is found in the text."""
    return _compiled(translated)(text)


def regex_function(*arguments: Any) -> int | None:
    """The SQL function `specstar_regex(pattern, text)`, to be registered as deterministic with two arguments."""
    pattern, text = arguments
    return int(_compiled(pattern)(text)) if isinstance(text, str) else None


@functools.lru_cache(maxsize=256)
def _compiled(translated: str) -> Callable[[str], bool]:
    try:
        import re2
    except ImportError as exc:  # pragma: no cover  a declared dependency
        raise QueryError("regex needs the package google-re2") from exc
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    try:
        # Bytes on both sides spare the binding its conversion of offsets.
        find = re2.compile(translated.encode(), options).search
    except re2.error as exc:
        raise QueryError(f"the pattern was refused: {exc}") from exc
    return lambda text: find(text.encode()) is not None


class _Parser:
    """Recursive descent; each method returns what it wrote and its size in steps."""

    def __init__(self, pattern: str, ignore_case: bool, path: str | None) -> None:
        self.pattern = pattern
        self.ignore_case = ignore_case
        self.path = path
        self.at = 0
        self.depth = 0
        self.deepest = 0
        # What the counts within each other multiply to, at most, in what was parsed of the innermost group.
        self.repeated = 1

    def whole(self) -> _Parsed:
        written, steps = self.alternatives()
        if self.at < len(self.pattern):
            self.fail("unbalanced )")
        return _Parsed(written, steps, self.deepest)

    def fail(self, reason: str) -> NoReturn:
        raise _bad(self.pattern, f"{reason} at position {self.at}", self.path)

    def peek(self, ahead: int = 0) -> str:
        return self.pattern[self.at + ahead : self.at + ahead + 1]

    def taken(self, text: str) -> bool:
        if self.pattern.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def sized(self, size: int) -> int:
        if size > _MOST_STEPS:
            self.fail(_too_large(_MOST_STEPS))
        return size

    def alternatives(self) -> tuple[str, int]:
        branches = [self.sequence()]
        while self.taken("|"):
            branches.append(self.sequence())
        return "|".join(written for written, _ in branches), self.sized(sum(size + 1 for _, size in branches))

    def sequence(self) -> tuple[str, int]:
        parts: list[str] = []
        total = 0
        while (char := self.peek()) and char not in "|)":
            if char in "*+?{":
                self.fail(f"nothing to repeat before {char}" if char != "{" else "write a literal { as \\{")
            before, self.repeated = self.repeated, 1
            written, size, repeatable = self.atom()
            written, size = self.quantified(written, size, repeatable)
            self.repeated = max(before, self.repeated)
            parts.append(written)
            total = self.sized(total + size)
        return "".join(parts) or "(?:)", total

    def quantified(self, written: str, size: int, repeatable: bool) -> tuple[str, int]:
        char = self.peek()
        if not char or char not in "*+?{":
            return written, size
        if not repeatable:
            self.fail("an anchor cannot be repeated")
        if char == "{":
            low, high = self.bounds()
            quantifier = f"{{{low}}}" if high == low else f"{{{low},{'' if high is None else high}}}"
            size = self.sized(size * (low + 1 if high is None else max(high, 1)))
            self.repeated *= max(low if high is None else high, 1)
            if self.repeated > _MOST_NESTED:
                self.fail(f"repetitions within each other multiply to more than {_MOST_NESTED}")
        else:
            self.at += 1
            quantifier = char
        self.taken("?")
        if (doubled := self.peek()) and doubled in "*+?{":
            self.fail("a quantifier cannot follow another")
        return written + quantifier, size

    def bounds(self) -> tuple[int, int | None]:
        end = self.pattern.find("}", self.at)
        low, comma, high = self.pattern[self.at + 1 : max(end, self.at + 1)].partition(",")
        if end < 0 or not _is_count(low) or not (high == "" or _is_count(high)):
            self.fail("write a literal { as \\{, a repetition as {m}, {m,} or {m,n}")
        least = int(low)
        most = least if not comma else int(high) if high else None
        if max(least, most or 0) > MAX_REPEAT or (most is not None and most < least):
            self.fail(f"a repetition goes from low to high, up to {MAX_REPEAT}")
        self.at = end + 1
        return least, most

    def atom(self) -> tuple[str, int, bool]:
        char = self.peek()
        if char == "(":
            return self.group()
        if char == "[":
            return self.class_of(self.bracket())
        self.at += 1
        if char == "^":
            return "^", 1, False
        if char == "$":
            return "$", 1, False
        if char == ".":
            return "[^\n]", 1, True
        if char == "}":
            self.fail("write a literal } as \\}")
        if char == "\\":
            return self.escape()
        return self.literal(ord(char)), 1, True

    def class_of(self, ranges: Ranges) -> tuple[str, int, bool]:
        if not _merged(ranges):
            self.fail("a class that no character is in")
        return _class(ranges), 1 + len(ranges) // 4, True

    def literal(self, code: int) -> str:
        if self.ignore_case and _is_letter(code):
            return _class(_folded([(code, code)]))
        return _escaped(code)

    def group(self) -> tuple[str, int, bool]:
        self.at += 1
        if self.taken("?"):
            if self.taken("P<"):
                end = self.pattern.find(">", self.at)
                if end < 0 or not self.pattern[self.at : end].isidentifier():
                    self.fail("a group's name is an identifier")
                self.at = end + 1
            elif not self.taken(":"):
                self.fail("lookaround, inline flags and other (?...) forms are not supported")
        self.depth += 1
        self.deepest = max(self.deepest, self.depth)
        if self.depth > _MOST_GROUPS:
            self.fail(_too_nested(_MOST_GROUPS))
        written, size = self.alternatives()
        self.depth -= 1
        if not self.taken(")"):
            self.fail("missing )")
        return f"(?:{written})", size, True

    def escape(self) -> tuple[str, int, bool]:
        if self.taken("A"):
            return "^", 1, False
        if self.taken("z"):
            return "$", 1, False
        ranges, code = self.escaped()
        return self.class_of(ranges) if ranges else (self.literal(code), 1, True)

    def escaped(self) -> tuple[Ranges, int]:
        """What stands after a backslash: a class, or one character."""
        char = self.peek()
        self.at += 1
        if char and char in "dws":
            return {"d": _DIGITS, "w": _WORDS, "s": _SPACES}[char], 0
        if char and char in "DWS":
            return _complement({"D": _DIGITS, "W": _WORDS, "S": _SPACES}[char]), 0
        if char in _CONTROLS:
            return [], _CONTROLS[char]
        if char == "x":
            if self.taken("{"):
                end = self.pattern.find("}", self.at)
                return [], self.hexadecimal(max(end - self.at, 0), 1)
            return [], self.hexadecimal(2)
        if char == "u":
            return [], self.hexadecimal(4)
        if char and char.isascii() and not char.isalnum() and char != "_" and char >= " ":
            return [], ord(char)
        self.at -= 1
        return self.fail(f"the escape \\{char} is not supported" if char else "it ends in a lone backslash")

    def hexadecimal(self, length: int, skip: int = 0) -> int:
        digits = self.pattern[self.at : self.at + length]
        if not digits or len(digits) != length or length > 6 or not all(d in "0123456789abcdefABCDEF" for d in digits):
            self.fail("write a character code as \\xHH, \\x{H...} or \\uHHHH")
        code = int(digits, 16)
        if not 0 < code <= _TOP or 0xD800 <= code <= 0xDFFF:
            self.fail("no such character in any text")
        self.at += length + skip
        return code

    def bracket(self) -> Ranges:
        self.at += 1
        negated = self.taken("^")
        ranges: Ranges = []
        first = True
        while first or self.peek() != "]":
            first = False
            found, low = self.member()
            if found:
                ranges += found
                continue
            high = low
            if self.peek() == "-" and self.peek(1) not in ("", "]"):
                self.at += 1
                found, high = self.member()
                if found or high < low:
                    self.fail("a range goes from a lower character to a higher one")
            ranges.append((low, high))
        self.at += 1
        if self.ignore_case:
            ranges = _folded(ranges)
        return _complement(ranges) if negated else ranges

    def member(self) -> tuple[Ranges, int]:
        char = self.peek()
        if not char:
            self.fail("missing ]")
        if char == "[" and self.peek(1) in (":", ".", "="):
            self.fail("[[:class:]] is not supported")
        self.at += 1
        return self.escaped() if char == "\\" else ([], ord(char))


def _bad(pattern: str, reason: str, path: str | None) -> QueryError:
    return QueryError(f"bad pattern {pattern[:80]!r}: {reason}", path=path)


def _too_large(steps: int) -> str:
    return f"its repetitions multiply to more than {steps} steps"


def _too_nested(levels: int) -> str:
    return f"groups are nested deeper than {levels}"


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 4


def _is_letter(code: int) -> bool:
    return 0x41 <= code <= 0x5A or 0x61 <= code <= 0x7A


def _folded(ranges: Ranges) -> Ranges:
    """With both cases of every ASCII letter."""
    extra: Ranges = []
    for low, high in ranges:
        for start, end, shift in ((0x41, 0x5A, 32), (0x61, 0x7A, -32)):
            if low <= end and high >= start:
                extra.append((max(low, start) + shift, min(high, end) + shift))
    return ranges + extra


def _merged(ranges: Ranges) -> Ranges:
    merged: Ranges = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return merged


def _complement(ranges: Ranges) -> Ranges:
    rest: Ranges = []
    start = 1
    for low, high in _merged([*ranges, (0xD800, 0xDFFF)]):
        if low > start:
            rest.append((start, low - 1))
        start = max(start, high + 1)
    if start <= _TOP:
        rest.append((start, _TOP))
    return rest


# Between alternatives RE2 takes a class of the two cases of a letter for that letter in any case, and these have a third one
# (U+212A KELVIN SIGN, U+017F LATIN SMALL LETTER LONG S); not as a group.
_FOLDED_TOO_FAR = frozenset({"Kk", "Ss"})


def _class(ranges: Ranges) -> str:
    merged = _merged(ranges)
    negated = _complement(merged)
    if not negated:
        return f"[{_escaped(1)}-{_escaped(_TOP)}]"
    # The shorter of the two spellings; the negated one also spares engines the far end of Unicode.
    use_negated = merged[-1][1] == _TOP
    spelled = "".join(
        _escaped(low) if low == high else f"{_escaped(low)}-{_escaped(high)}"
        for low, high in (_without_surrogates(negated if use_negated else merged))
    )
    if spelled in _FOLDED_TOO_FAR:
        return f"([{spelled}])"
    return f"[^{spelled}]" if use_negated else f"[{spelled}]"


def _without_surrogates(ranges: Ranges) -> Ranges:
    return [
        (0xE000 if 0xD800 <= low <= 0xDFFF else low, 0xD7FF if 0xD800 <= high <= 0xDFFF else high)
        for low, high in ranges
    ]


def _escaped(code: int) -> str:
    char = chr(code)
    return f"\\{char}" if char.isascii() and char.isprintable() and not char.isalnum() and char not in "_ " else char
