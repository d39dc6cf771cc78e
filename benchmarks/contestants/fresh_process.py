"""Importing in fresh processes."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys

from benchmarks.contestant import Contestant, Sample, distributions

__all__ = ["FreshProcess"]

_PROGRAM = "import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"


class FreshProcess(Contestant):
    """Runs `setting["statement"]` in a new interpreter each time, files cached."""

    def versions(self) -> dict[str, str]:
        return distributions("specstar", "anyio", "msgspec")

    async def measure_import(self, callers: int, seconds: float) -> Sample:
        """Milliseconds inside the interpreter, without its own start: the median of as many as fit in `seconds`."""
        program = _PROGRAM.format(statement=self.setting["statement"])
        return await asyncio.to_thread(self._repeat, program, seconds)

    @staticmethod
    def _repeat(program: str, seconds: float) -> Sample:
        taken: list[float] = []
        spent = 0.0
        while spent < seconds or len(taken) < 3:
            done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
            taken.append(float(done.stdout) * 1e3)
            spent += taken[-1] / 1e3
        return {"value": statistics.median(taken), "calls": len(taken)}
