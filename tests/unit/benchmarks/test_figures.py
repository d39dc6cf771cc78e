"""From samples to ratios, verdicts, tables and the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import page, table
from benchmarks.case import Case, Target
from benchmarks.figures import CaseResult, as_json


def result(case: Case, **values: list[float]) -> CaseResult:
    samples = {name: [{"value": value, "p50": 1.0, "p99": 2.0} for value in found] for name, found in values.items()}
    return CaseResult("suite", case, samples)


def rates(*targets: Target) -> Case:
    return Case(operation="get", title="get", callers=64, entries=("ours", "theirs"), targets=targets)


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    ratio = result(rates(), ours=[100, 20, 30], theirs=[10, 10, 10]).ratio("ours", "theirs")
    assert ratio is not None
    assert (ratio.median, ratio.low, ratio.high) == (3, 2, 10)


def test_a_lower_value_is_faster_where_less_is_better() -> None:
    case = Case(operation="import", title="import", callers=1, entries=("ours", "theirs"), unit="ms", better="lower")
    found = result(case, ours=[10.0], theirs=[20.0])
    speed, cost = found.ratio("ours", "theirs"), found.ratio("ours", "theirs", cost=True)
    assert speed is not None
    assert cost is not None
    assert (speed.median, cost.median) == (2, 0.5)


@pytest.mark.parametrize(
    ("target", "met"),
    [
        (Target(entry="ours", against="theirs", at_least=3), True),
        (Target(entry="ours", against="theirs", at_least=3.1), False),
        (Target(entry="ours", against="theirs", at_most=0.4), True),
        (Target(entry="ours", at_least=29), True),
        (Target(entry="ours", at_most=29), False),
        (Target(entry="ours", against="absent", at_least=1), None),
        (Target(entry="ours", of="memory", at_most=64), None),
    ],
)
def test_targets_are_judged(target: Target, met: bool | None) -> None:
    (verdict,) = result(rates(target), ours=[30, 30], theirs=[10, 10]).verdicts()
    assert verdict.met is met


def test_tables_show_figures_and_missed_targets() -> None:
    found = [result(rates(Target(entry="ours", against="theirs", at_least=5)), ours=[30_000.0], theirs=[10_000.0])]
    assert "| get, 64 callers | ours | 30,000 | 30,000 to 30,000 | calls/s | 1 / 2 |  |" in table.figures_markdown(
        found
    )
    assert "|  | theirs | 10,000 | 10,000 to 10,000 | calls/s | 1 / 2 | 0.333x |" in table.figures_markdown(found)
    assert ">= 5x the speed of theirs | 3 | 3 to 3 | missed |" in table.targets_markdown(found)
    assert table.count_targets(found) == (0, 1)


def test_the_page_keeps_what_is_around_the_markers(tmp_path: Path) -> None:
    found = [result(rates(), ours=[2.0], theirs=[1.0])]
    picture = tmp_path / "suite.svg"
    picture.write_text("<svg/>")
    file = tmp_path / "docs" / "performance.md"
    file.parent.mkdir()
    file.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    document = {
        "machine": {
            "time": "2030-01-02T03:04:05",
            "revision": "abc",
            "cpu": "cpu",
            "cores": 2,
            "memory_gib": 4,
            "system": "Linux",
            "python": "CPython",
            "load": 0.1,
        },
        "rounds": 1,
        "seconds": 1.0,
        "payload": 200,
        "loop": "asyncio",
        "failed": {"other": "a traceback"},
        "contestants": {
            "suite": {"ours": {"versions": {"specstar": "1"}}, "old": {"versions": {"specstar": "0.12.3"}}}
        },
        "notes": {"suite": ["equal for all"]},
        "results": as_json(found),
    }
    page.refresh(file, document, found, [picture])
    page.refresh(file, document, found, [picture])
    text = file.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.count("| get, 64 callers |") == 1
    assert "- equal for all" in text
    assert "Not measured, because a contestant failed: other." in text
    assert "specstar 1." in text
    assert (tmp_path / "docs" / "benchmarks" / "suite.svg").read_text() == "<svg/>"


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "performance.md"
    file.write_text("nothing")
    with pytest.raises(ValueError, match="lacks the markers"):
        page.refresh(file, {}, [], [])
