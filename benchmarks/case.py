"""What is measured: cases, their contestants, and the targets to reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Case", "Entry", "Scale", "Suite", "Target"]

Environment = Literal["own", "old", "rivals"]
Server = Literal["postgres", "rabbitmq", "s3"]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much data the suites work on."""

    search_rows: int = 100_000
    """Resources that are searched on PostgreSQL."""
    old_rows: int = 1_000
    """Resources that specstar 0.12.3 searches on PostgreSQL, where it writes few a second."""
    jobs: int = 10_000
    """Jobs that are drained, by the faster contestants."""
    sizes: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    """Resources in the stores whose growth is measured."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A contestant by name: its class, the environment it runs in, and what it is told besides the common settings."""

    name: str
    cls: str
    """`module:Class`, the module below `benchmarks.contestants`."""
    environment: Environment = "own"
    setting: Mapping[str, Any] = field(default_factory=dict)
    callers: int | None = None
    """Its own number of callers, where a case compares different numbers."""
    ours: bool = False
    quick: bool = True
    """Takes part in the quick run."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What one of our entries has to reach.

    With `against`: at least so many times the speed of that entry, or at most so many times its cost. Without: the value
    itself, in the unit of the case; `of="memory"` means MiB above idle.
    """

    against: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    entry: str = "specstar"
    of: Literal["value", "memory"] = "value"

    def __str__(self) -> str:
        sign, bound = (">=", self.at_least) if self.at_least is not None else ("<=", self.at_most)
        if self.of == "memory":
            return f"{sign} {bound:g} MiB"
        return f"{sign} {bound:,g}{'x' if self.against else ''}"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One operation done by several contestants under the same conditions; `entries` names them, ours first."""

    operation: str
    title: str
    callers: int
    entries: tuple[str, ...]
    targets: tuple[Target, ...] = ()
    unit: str = "calls/s"
    better: Literal["higher", "lower"] = "higher"
    seconds: float | None = None
    """Its own measuring time, where that of the command line does not fit."""
    quick: bool = True
    """Part of the quick run."""
    fresh: bool = False
    """Each measurement in a new process: memory that an earlier one has left behind would hide what this one needs."""
    curve: str | None = None
    """The title of the picture of curves that it is a point of."""
    x: int | None = None
    """Where that point is; without it, at its callers."""
    x_label: str = "callers"
    points: Mapping[str, tuple[str, int]] | None = None
    """Entries that are points of one curve of costs: its name, and where they are on it."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """The cases of one backend, which share the processes of their contestants."""

    name: str
    entries: tuple[Entry, ...]
    cases: tuple[Case, ...]
    servers: tuple[Server, ...] = ()
    notes: tuple[str, ...] = ()
    """What makes the comparison equal, or does not: printed below the table."""
