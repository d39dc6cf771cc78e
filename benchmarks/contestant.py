"""A contestant: one way of doing some operations. It runs in any interpreter, so this module needs the standard library only."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import time
from array import array
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar, Literal, TypedDict

__all__ = ["Contestant", "Sample", "rate_of"]

_WARM_UP_SECONDS = 0.15


class Sample(TypedDict, total=False):
    """One measurement. `value` is in the unit of its case; latencies are in milliseconds, memory in MiB above idle."""

    value: float
    calls: int
    p50: float
    p99: float
    memory: float


class Contestant:
    """Base of all contestants.

    An operation is either a method of its name, called over and over by each caller with the caller's number, or a method
    `measure_<operation>(callers, seconds)` that returns a `Sample` by itself. `setting` has the payload size in bytes,
    a folder of its own, and where the servers are.
    """

    loop: ClassVar[Literal["asyncio", "trio", "blocking"]] = "asyncio"
    """Whose callers it serves: `blocking` methods are plain and called from threads."""

    max_callers: ClassVar[int | None] = None
    """At most so many callers at a time, for what serves one thread only."""

    def __init__(self, setting: dict[str, Any]) -> None:
        self.setting = setting
        self.payload: int = setting["payload"]
        self.count = itertools.count().__next__
        self._warm: set[str] = set()

    def start(self) -> None:
        """Called once, outside any event loop."""

    async def open(self) -> None:
        """Called once, on the event loop."""

    async def close(self) -> None:
        """Called at the end."""

    def versions(self) -> dict[str, str]:
        """The distributions it measures, with their versions."""
        return {}

    async def measure(self, operation: str, callers: int, seconds: float) -> Sample:
        """Measure one operation, after a warm-up when it is the first time."""
        whole = getattr(self, f"measure_{operation}", None)
        prepare = getattr(self, f"prepare_{operation}", None)
        if prepare is not None:
            await prepare()
        if whole is not None:
            sample: Sample = await whole(callers, seconds)
            return sample
        call = getattr(self, operation)
        callers = min(callers, self.max_callers or callers)
        drive = {"asyncio": drive_asyncio, "trio": drive_trio, "blocking": drive_threads}[self.loop]
        key = f"{operation} {callers}"
        if key not in self._warm:
            self._warm.add(key)
            await drive(call, callers, min(_WARM_UP_SECONDS, seconds))
        gc.collect()
        return await drive(call, callers, seconds)


async def drive_asyncio(call: Callable[[int], Awaitable[Any]], callers: int, seconds: float) -> Sample:
    """Callers as tasks of this loop, each with one call under way at a time."""
    latencies = array("d")
    clock = time.perf_counter
    started = clock()
    deadline = started + seconds

    async def caller(number: int) -> None:
        before = clock()
        while True:
            await call(number)
            after = clock()
            latencies.append(after - before)
            if after >= deadline:
                return
            before = after

    async with asyncio.TaskGroup() as group:
        for number in range(callers):
            group.create_task(caller(number))
    return rate_of(latencies, clock() - started)


async def drive_trio(call: Callable[[int], Awaitable[Any]], callers: int, seconds: float) -> Sample:
    """The same as tasks of a trio nursery."""
    import trio

    latencies = array("d")
    clock = time.perf_counter
    started = clock()
    deadline = started + seconds

    async def caller(number: int) -> None:
        before = clock()
        while True:
            await call(number)
            after = clock()
            latencies.append(after - before)
            if after >= deadline:
                return
            before = after

    async with trio.open_nursery() as nursery:
        for number in range(callers):
            nursery.start_soon(caller, number)
    return rate_of(latencies, clock() - started)


async def drive_threads(call: Callable[[int], Any], callers: int, seconds: float) -> Sample:
    """Callers as threads; a single one is the thread that asks."""
    return run_threads(call, callers, seconds)


def run_threads(call: Callable[[int], Any], callers: int, seconds: float) -> Sample:
    """The same, for those outside an event loop."""
    latencies = [array("d") for _ in range(callers)]
    errors: list[BaseException] = []
    clock = time.perf_counter
    started = clock()
    deadline = started + seconds

    def caller(number: int) -> None:
        mine = latencies[number]
        before = clock()
        try:
            while True:
                call(number)
                after = clock()
                mine.append(after - before)
                if after >= deadline:
                    return
                before = after
        except BaseException as error:
            errors.append(error)

    if callers == 1:
        caller(0)
    else:
        threads = [threading.Thread(target=caller, args=(number,)) for number in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    elapsed = clock() - started
    if errors:
        raise errors[0]
    every = array("d")
    for mine in latencies:
        every.extend(mine)
    return rate_of(every, elapsed)


def rate_of(latencies: array[float], elapsed: float) -> Sample:
    """Calls a second, and the latencies that half and 99 % of the calls stayed under."""
    ordered = sorted(latencies)
    if not ordered:
        raise RuntimeError("not one call was made")
    return {
        "value": len(ordered) / elapsed,
        "calls": len(ordered),
        "p50": ordered[len(ordered) // 2] * 1e3,
        "p99": ordered[len(ordered) * 99 // 100] * 1e3,
    }


def distributions(*names: str) -> dict[str, str]:
    """The installed versions of these distributions."""
    from importlib.metadata import version

    return {name: version(name) for name in names}


Measure = Callable[[int, float], Coroutine[Any, Any, Sample]]
