"""Large files, in and out: what the contestants share, and specstar's blobs."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self

from benchmarks.contestant import Contestant, Sample, distributions
from benchmarks.contestants.filling import filled_in
from benchmarks.process import PeakMemory, resident

__all__ = ["Blobs", "LargeFile", "timed"]

_FEWEST_CALLS = 6
_idle: float | None = None


class LargeFile:
    """A file of random bytes, from `with` to its end; `renew` makes it another content."""

    def __init__(self, folder: Path, size: int) -> None:
        self.path = folder / "source"
        self.size = size

    def __enter__(self) -> Self:
        with self.path.open("wb") as file:
            for start in range(0, self.size, 1 << 20):
                file.write(os.urandom(min(1 << 20, self.size - start)))
            file.flush()
            os.fsync(file.fileno())
        return self

    def renew(self) -> None:
        """Change the first bytes: what is stored by content is new again."""
        with self.path.open("r+b") as file:
            file.write(os.urandom(16))
            file.flush()
            os.fsync(file.fileno())

    def __exit__(self, *_: object) -> None:
        self.path.unlink()


async def timed(
    call: Callable[[], Awaitable[None]], after: Callable[[], Awaitable[None]], seconds: float, size: int
) -> Sample:
    """MiB a second of one caller, and the memory it needed; `after` is not timed. A few calls, however long they take."""
    spent = 0.0
    calls = 0
    longest = 0.0
    global _idle
    if _idle is None:
        gc.collect()
        _idle = resident()
    # With the first call, and above the first idle moment: what a call leaves behind for the next one counts as well.
    with PeakMemory(_idle) as peak:
        await call()  # warm up: threads, pages, connections
        await after()
        while spent < seconds or calls < _FEWEST_CALLS:
            started = time.perf_counter()
            await call()
            took = time.perf_counter() - started
            spent += took
            longest = max(longest, took)
            calls += 1
            await after()
    return {
        "value": calls * size / (1 << 20) / spent,
        "calls": calls,
        "p50": spent / calls * 1e3,
        "p99": longest * 1e3,
        "memory": peak.above,
    }


class Blobs(Contestant):
    """specstar's blobs on the backend of the setting: from a file, and into one."""

    def start(self) -> None:
        from specstar import SpecStar

        self.spec = SpecStar()
        self.spec.configure(backend=filled_in(self.setting["backend"], self.setting))
        self.folder = Path(self.setting["folder"])

    async def open(self) -> None:
        # The driver is loaded on first use: an idle moment is one with the connection open, as it is for the others.
        await self.spec.blobs.delete((await self.spec.blobs.put(b"first")).file_id)

    async def close(self) -> None:
        await self.spec.aclose()

    def versions(self) -> dict[str, str]:
        return distributions("specstar", *self.setting.get("distributions", ()))

    async def measure_blob_put(self, callers: int, seconds: float) -> Sample:
        """From a path, hashed and durable."""
        with LargeFile(self.folder, self.setting["blob_bytes"]) as source:
            stored: list[str] = []

            async def call() -> None:
                stored.append((await self.spec.blobs.put(source.path)).file_id)

            async def after() -> None:
                await self.spec.blobs.delete(stored.pop())
                source.renew()

            return await timed(call, after, seconds, source.size)

    async def measure_blob_get(self, callers: int, seconds: float) -> Sample:
        """Into a file."""

        async def save(file_id: str, target: Path) -> None:
            await self.spec.blobs.save(file_id, target)

        return await self._get(save, seconds)

    async def measure_blob_stream(self, callers: int, seconds: float) -> Sample:
        """Chunk by chunk, each written to a file by the caller."""

        async def stream(file_id: str, target: Path) -> None:
            with target.open("wb", buffering=0) as file:
                async with self.spec.blobs.open(file_id) as chunks:
                    async for chunk in chunks:
                        await asyncio.to_thread(file.write, chunk)

        return await self._get(stream, seconds)

    async def _get(self, get: Callable[[str, Path], Awaitable[None]], seconds: float) -> Sample:
        with LargeFile(self.folder, self.setting["blob_bytes"]) as source:
            file_id = (await self.spec.blobs.put(source.path)).file_id
            target = self.folder / "copy"

            async def call() -> None:
                await get(file_id, target)

            async def after() -> None:
                if target.stat().st_size != source.size:
                    raise RuntimeError(f"{target.stat().st_size} bytes instead of {source.size}")
                target.unlink()

            sample = await timed(call, after, seconds, source.size)
            await self.spec.blobs.delete(file_id)
            return sample
