"""The processes of the contestants, seen from the harness."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.case import Entry
from benchmarks.environments import interpreter

__all__ = ["ContestantFailed", "Worker"]

_WORKER = Path(__file__).with_name("worker.py")
_OPEN_SECONDS = 600.0
_GRACE_SECONDS = 120.0
_LINE_LIMIT = 8 << 20


class ContestantFailed(RuntimeError):
    """A contestant raised, or its process ended; the message has its traceback."""


class Worker:
    """One contestant's process, from `async with` to its end."""

    def __init__(self, entry: Entry, setting: Mapping[str, Any]) -> None:
        self.entry = entry
        self.setting = {**setting, **entry.setting}
        self.about: dict[str, Any] = {}
        self._process: asyncio.subprocess.Process
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by __aexit__
        self._folder = tempfile.TemporaryDirectory(prefix="specstar-bench-", dir=self.setting.get("data_dir"))

    async def __aenter__(self) -> Self:
        module, _, name = self.entry.cls.partition(":")
        self.setting["folder"] = self._folder.name
        self._process = await asyncio.create_subprocess_exec(
            str(interpreter(self.entry.environment)),
            "-P",
            str(_WORKER),
            f"benchmarks.contestants.{module}",
            name,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._errors,
            limit=_LINE_LIMIT,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        )
        try:
            await self._write(self.setting)
            self.about = await self._ask({"do": "open"}, _OPEN_SECONDS)
        except BaseException:
            await self._end()
            raise
        return self

    async def measure(self, operation: str, callers: int, seconds: float) -> dict[str, Any]:
        """One sample. Raises `ContestantFailed`."""
        command = {
            "do": "measure",
            "operation": operation,
            "callers": self.entry.callers or callers,
            "seconds": seconds,
        }
        return await self._ask(command, seconds * 4 + _GRACE_SECONDS)

    async def finish(self) -> None:
        """Let the contestant close what it opened. Raises `ContestantFailed`."""
        await self._ask({"do": "close"}, _GRACE_SECONDS)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._end()

    async def _write(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its last words are read next
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            await self._process.stdin.drain()

    async def _ask(self, command: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        await self._write(command)
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), timeout)
        except TimeoutError:
            raise ContestantFailed(
                f"{self.entry.name}: no answer to {command} in {timeout:g} s{self._said()}"
            ) from None
        if not line:
            raise ContestantFailed(f"{self.entry.name}: its process ended at {command}{self._said()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ContestantFailed(f"{self.entry.name}: {command}\n{answer['error']}")
        return answer

    def _said(self) -> str:
        self._errors.seek(0)
        said = self._errors.read()[-4000:].decode(errors="replace").strip()
        return f":\n{said}" if said else ""

    async def _end(self) -> None:
        process = self._process
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()
        self._errors.close()
        self._folder.cleanup()
