"""`file_faults.c` from Python: compile it, run a program under it, and give it orders from inside that program."""

from __future__ import annotations

import ctypes
import enum
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

__all__ = ["Call", "Event", "FileFaults", "compile_shim", "events_of", "run_program"]

SHORT_WRITE = -1
ROOT = Path(__file__).parents[3]
_SOURCE = Path(__file__).with_name("file_faults.c")
_HEAD = struct.Struct("=5q")


class Call(enum.IntFlag):
    """The kinds of calls that change what is on the disk (`open` may)."""

    WRITE = 1
    SYNC = 2
    RENAME = 4
    LINK = 8
    OPEN = 16
    UNLINK = 32
    MKDIR = 64
    TRUNCATE = 128
    RMDIR = 256
    MARK = 512


CHANGES = Call.WRITE | Call.SYNC | Call.RENAME | Call.LINK | Call.OPEN | Call.UNLINK | Call.MKDIR | Call.TRUNCATE


class Event(NamedTuple):
    """One call that succeeded. `offset` is the length for TRUNCATE, 1 for an OPEN that emptied the file."""

    call: Call
    path: str
    other: str
    offset: int
    data: bytes


def compile_shim(folder: Path) -> Path:
    """The shared library. A missing compiler fails the test, and says what to install."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.fail("these tests compile tests/faults/tools/file_faults.c: install a C compiler (Debian, Ubuntu: gcc)")
    library = folder / "file_faults.so"
    command = [compiler, "-O1", "-Wall", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}\n(Debian, Ubuntu: apt-get install gcc libc6-dev)"
    return library


def run_program(library: Path | None, module: str, *arguments: str, timeout: float = 600) -> str:
    """Run a module of the tests in a process of its own, under the shim if one is given; its output."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    if library is not None:
        environment["LD_PRELOAD"] = str(library)
    command = [sys.executable, "-X", "faulthandler", "-W", "error", "-m", module, *arguments]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


class FileFaults:
    """The orders, inside a program that runs under the shim; they concern the files under `folder`."""

    def __init__(self, folder: Path) -> None:
        # As os.open names it: the shim compares text.
        self._shim = ctypes.CDLL(None)
        self._shim.file_faults_fired.restype = ctypes.c_long
        self._shim.file_faults_arm.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_long, ctypes.c_int]
        self._shim.file_faults_quota.argtypes = [ctypes.c_long]
        self._shim.file_faults_watch(os.fsencode(folder.resolve()))

    def arm(self, *, error: int, first: int, times: int = 1, calls: Call = CHANGES) -> None:
        """Fail the calls `first` (from 1) to `first + times - 1`; SHORT_WRITE as error: write only half."""
        self._shim.file_faults_arm(Call.WRITE if error == SHORT_WRITE else calls, first, times, error)

    def disarm(self) -> int:
        """Let all calls succeed again; how many failed."""
        fired = int(self._shim.file_faults_fired())
        self._shim.file_faults_arm(0, 0, 0, 0)
        return fired

    def quota(self, size: int | None) -> None:
        """The disk is full after so many more bytes; None: it is not."""
        self._shim.file_faults_quota(-1 if size is None else size)

    def trace(self, path: Path | None) -> None:
        """Write a trace from now on, or end it."""
        if self._shim.file_faults_trace(None if path is None else os.fsencode(path)):
            raise OSError(f"cannot write {path}")

    def mark(self, text: str) -> None:
        """Put a mark into the trace."""
        self._shim.file_faults_mark(text.encode())


def events_of(trace: Path) -> Iterator[Event]:
    """The calls of a trace, in their order."""
    data = trace.read_bytes()
    place = 0
    while place < len(data):
        call, first, second, offset, size = _HEAD.unpack_from(data, place)
        place += _HEAD.size
        parts = []
        for length in (first, second, size):
            parts.append(data[place : place + length])
            place += length
        yield Event(Call(call), os.fsdecode(parts[0]), os.fsdecode(parts[1]), offset, parts[2])
