"""What a fault test injected and what it cost, counted, printed at the end of a run and kept in docs/reliability.md."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Figures", "fault_count", "table", "write_page"]

_BEGIN = "<!-- begin of the newest figures: written by make faults -->"
_END = "<!-- end of the newest figures -->"


def fault_count(short: int, *, share: float = 1.0) -> int:
    """How many faults to inject: `short` by default, `share` of SPECSTAR_FAULTS where that is set, at least `short`."""
    wanted = os.environ.get("SPECSTAR_FAULTS")
    return max(short, math.ceil(int(wanted) * share)) if wanted else short


@dataclass
class Figures:
    """Counts of one test. `longest_stall` is the longest time, in seconds, that one call or one recovery took."""

    name: str
    faults: int = 0
    acknowledged: int = 0
    lost: int = 0
    duplicated: int = 0
    longest_stall: float = 0.0

    @contextmanager
    def stall(self) -> Iterator[None]:
        """Time the block as one wait."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.longest_stall = max(self.longest_stall, time.monotonic() - start)

    def encoded(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decoded(cls, text: str) -> Figures:
        return cls(**json.loads(text))


def table(figures: Iterable[Figures]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| what was broken | faults | acknowledged | lost | duplicated | longest stall |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, one in sorted(_merged(figures).items()):
        counts = f"{one.faults:,} | {one.acknowledged:,} | {one.lost:,} | {one.duplicated:,}"
        lines.append(f"| {name} | {counts} | {one.longest_stall:.2f} s |")
    return "\n".join(lines) + "\n"


def _merged(figures: Iterable[Figures]) -> dict[str, Figures]:
    """One row a name: a test may run on several backends and event loops."""
    merged: dict[str, Figures] = {}
    for one in figures:
        row = merged.setdefault(one.name, Figures(one.name))
        row.faults += one.faults
        row.acknowledged += one.acknowledged
        row.lost += one.lost
        row.duplicated += one.duplicated
        row.longest_stall = max(row.longest_stall, one.longest_stall)
    return merged


def write_page(page: Path, figures: Iterable[Figures]) -> None:
    """Put the table between the marks of a page."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    _, found, after = rest.partition(_END)
    if not found:
        raise ValueError(f"{page} has no place for figures: it lacks {_BEGIN!r} and {_END!r}")
    page.write_text(f"{before}{_BEGIN}\n\n{table(figures)}\n{_END}{after}", encoding="utf-8")
