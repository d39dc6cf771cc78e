"""From samples to figures: medians, spread, ratios, and whether targets are met."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.case import Case, Target

__all__ = ["CaseResult", "Figure", "Verdict", "judge"]


@dataclass(frozen=True)
class Figure:
    """The middle of some samples, and how far they lie apart."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """The figure of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Verdict:
    """A target, and what was reached: the median of the rounds' own ratios, or of the values themselves."""

    target: Target
    reached: Figure | None
    met: bool | None
    """None if the other contestant did not run."""


@dataclass
class CaseResult:
    """The samples of one case by contestant, round by round."""

    suite: str
    case: Case
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def figure(self, entry: str, of: str = "value") -> Figure | None:
        """The figure of one contestant; None if it did not run or has no such figure."""
        values = [sample[of] for sample in self.samples.get(entry, ()) if of in sample]
        return Figure.of(values) if values else None

    def ratio(self, entry: str, against: str, *, cost: bool = False) -> Figure | None:
        """How many times as fast as another, round by round; `cost`: how many times its cost."""
        pairs = zip(self.samples.get(entry, ()), self.samples.get(against, ()), strict=False)
        speeds = [_speed(self.case, ours["value"], theirs["value"]) for ours, theirs in pairs]
        if not speeds:
            return None
        return Figure.of([1 / speed for speed in speeds] if cost else speeds)

    def verdicts(self) -> list[Verdict]:
        """One for each target of the case."""
        return [judge(self, target) for target in self.case.targets]


def judge(result: CaseResult, target: Target) -> Verdict:
    """Compare what was reached with a target."""
    if target.against is not None:
        reached = result.ratio(target.entry, target.against, cost=target.at_most is not None)
    else:
        reached = result.figure(target.entry, target.of)
    if reached is None:
        return Verdict(target, None, None)
    if target.at_least is not None:
        return Verdict(target, reached, reached.median >= target.at_least)
    assert target.at_most is not None
    return Verdict(target, reached, reached.median <= target.at_most)


def _speed(case: Case, ours: float, theirs: float) -> float:
    return ours / theirs if case.better == "higher" else theirs / ours


def as_json(results: Sequence[CaseResult]) -> list[Mapping[str, Any]]:
    """The results as plain data."""
    return [
        {
            "suite": result.suite,
            "operation": result.case.operation,
            "title": result.case.title,
            "callers": result.case.callers,
            "unit": result.case.unit,
            "better": result.case.better,
            "samples": result.samples,
            "medians": {name: figure.median for name in result.samples if (figure := result.figure(name)) is not None},
            "targets": [
                {
                    "entry": verdict.target.entry,
                    "against": verdict.target.against,
                    "of": verdict.target.of,
                    "target": str(verdict.target),
                    "reached": None if verdict.reached is None else verdict.reached.median,
                    "low": None if verdict.reached is None else verdict.reached.low,
                    "high": None if verdict.reached is None else verdict.reached.high,
                    "met": verdict.met,
                }
                for verdict in result.verdicts()
            ],
        }
        for result in results
    ]
