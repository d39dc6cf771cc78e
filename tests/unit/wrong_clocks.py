"""Clocks of a host that was stopped, suspended or restored, for what asks `specstar.runtime.late` how long it took."""

from __future__ import annotations

import pytest

from specstar.runtime import late

__all__ = ["WrongClocks"]


class WrongClocks:
    """Stands in for the module `time`: its clocks go on when told to, each as far as it is told."""

    CLOCK_BOOTTIME = 7

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = 1_800_000_000.0
        self.steady = 1000.0
        monkeypatch.setattr(late, "time", self)

    def time(self) -> float:
        return self.wall

    def clock_gettime(self, clock: int) -> float:
        assert clock == self.CLOCK_BOOTTIME
        return self.steady

    def go_on(self, wall: float, steady: float) -> None:
        self.wall += wall
        self.steady += steady
