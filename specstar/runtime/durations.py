"""How long things took, counted by ranges: averages hide the few that took long."""

from __future__ import annotations

from bisect import bisect_left

__all__ = ["BOUNDS", "Durations"]

BOUNDS: tuple[float, ...] = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0),
)
"""The upper ends of the ranges, in seconds: from a request on loopback to a long job."""


class Durations:
    """`counts` of each range of `BOUNDS`, the last of what took longer; `seconds` is their sum."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts: list[int] = [0] * (len(BOUNDS) + 1)
        self.seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    def merge(self, other: Durations) -> None:
        """Count what another has counted, too."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.seconds += other.seconds
