"""Ten thousand calls in flight over two connections to a slow server: bounded memory and time, and nobody starves."""

from __future__ import annotations

import asyncio
import gc
import resource
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from specstar import QB
from specstar.errors import BackendUnavailable, OutcomeUnknownError
from specstar.resource_manager import ResourceManager
from tests.faults.ledger import Figures, fault_count
from tests.faults.tools.managed_load import Entry
from tests.faults.tools.postgres_program import CALL_LIMIT, program
from tests.faults.tools.tcp_proxy import TcpProxy

pytestmark = pytest.mark.timeout(600)

CALLS = 10_000
MIB = 1 << 20
# What a caller costs that waits: its task, its data, its place in a batch.
MEMORY_OF_CALLS = 150 * MIB
DELAY = 0.05
SHORT: dict[str, Any] = {
    "acquire_timeout_seconds": 0.6,
    "connect_timeout_seconds": 0.3,
    "command_timeout_seconds": 0.25,
}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class Memory:
    """The most that this process grew, sampled."""

    def __init__(self) -> None:
        gc.collect()
        self._before = _resident_bytes()
        self.growth = 0

    def look(self) -> None:
        self.growth = max(self.growth, _resident_bytes() - self._before)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def outcomes_of(calls: list[Awaitable[Any]], figures: Figures, memory: Memory) -> Counter[str]:
    """Await all at once; how they ended."""
    ends: Counter[str] = Counter()

    async def one(call: Awaitable[Any]) -> None:
        try:
            with figures.stall():
                await call
            ends["done"] += 1
            figures.acknowledged += 1
        except (BackendUnavailable, OutcomeUnknownError) as error:
            ends[type(error).__name__] += 1

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(call)) for call in calls]
        while not all(task.done() for task in tasks):
            memory.look()
            await asyncio.sleep(0.1)
    return ends


async def small_reads(users: ResourceManager[Entry], stop: asyncio.Event) -> list[float]:
    """How long each of a row of single reads took, beside the crowd."""
    taken = []
    while not stop.is_set():
        begun = time.monotonic()
        assert (await users.get("small")).data.op == "small"
        taken.append(time.monotonic() - begun)
        await asyncio.sleep(0.05)
    return taken


# What travels in batches, and what does not.
CROWDS: dict[str, Callable[[ResourceManager[Entry], int], Awaitable[Any]]] = {
    "creates": lambda users, number: users.create(Entry(1, f"{number}"), resource_id=f"new-{number}"),
    "searches": lambda users, number: users.search(QB["caller"] == number, limit=5),
    "reads": lambda users, number: users.get(f"old-{number % 1000}"),
    "updates of a few": lambda users, number: users.update(f"old-{number % 1000}", Entry(2, f"{number}")),
    "counts": lambda users, number: users.count(QB["caller"] == number),
    "reads of many": lambda users, number: users.get_many([f"old-{number % 1000}", "small"]),
    "revisions": lambda users, number: users.list_revisions(f"old-{number % 1000}"),
}


@pytest.mark.parametrize("crowd", list(CROWDS)[: fault_count(2)])
async def test_ten_thousand_calls(postgres_database: str, figures: Figures, crowd: str) -> None:
    figures.name = f"load: {CALLS:,} calls, a pool of two, a slow server"
    async with (
        TcpProxy.before(postgres_database) as proxy,
        program(
            proxy.url_of(postgres_database), pool_max_size=2, acquire_timeout_seconds=2.5, command_timeout_seconds=10.0
        ) as users,
        program(postgres_database) as near,
    ):
        await near.create_many([Entry(0, f"{n}") for n in range(1000)], resource_ids=[f"old-{n}" for n in range(1000)])
        await users.create(Entry(0, "small"), resource_id="small")
        proxy.answers.delay = DELAY
        stop, memory = asyncio.Event(), Memory()
        reading = asyncio.create_task(small_reads(users, stop))
        ends = await outcomes_of([CROWDS[crowd](users, number) for number in range(CALLS)], figures, memory)
        stop.set()
        taken = await reading
        figures.faults += 1
        assert sum(ends.values()) == CALLS
        assert len(taken) > 2, "small reads waited for the crowd"
        assert memory.growth < MEMORY_OF_CALLS, f"{memory.growth / MIB:.0f} MiB"
        assert figures.longest_stall < 75, "no call may wait longer than it takes to be refused"
        proxy.heal()
        await users.get("small")  # it has not collapsed: that would be refused after acquire_timeout_seconds
        print(crowd, dict(ends), f"small read {max(taken):.2f} s", f"{memory.growth / MIB:.0f} MiB")


async def test_ten_thousand_calls_against_silence(postgres_database: str, figures: Figures) -> None:
    """The server says nothing more: every call ends, within the limits, and the memory of the crowd is given back."""
    figures.name = f"load: {CALLS:,} calls, a silent server"
    async with (
        TcpProxy.before(postgres_database) as proxy,
        program(proxy.url_of(postgres_database), pool_max_size=2, **SHORT) as users,
    ):
        await users.create(Entry(0, "small"), resource_id="small")
        proxy.swallow()
        memory = Memory()
        begun = time.monotonic()
        creates = [users.create(Entry(1, f"{number}")) for number in range(CALLS // 2)]
        reads = [users.get("small") for _ in range(CALLS // 2)]
        ends = await outcomes_of([*creates, *reads], figures, memory)
        figures.faults += 1
        assert ends["done"] == 0
        assert sum(ends.values()) == CALLS
        assert time.monotonic() - begun < 60 + CALL_LIMIT
        assert memory.growth < MEMORY_OF_CALLS
        await proxy.cut()
        proxy.heal()
        with figures.stall():
            await users.get("small")
        print(dict(ends), f"{time.monotonic() - begun:.1f} s", f"{memory.growth / MIB:.0f} MiB")
