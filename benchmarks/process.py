"""The resident memory of this process, in MiB: the standard library only."""

from __future__ import annotations

import gc
import resource
import sys
from pathlib import Path

__all__ = ["PeakMemory", "resident"]

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def resident() -> float:
    """What is resident now; without /proc, the most there ever was."""
    return _status("VmRSS") if _STATUS.exists() else _maximum()


class PeakMemory:
    """The most memory in use inside the `with` block, above `idle` MiB, or above what was in use at its begin: `above`."""

    above = 0.0

    def __init__(self, idle: float | None = None) -> None:
        self._idle = idle

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if _CLEAR.exists():
            _CLEAR.write_text("5")  # resets VmHWM (proc_pid_clear_refs(5))
        self._before = resident() if self._idle is None else self._idle
        return self

    def __exit__(self, *_: object) -> None:
        peak = _status("VmHWM") if _STATUS.exists() else _maximum()
        self.above = max(0.0, peak - self._before)


def _status(name: str) -> float:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {name} in {_STATUS}")


def _maximum() -> float:
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
