"""Runs suites: all contestants of a suite side by side, each in its process, one measuring at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
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
    return named and (selection.rivals or entry.environment == "own") and (entry.quick or not selection.quick)


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


@asynccontextmanager
async def _opened(workers: Collection[Worker]) -> AsyncIterator[None]:
    """All open and closed side by side; after an error of one, the others end too."""
    async with AsyncExitStack() as stack:
        await _all(stack.enter_async_context(worker) for worker in workers)
        yield
        await _all(worker.finish() for worker in workers)


async def _all(steps: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """Side by side; the first error is raised once all others have ended."""
    try:
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(step)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def run_suite(
    suite: Suite, plan: Plan, *, started: Report, measured: Report
) -> tuple[list[CaseResult], dict[str, dict[str, Any]]]:
    """The samples of a suite, and what its contestants said about themselves."""
    results = {id(case): CaseResult(suite.name, case, {name: [] for name in case.entries}) for case in suite.cases}
    workers = {entry.name: Worker(entry, plan.setting) for entry in suite.entries}
    started(f"{suite.name}: starting {len(workers)} processes")
    async with _opened(workers.values()):
        for _, case, entry in turns(suite, plan.rounds):
            started(f"{suite.name}: {case.title}, {entry.name}")
            seconds = plan.seconds if case.seconds is None else case.seconds
            began = time.perf_counter()
            if case.fresh:
                async with Worker(entry, plan.setting) as worker:
                    sample = await worker.measure(case.operation, case.callers, seconds)
                    await worker.finish()
            else:
                sample = await workers[entry.name].measure(case.operation, case.callers, seconds)
            sample["took"] = round(time.perf_counter() - began, 3)
            results[id(case)].samples[entry.name].append(sample)
            measured(entry.name)
        about = {name: worker.about for name, worker in workers.items()}
    return list(results.values()), about
