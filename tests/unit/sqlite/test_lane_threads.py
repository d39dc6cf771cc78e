"""The threads of a lane: order, errors, cancellation, and their end."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator

import anyio
import pytest

from specstar.backends.sqlite.lane_threads import LaneThreads
from specstar.errors import BackendUnavailable
from specstar.runtime import Gate


@pytest.fixture
async def gate(anyio_backend: object) -> AsyncIterator[Gate]:
    gate = Gate()
    yield gate
    await gate.aclose()


def running(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


async def test_jobs_run_in_one_thread_in_their_order(gate: Gate) -> None:
    lane = LaneThreads(gate.settle(), "one-lane", 1)
    assert running("one-lane") == 0
    done: list[tuple[int, int]] = []

    def note(number: int) -> None:
        done.append((number, threading.get_ident()))

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(lane.run, note, number)
    assert sorted(number for number, _ in done) == list(range(20))
    assert len({ident for _, ident in done}) == 1 == running("one-lane")
    lane.end(5)
    assert running("one-lane") == 0
    with pytest.raises(BackendUnavailable, match="closed"):
        await lane.run(note, 0)


async def test_jobs_share_as_many_threads_as_there_may_be(gate: Gate) -> None:
    lane = LaneThreads(gate.settle(), "two-lanes", 2)
    together = threading.Barrier(2)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(lane.run, lambda _: together.wait(5), None)
    assert running("two-lanes") == 2
    lane.end(5)


async def test_an_error_reaches_the_caller_and_the_thread_goes_on(gate: Gate) -> None:
    lane = LaneThreads(gate.settle(), "lane", 1)

    def fail(message: str) -> None:
        raise ValueError(message)

    with pytest.raises(ValueError, match="no such thing"):
        await lane.run(fail, "no such thing")
    assert await lane.run(str, 5) == "5"
    lane.end(5)


async def test_a_cancelled_caller_waits_for_the_thread(gate: Gate) -> None:
    lane = LaneThreads(gate.settle(), "lane", 1)
    begun, over = threading.Event(), threading.Event()

    def work(_: None) -> None:
        begun.set()
        time.sleep(0.05)
        over.set()

    async with anyio.create_task_group() as group:
        group.start_soon(lane.run, work, None)
        while not begun.is_set():  # noqa: ASYNC110  another thread sets it
            await anyio.sleep(0.001)
        group.cancel_scope.cancel()
    assert over.is_set()
    assert await lane.run(str, 5) == "5"
    lane.end(5)


async def test_what_has_not_begun_is_taken_back(gate: Gate) -> None:
    lane = LaneThreads(gate.settle(), "lane", 1)
    begun, go_on, done = threading.Event(), threading.Event(), list[int]()

    def work(_: None) -> None:
        begun.set()
        go_on.wait(5)

    async with anyio.create_task_group() as group:
        group.start_soon(lane.run, work, None)
        while not begun.is_set():  # noqa: ASYNC110  another thread sets it
            await anyio.sleep(0.001)
        with anyio.move_on_after(0.01):
            await lane.run(done.append, 1)
        go_on.set()
    await lane.run(done.append, 2)
    assert done == [2]
    lane.end(5)
