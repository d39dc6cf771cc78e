"""Expansion of environment variables: the rules of Compose files, against a model, and on hostile input."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specstar.config.expansion import expand

ENV = {"FULL": "value", "EMPTY": "", "REF": "${FULL}$FULL}", "_a1": "under"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$FULL", "value"),
        ("${FULL}", "value"),
        ("a-$FULL-b/${EMPTY}c", "a-value-b/c"),
        ("$_a1.x", "under.x"),
        ("$FULLé", "valueé"),
        ("$$FULL $$${FULL} $$$$", "$FULL $value $$"),
        ("${FULL:-d} ${EMPTY:-d} ${NONE:-d}", "value d d"),
        ("${FULL-d} ${EMPTY-d} ${NONE-d}", "value  d"),
        ("${FULL:+o} ${EMPTY:+o} ${NONE:+o}", "o  "),
        ("${FULL+o} ${EMPTY+o} ${NONE+o}", "o o "),
        ("${FULL:?m} ${FULL?m} ${EMPTY?m}", "value value "),
        ("${NONE:-${EMPTY:-${FULL}}}", "value"),
        ("${NONE:-a$$b}", "a$b"),
        ("${NONE:-}", ""),
        ("${NONE:-a b:c?d-e+f{g}", "a b:c?d-e+f{g"),
        ("${NONE-x}}", "x}"),
        ("}{", "}{"),
        ("${REF}", "${FULL}$FULL}"),
        ("${FULL:-${NONE:?never looked at}}", "value"),
        ("${FULL:+${NONE:-n}}", "n"),
        ('{"a": "${FULL}"}', '{"a": "value"}'),
    ],
)
def test_expands_by_the_rules_of_compose(text: str, expected: str) -> None:
    assert expand(text, ENV) == (expected, [])


@pytest.mark.parametrize(
    ("text", "reason", "variable"),
    [
        ("$NONE", "environment variable NONE is not set", "NONE"),
        ("a ${NONE} b", "environment variable NONE is not set", "NONE"),
        ("${NONE:?ask ops for it}", "required environment variable NONE is not set or empty: ask ops for it", "NONE"),
        ("${EMPTY:?}", "required environment variable EMPTY is not set or empty", "EMPTY"),
        ("${NONE?give $FULL}", "required environment variable NONE is not set or empty: give $FULL", "NONE"),
        ("${NONE:?a ${X:-b} c}", "required environment variable NONE is not set or empty: a ${X:-b} c", "NONE"),
        ("${FULL", "character 1: not a variable", None),
        ("${FULL:-x", "the closing brace is missing", None),
        ("${}", "character 1: not a variable", None),
        ("ab${1A}", "character 3: not a variable", None),
        ("${FULL:=x}", "character 1: not a variable", None),
        ("${ FULL }", "character 1: not a variable", None),
        ("${FÜLL}", "character 1: not a variable", None),
        ("cost: 5$", "character 8: a single '$'", None),
        ("pa$1word", "character 3: a single '$'", None),
        ("${FULL:-$}", "character 9: a single '$'", None),
    ],
)
def test_says_what_is_wrong(text: str, reason: str, variable: str | None) -> None:
    [(found, name)] = expand(text, ENV).problems
    assert reason in found
    assert name == variable
    assert "value" not in found


def test_reports_all_missing_variables_of_one_string_once_each() -> None:
    problems = expand("${A} ${B} ${A} ${C:-${D}} ${FULL:-${E}}", ENV).problems
    assert [name for _, name in problems] == ["A", "B", "D"]


@dataclass(frozen=True)
class Variable:
    name: str
    operator: str
    word: tuple[object, ...]


def templates() -> st.SearchStrategy[tuple[object, ...]]:
    names = st.sampled_from([*ENV, "NONE", "Other_9"])
    text = st.text(st.characters(exclude_characters="}"), max_size=6)
    plain = st.builds(Variable, names, st.sampled_from(["", "bare"]), st.just(()))

    def variables(words: st.SearchStrategy[tuple[object, ...]]) -> st.SearchStrategy[tuple[object, ...]]:
        operators = st.sampled_from([":-", "-", ":+", "+", ":?", "?"])
        return st.lists(st.one_of(text, plain, st.builds(Variable, names, operators, words)), max_size=4).map(tuple)

    return st.recursive(st.lists(st.one_of(text, plain), max_size=3).map(tuple), variables, max_leaves=20)


def written(template: tuple[object, ...]) -> str:
    out = ""
    for part in template:
        if isinstance(part, str):
            out += part.replace("$", "$$")
        elif isinstance(part, Variable) and part.operator == "bare":
            out += f"${{{part.name}}}"
        elif isinstance(part, Variable):
            out += f"${{{part.name}{part.operator}{written(part.word)}}}"
    return out


def model(template: tuple[object, ...], missing: list[str]) -> str:
    out = ""
    for part in template:
        if isinstance(part, str):
            out += part
            continue
        assert isinstance(part, Variable)
        value = ENV.get(part.name)
        there = bool(value) if part.operator.startswith(":") else value is not None
        if part.operator.endswith("+"):
            out += model(part.word, missing) if there else ""
        elif there:
            out += value or ""
        elif part.operator.endswith("-"):
            out += model(part.word, missing)
        else:
            missing.append(part.name)
    return out


@given(templates())
def test_agrees_with_a_model_that_recurses(template: tuple[object, ...]) -> None:
    missing: list[str] = []
    expected = model(template, missing)
    found = expand(written(template), ENV)
    assert {name for _, name in found.problems} == set(missing)
    if not missing:
        assert found == (expected, [])


@given(st.text(st.sampled_from("${}AB:-?+ \n\0é"), max_size=40))
def test_any_text_expands_or_is_refused(text: str) -> None:
    found = expand(text, {"A": "1", "AB": ""})
    assert isinstance(found.text, str)


def test_deep_nesting_needs_no_recursion() -> None:
    depth = 100_000
    assert expand("${NONE:-" * depth + "x" + "}" * depth, {}) == ("x", [])
    assert expand("${NONE:-" * depth, {}).problems == [
        (f"character {8 * depth - 7}: the closing brace is missing", None)
    ]


def test_many_large_values_end_at_the_limit() -> None:
    [(reason, _)] = expand("$BIG" * 1000, {"BIG": "x" * 100_000}).problems
    assert "expands to more than 1048576 characters" in reason
