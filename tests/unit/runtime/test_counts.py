"""Batches are counted: calls, requests, errors, what waits; also those of batchers that are gone."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence

import pytest

from specstar.errors import BackendUnavailable
from specstar.runtime import Batcher
from specstar.runtime.home import AsyncioHome


class Store:
    """Answers once it is let go: with an error for odd numbers."""

    def __init__(self) -> None:
        self.home = AsyncioHome(asyncio.get_running_loop())
        self.go = asyncio.Event()

    def batcher(self, name: str = "reads") -> Batcher[int, int]:
        return Batcher(self.home, self.flush, name=name, max_in_flight=1)

    async def flush(self, items: list[int]) -> Sequence[int | Exception]:
        await self.go.wait()
        if items == [13]:
            raise BackendUnavailable("away")
        return [ValueError(str(item)) if item % 2 else item for item in items]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_calls_requests_and_errors_are_counted() -> None:
    store = Store()
    batcher = store.batcher()
    calls = [asyncio.create_task(batcher.submit(0))]
    await asyncio.sleep(0.01)
    calls += [asyncio.create_task(batcher.submit(number)) for number in range(1, 11)]
    await asyncio.sleep(0.01)
    counts, waiting = store.home.batches.read()["reads"]
    assert (counts.calls, counts.requests, counts.failed, waiting) == (1, 1, 0, 10)
    store.go.set()
    await asyncio.gather(*calls, return_exceptions=True)
    with pytest.raises(BackendUnavailable):
        await batcher.submit(13)
    counts, waiting = store.home.batches.read()["reads"]
    assert (counts.calls, counts.requests, counts.failed, waiting) == (12, 3, 6, 0)
    assert counts.took.seconds > 0
    assert sum(counts.took.counts) == 3
    # The ten waited while the first was on its way.
    assert counts.waited > 0


async def test_what_others_of_the_name_have_counted_is_added_up_and_kept() -> None:
    store = Store()
    store.go.set()
    for _ in range(200):
        await store.batcher().submit(2)
    other = store.batcher("writes")
    await other.submit(4)
    gc.collect()
    kept = store.batcher()
    assert {name: counts.calls for name, (counts, _) in store.home.batches.read().items()} == {
        "reads": 200,
        "writes": 1,
    }
    await kept.submit(6)
    assert store.home.batches.read()["reads"][0].calls == 201
    assert len(store.home.batches._living) <= 65


async def test_a_forked_child_begins_with_nothing() -> None:
    store = Store()
    store.go.set()
    gone, batcher = store.batcher("gone"), store.batcher()
    await gone.submit(2)
    await batcher.submit(2)
    del gone
    gc.collect()
    store.go.clear()
    calls = [asyncio.create_task(batcher.submit(number)) for number in (2, 4)]
    await asyncio.sleep(0.01)
    store.home.batches.after_fork()
    # Not the two that wait in the parent either.
    assert store.home.batches.read() == {}
    store.go.set()
    await asyncio.gather(*calls)
    own = store.batcher()
    await own.submit(2)
    assert store.home.batches.read()["reads"][0].calls == 1


async def test_what_waits_for_another_of_its_key_waits_too() -> None:
    store = Store()
    batcher = Batcher(store.home, store.flush, name="writes", max_in_flight=1, key_of=lambda number: number % 2)
    calls = [asyncio.create_task(batcher.submit(2)) for _ in range(5)]
    await asyncio.sleep(0.01)
    assert store.home.batches.read()["writes"][1] == 4
    calls[2].cancel()
    store.go.set()
    await asyncio.gather(*calls, return_exceptions=True)
    assert store.home.batches.read()["writes"][1] == 0
