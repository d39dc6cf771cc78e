"""The suites: which contestants do what, and what specstar has to reach."""

from __future__ import annotations

from benchmarks.case import Suite
from benchmarks.suites.disk import DISK
from benchmarks.suites.memory import MEMORY
from benchmarks.suites.start import START

__all__ = ["SUITES"]

SUITES: tuple[Suite, ...] = (START, MEMORY, DISK)
