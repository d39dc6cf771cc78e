"""The one regular expression syntax."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specstar.errors import QueryError
from specstar.query import regex_function
from specstar.query.regex import search, translate
from tests.unit.query.generated import LETTERS, patterns


def found(pattern: str, text: str, *, ignore_case: bool = False) -> bool:
    return search(translate(pattern, ignore_case=ignore_case), text)


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("b", "abc", True),
        ("^b", "abc", False),
        ("^a.c$", "a\nc", False),
        ("a$", "a\n", False),
        ("^b", "a\nb", False),
        ("[^x]", "\n", True),
        ("\\d", "٣", False),
        ("\\w", "é", False),
        ("\\s", "\x0b", True),
        ("\\s", "\u00a0", False),
        ("\\S", "\u00a0", True),
        ("[\\D]", "5", False),
        ("[^\\D5]", "5", False),
        ("[^\\D5]", "6", True),
        ("\\A\\x{1F600}\\z", "😀", True),
        ("^.$", "😀", True),
        ("", "", True),
        ("a|", "x", True),
        ("(?:)", "x", True),
        ("(?P<year>\\d{4})-", "in 2024-", True),
        ("a{2,}", "caab", True),
        ("^a{0}$", "", True),
        ("a+?b", "aab", True),
        ("[]-]", "-", True),
        ("[a-]", "-", True),
        ("\\$\\^\\.\\*\\[\\]\\{\\}\\(\\)\\|\\\\", "$^.*[]{}()|\\", True),
        ("%_", "a%_", True),
        ("[\\w-]+@", "a-b@", True),
    ],
)
def test_the_meaning_is_pinned(pattern: str, text: str, expected: bool) -> None:
    assert found(pattern, text) is expected


def test_case_is_ignored_for_ascii_letters_only() -> None:
    assert found("straSSe", "STRAsse", ignore_case=True)
    assert found("[a-c]x", "BX", ignore_case=True)
    assert not found("[^a]", "A", ignore_case=True)
    assert not found("é", "É", ignore_case=True)
    assert not found("k", "\u212a", ignore_case=True)


@pytest.mark.parametrize(
    "pattern",
    [
        "(", ")", "a)", "[", "[a", "[b-a]", "*", "a**", "a*+", "a{2}{3}", "a{", "{2}", "a}", "a{,3}", "a{3,2}", "a{256}", "a{x}",
        "|*", "^*", "$+", "\\z?", "\\1", "\\b", "\\B", "\\Z", "\\Q", "\\pL", "\\p{L}", "\\", "\\_", "\\e", "\\cA", "\\07", "\\x4",
        "\\x{}", "\\x{110000}", "\\x{D800}", "\\ud800", "\\x00", "\\x{0}", "(?=a)", "(?!a)", "(?<=a)", "(?<!a)", "(?i)a",
        "(?i:a)", "(?#c)", "(?>a)", "(?P=n)", "(?P<1>a)", "(?P<n", "(?", "[[:alpha:]]", "[[=a=]]", "[[.a.]]", "[^\\d\\D]",
        "[a-\\d]", "(a{100}){100}", "((a{9}){9}){13}", "(" * 60 + ")" * 60, "a" * 4_001, "a\\",
        "***a", "a{2",
    ],
)  # fmt: skip
def test_what_engines_read_differently_is_refused(pattern: str) -> None:
    with pytest.raises(QueryError, match="pattern"):
        translate(pattern)


@settings(max_examples=300)
@given(
    pattern=patterns(depth=3),
    ignore_case=st.booleans(),
    texts=st.lists(st.text(st.sampled_from(LETTERS), max_size=6), max_size=10),
)
def test_re2_agrees_with_the_standard_library(pattern: tuple[str, str], ignore_case: bool, texts: list[str]) -> None:
    ours, theirs = pattern
    standard = re.compile(theirs, re.ASCII | re.IGNORECASE if ignore_case else 0)
    for text in texts:
        assert found(ours, text, ignore_case=ignore_case) == bool(standard.search(text))


@given(pattern=st.text(st.sampled_from("ab(|)[]{}^$\\.*+?,-:P<>1d2xu \n"), max_size=12))
def test_any_text_is_a_pattern_or_an_error(pattern: str) -> None:
    try:
        translated = translate(pattern)
    except QueryError:
        return
    assert search(translated, "ab1 ") in (True, False)


def test_time_is_linear_in_the_text() -> None:
    started = time.monotonic()

    assert not found("(a*)*(a|aa)+(.*a){20}b", "a" * 20_000)
    assert time.monotonic() - started < 5


def test_the_sql_function_leaves_other_types_alone() -> None:
    pattern = translate("^a")

    assert regex_function(pattern, "ab") == 1
    assert regex_function(pattern, "ba") == 0
    assert [regex_function(pattern, value) for value in (None, 5, b"a", 1.5)] == [None] * 4
