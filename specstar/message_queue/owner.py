"""Which process a run belongs to, and whether that process still lives."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path

__all__ = ["is_gone", "living_workers", "process_token", "run_is_gone"]

_DEAD = "dead"
living_workers: set[str] = set()
"""The workers of this process, by the beginning of the names of their runs."""


def process_token() -> str:
    """This process, told apart from any other that has or had its id: place, id, start."""
    return _token(os.getpid())


@functools.lru_cache(maxsize=2)
def _token(pid: int) -> str:
    return f"{_place()}:{pid}:{_started(pid) or '?'}"


def _place() -> str:
    """Where process ids mean the same: the host, and the namespace on it, since containers may share a host's name."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116
    except OSError:
        return platform.node()
    return f"{platform.node()}.{namespace}"


def is_gone(token: str) -> bool | None:
    """True if the process of the token is surely over, False if it lives, None if it is elsewhere: who knows."""
    process, _, started = token.rpartition(":")
    place, _, pid_text = process.rpartition(":")
    if place != _place() or not pid_text.isdecimal():
        return None
    pid = int(pid_text)
    now_started = _started(pid)
    if now_started == _DEAD:
        return True
    if now_started is not None and started != "?":
        return now_started != started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def run_is_gone(run: str) -> bool | None:
    """`is_gone` for the process and the worker of a run, `<process>/<worker>.<number>`."""
    process = run.partition("/")[0]
    if process == process_token():
        return run.rpartition(".")[0] not in living_workers
    return is_gone(process)


def _started(pid: int) -> str | None:
    """When the process began, in ticks since boot, with the boot's id; None where the system does not tell.

    A process that is dead and only waits for its parent to notice did not begin at all.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    except OSError:
        return None
    # The command name may hold spaces and brackets: fields count from its last bracket.
    state, *fields = stat.rpartition(")")[2].split()
    return _DEAD if state in "ZX" else f"{fields[18]}-{boot}"
