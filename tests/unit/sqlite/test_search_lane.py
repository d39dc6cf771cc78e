"""Searches: one batch at a time while they are quick; nobody waits behind one that is slow."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from specstar.backends.sqlite import search_lane
from specstar.backends.sqlite.database import Database
from specstar.backends.sqlite.database_file import DatabaseFile
from specstar.backends.sqlite.search_lane import SearchLane
from specstar.runtime import Gate

READERS = 3


class Search:
    """Counts how many run at the same time. With `until` it takes as long as that is not set."""

    running = most = 0
    lock = threading.Lock()

    def __init__(self, until: threading.Event | None = None) -> None:
        self.until = until

    def run(self, database: Database) -> int:
        with self.lock:
            Search.running += 1
            Search.most = max(Search.most, Search.running)
        if self.until is not None:
            assert self.until.wait(20)
        database.execute("SELECT 1")
        with self.lock:
            Search.running -= 1
        return threading.get_ident()


@pytest.fixture
async def lane(tmp_path: Path, anyio_backend: object) -> AsyncIterator[SearchLane]:
    Search.running = Search.most = 0
    file = DatabaseFile(str(tmp_path / "x.sqlite3"), readers=READERS, busy_timeout=5)
    file.open()
    gate = Gate()
    lane = SearchLane(gate.settle(), file)
    yield lane
    await lane.batcher.drain(5)
    lane.end(5)
    file.close()
    await gate.aclose()


async def test_quick_ones_have_one_thread(lane: SearchLane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_lane, "_SLOW_SECONDS", 20)  # nothing is slow, however busy the machine is
    threads: set[int] = set()

    async def caller() -> None:
        for _ in range(20):
            threads.add(await lane.search(Search()))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for _ in range(64):
                group.start_soon(caller)
    assert Search.most == 1
    assert len(threads) == 1


@pytest.mark.parametrize("slow", range(1, READERS))
async def test_slow_ones_leave_a_way_to_the_others(lane: SearchLane, slow: int) -> None:
    go_on = threading.Event()
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for _ in range(slow):
                group.start_soon(lane.search, Search(go_on))
                await anyio.sleep(0.05)
            try:
                async with anyio.create_task_group() as quick:
                    # All at once: nobody comes later to notice.
                    for _ in range(100):
                        quick.start_soon(lane.search, Search())
            finally:
                go_on.set()
    assert Search.most == slow + 1


async def test_more_slow_ones_than_threads_wait_for_each_other(lane: SearchLane) -> None:
    go_on = threading.Event()
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for _ in range(READERS + 2):
                group.start_soon(lane.search, Search(go_on))
                await anyio.sleep(0.05)
            group.start_soon(lane.search, Search())
            assert Search.running == READERS
            go_on.set()
    assert Search.most == READERS


class Endless:
    """Takes an hour, if nobody stops it."""

    def __init__(self) -> None:
        self.begun = threading.Event()

    def run(self, database: Database) -> None:
        self.begun.set()
        counting = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n LIMIT 1"
        database.execute(counting)


@pytest.mark.parametrize("callers", [1, READERS, READERS + 1])
async def test_what_nobody_waits_for_any_more_ends(lane: SearchLane, callers: int) -> None:
    """Also those behind it in its batch get their turn, and those that had not begun never do."""
    endless = [Endless() for _ in range(callers)]
    answers: list[int] = []

    async def neighbour() -> None:
        answers.append(await lane.search(Search()))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as others, anyio.create_task_group() as group:
            for each in endless:
                group.start_soon(lane.search, each)
                # Only a lone one shares its batch with the neighbour.
                if callers > 1:
                    await anyio.sleep(0.05)
            others.start_soon(neighbour)
            while sum(each.begun.is_set() for each in endless) < min(callers, READERS):  # noqa: ASYNC110  in threads
                await anyio.sleep(0.01)
            group.cancel_scope.cancel()
        assert await lane.batcher.drain(10)
        await lane.search(Search())
    assert len(answers) == 1
