"""Results as tables: for the terminal, and as Markdown for the documentation."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.case import Suite
from benchmarks.figures import CaseResult, Figure

__all__ = ["count_targets", "figures_markdown", "notes_markdown", "show", "targets_markdown"]

_FIGURES = ("operation", "contestant", "median", "min to max", "unit", "p50 / p99 ms", "to the first")
_FIGURES_RIGHT = frozenset({2, 3, 5, 6})
_TARGETS = ("operation", "contestant", "target", "reached", "min to max", "")
_TARGETS_RIGHT = frozenset({3, 4})


def show(console: Console, suite: Suite, results: Sequence[CaseResult]) -> None:
    """Print one suite."""
    console.print(f"\n[bold]{suite.name}[/bold]")
    figures = _table(_FIGURES, _FIGURES_RIGHT)
    for result in results:
        for row in _figure_rows(result):
            figures.add_row(*row)
        figures.add_section()
    console.print(figures)
    rows = [row for result in results for row in _target_rows(result)]
    if rows:
        targets = _table(_TARGETS, _TARGETS_RIGHT)
        for row in rows:
            targets.add_row(*row, style="red" if row[-1] == "missed" else "")
        console.print(targets)
    for note in suite.notes:
        console.print(f"- {note}", style="dim", markup=False, highlight=False)


def figures_markdown(results: Sequence[CaseResult]) -> str:
    """What was measured."""
    return _markdown(_FIGURES, _FIGURES_RIGHT, [row for result in results for row in _figure_rows(result)])


def targets_markdown(results: Sequence[CaseResult]) -> str:
    """What had to be reached, and was or was not."""
    return _markdown(_TARGETS, _TARGETS_RIGHT, [row for result in results for row in _target_rows(result)])


def notes_markdown(notes: Sequence[str]) -> str:
    """The notes of a suite as a list."""
    return "\n".join(f"- {note}" for note in notes)


def count_targets(results: Sequence[CaseResult]) -> tuple[int, int]:
    """How many targets were met, of how many that were measured."""
    met = [verdict.met for result in results for verdict in result.verdicts() if verdict.met is not None]
    return sum(met), len(met)


def _table(headings: Sequence[str], right: frozenset[int]) -> Table:
    table = Table(header_style="bold", show_edge=False, pad_edge=False)
    for number, heading in enumerate(headings):
        # The last columns may be cut on a narrow terminal, the figures never.
        table.add_column(
            heading, justify="right" if number in right else "left", overflow="fold", no_wrap=number in right
        )
    return table


def _markdown(headings: Sequence[str], right: frozenset[int], rows: Sequence[Sequence[str]]) -> str:
    lines = [_line(headings), _line(["---:" if number in right else "---" for number in range(len(headings))])]
    return "\n".join(lines + [_line(row) for row in rows])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _name(result: CaseResult) -> str:
    callers = result.case.callers
    return result.case.title if callers == 1 else f"{result.case.title}, {callers:,} callers"


def _figure_rows(result: CaseResult) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    present = [name for name in result.case.entries if result.samples.get(name)]
    for name in present:
        figure = result.figure(name)
        assert figure is not None
        share = result.ratio(name, present[0]) if name != present[0] else None
        rows.append(
            (
                "" if rows else _name(result),
                name,
                short(figure.median),
                _spread(figure),
                result.case.unit,
                _latency(result, name),
                "" if share is None else f"{short(share.median)}x",
            )
        )
    return rows


def _target_rows(result: CaseResult) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for verdict in result.verdicts():
        if verdict.reached is None:
            continue
        target = verdict.target
        against = (
            f" {'the cost' if target.at_most is not None else 'the speed'} of {target.against}"
            if target.against
            else ""
        )
        unit = "" if target.against or target.of == "memory" else f" {result.case.unit}"
        reached, met = verdict.reached, "met" if verdict.met else "missed"
        shown = f"{target}{unit}{against}"
        rows.append((_name(result), target.entry, shown, short(reached.median), _spread(reached), met))
    return rows


def _spread(figure: Figure) -> str:
    return f"{short(figure.low)} to {short(figure.high)}"


def short(value: float) -> str:
    """Three digits that matter."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _latency(result: CaseResult, name: str) -> str:
    half, most = result.figure(name, "p50"), result.figure(name, "p99")
    if half is None or most is None:
        return ""
    return f"{half.median:.3g} / {most.median:.3g}"
