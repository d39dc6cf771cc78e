"""Results as tables: for the terminal, and as Markdown for the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.case import Suite
from benchmarks.figures import CaseResult, Figure, Verdict

__all__ = ["markdown", "missed", "show"]

_HEADINGS = (
    "operation",
    "callers",
    "contestant",
    "median (min to max)",
    "p50 / p99 ms",
    "of specstar",
    "target",
    "reached",
)
_NUMBERS = (1, 3, 4, 5, 6, 7)


def show(console: Console, suite: Suite, results: Sequence[CaseResult]) -> None:
    """Print one suite."""
    table = Table(title=suite.name, title_justify="left", header_style="bold")
    for number, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="right" if number in _NUMBERS else "left", no_wrap=number > 0)
    for result in results:
        for row in _rows(result):
            table.add_row(*row)
        table.add_section()
    console.print(table)
    for note in suite.notes:
        console.print(f"- {note}", style="dim", markup=False, highlight=False)


def markdown(results: Sequence[CaseResult]) -> str:
    """The same rows as a Markdown table."""
    lines = ["| " + " | ".join(_HEADINGS) + " |"]
    lines.append("| " + " | ".join("---:" if number in _NUMBERS else "---" for number in range(len(_HEADINGS))) + " |")
    for result in results:
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in _rows(result)]
    return "\n".join(lines)


def missed(results: Sequence[CaseResult]) -> list[tuple[CaseResult, Verdict]]:
    """The targets that were measured and not met."""
    return [(result, verdict) for result in results for verdict in result.verdicts() if verdict.met is False]


def _rows(result: CaseResult) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    first = next((name for name in result.case.entries if result.samples.get(name)), None)
    for name in result.case.entries:
        figure = result.figure(name)
        if figure is None:
            continue
        verdicts = [verdict for verdict in result.verdicts() if verdict.target.entry == name]
        share = result.ratio(name, first) if first is not None and name != first else None
        rows.append(
            (
                result.case.title if not rows else "",
                str(_callers(result, name)),
                name,
                f"{_spread(figure)} {result.case.unit}",
                _latency(result, name),
                "" if share is None else f"{share.median:.2f}x",
                ", ".join(f"{verdict.target}{_against(verdict, name)}" for verdict in verdicts),
                ", ".join(_reached(verdict) for verdict in verdicts),
            )
        )
    return rows


def _callers(result: CaseResult, name: str) -> int:
    samples: Sequence[Mapping[str, Any]] = result.samples[name]
    return int(samples[0].get("callers", result.case.callers))


def _against(verdict: Verdict, name: str) -> str:
    return f" {verdict.target.against}" if verdict.target.against else ""


def _reached(verdict: Verdict) -> str:
    if verdict.reached is None:
        return "not run"
    shown = f"{_short(verdict.reached.median)} ({_short(verdict.reached.low)} to {_short(verdict.reached.high)})"
    return f"{shown} {'met' if verdict.met else 'MISSED'}"


def _spread(figure: Figure) -> str:
    return f"{_short(figure.median)} ({_short(figure.low)} to {_short(figure.high)})"


def _short(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _latency(result: CaseResult, name: str) -> str:
    half, most = result.figure(name, "p50"), result.figure(name, "p99")
    if half is None or most is None:
        return ""
    return f"{half.median:.3g} / {most.median:.3g}"
