"""Runs suites: all contestants of a suite side by side, each in its process, one measuring at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.case import Case, Entry, Suite
from benchmarks.figures import CaseResult
from benchmarks.pool import Worker

__all__ = ["Plan", "Selection", "run_suite", "select"]

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What to leave out; None means everything."""

    backends: frozenset[str] | None = None
    operations: frozenset[str] | None = None
    callers: frozenset[int] | None = None
    contestants: frozenset[str] | None = None
    rivals: bool = True
    quick: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how often."""

    seconds: float
    rounds: int
    setting: Mapping[str, Any]


def select(suites: Iterable[Suite], selection: Selection) -> list[Suite]:
    """The suites with what is selected of them."""
    found = []
    for suite in suites:
        if selection.backends is not None and suite.name not in selection.backends:
            continue
        entries = tuple(entry for entry in suite.entries if _takes_part(entry, selection))
        names = {entry.name for entry in entries}
        cases = tuple(_narrowed(case, names) for case in suite.cases if _wanted(case, selection))
        cases = tuple(case for case in cases if case.entries)
        used = {name for case in cases for name in case.entries}
        if cases:
            found.append(replace(suite, cases=cases, entries=tuple(e for e in entries if e.name in used)))
    return found


def _takes_part(entry: Entry, selection: Selection) -> bool:
    named = selection.contestants is None or entry.name in selection.contestants
    return named and (selection.rivals or entry.environment == "own")


def _wanted(case: Case, selection: Selection) -> bool:
    return (
        (selection.operations is None or case.operation in selection.operations)
        and (selection.callers is None or case.callers in selection.callers)
        and (case.quick or not selection.quick)
    )


def _narrowed(case: Case, names: set[str]) -> Case:
    return replace(case, entries=tuple(name for name in case.entries if name in names))


def turns(suite: Suite, rounds: int) -> list[tuple[int, Case, Entry]]:
    """The order: rounds, in them cases, in them contestants; every other round the other way round."""
    entries = {entry.name: entry for entry in suite.entries}
    order = []
    for number in range(rounds):
        for case in suite.cases:
            names: Sequence[str] = case.entries if number % 2 == 0 else case.entries[::-1]
            order += [(number, case, entries[name]) for name in names]
    return order


async def run_suite(
    suite: Suite, plan: Plan, *, started: Report, measured: Report
) -> tuple[list[CaseResult], dict[str, dict[str, Any]]]:
    """The samples of a suite, and what its contestants said about themselves."""
    results = {case: CaseResult(suite.name, case, {name: [] for name in case.entries}) for case in suite.cases}
    async with AsyncExitStack() as stack:
        workers: dict[str, Worker] = {}
        for entry in suite.entries:
            started(f"{suite.name}: starting {entry.name}")
            workers[entry.name] = await stack.enter_async_context(Worker(entry, plan.setting))
        for _, case, entry in turns(suite, plan.rounds):
            started(f"{suite.name}: {case.title}, {entry.name}")
            seconds = plan.seconds if case.seconds is None else case.seconds
            sample = await workers[entry.name].measure(case.operation, case.callers, seconds)
            results[case].samples[entry.name].append(sample)
            measured(entry.name)
        about = {name: worker.about for name, worker in workers.items()}
    return list(results.values()), about
