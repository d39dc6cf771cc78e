"""Periodic jobs by a clock that is set, and with a queue that is away."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from specstar.errors import BackendUnavailable, NotConfiguredError
from specstar.message_queue import ticks
from specstar.message_queue.ticks import Look, enqueue_ticks


class Done(Exception):
    """Enough seen."""


class Clock:
    """Stands in for the wall clock and for sleeping: both are the same here, unless `sets` says otherwise."""

    def __init__(self, now: float, sets: dict[int, float] | None = None) -> None:
        self.now = now
        self.sleeps = 0
        self._sets = sets or {}

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.sleeps += 1
        self.now += seconds + self._sets.get(self.sleeps, 0.0)


class Queue:
    """Takes ticks, unless `fails` says otherwise, until it has `enough`."""

    name = "mails"

    every = 0.01

    def __init__(self, clock: Clock, enough: int, fails: Callable[[float], bool] = lambda now: False) -> None:
        self.clock = clock
        self.enough = enough
        self.fails = fails
        self.taken: list[tuple[int, float]] = []
        self.refused = 0

    async def enqueue(self, number: int, *, look: Look = Look.first) -> bool:
        assert look is (Look.after_failure if self.refused and not self.taken else Look.first)
        if self.fails(self.clock.now):
            self.refused += 1
            raise BackendUnavailable("away", role="mq", backend="rabbitmq")
        self.taken.append((number, self.clock.now))
        if len(self.taken) == self.enough:
            raise Done
        return True


async def run(clock: Clock, queue: Any, every: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticks, "time", clock)
    monkeypatch.setattr(ticks, "anyio", clock)
    queue.every = every
    with pytest.raises(Done):
        await enqueue_ticks(queue)


async def test_each_multiple_of_the_seconds_is_a_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(250.0)
    queue = Queue(clock, 3)
    await run(clock, queue, 100.0, monkeypatch)
    assert queue.taken == [(3, 300.0), (4, 400.0), (5, 500.0)]


async def test_a_clock_that_is_set_back_does_not_stop_the_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(1_000_010.0, sets={1: -900_000.0})
    queue = Queue(clock, 2)
    await run(clock, queue, 100.0, monkeypatch)
    assert queue.taken == [(1001, 100_100.0), (1002, 100_200.0)]


async def test_a_clock_that_is_set_forward_leaves_out_what_lies_between(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(10.0, sets={1: 1000.0})
    queue = Queue(clock, 2)
    await run(clock, queue, 100.0, monkeypatch)
    assert queue.taken == [(1, 1070.0), (11, 1100.0)]


async def test_a_tick_that_could_not_be_enqueued_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(86_000.0)
    queue = Queue(clock, 2, fails=lambda now: now < 86_400.0 + 300.0)
    await run(clock, queue, 86_400.0, monkeypatch)
    (number, moment), (following, later) = queue.taken
    assert (number, following, later) == (1, 2, 172_800.0)
    assert 86_700.0 <= moment <= 86_702.0
    assert [record.getMessage() for record in caplog.records] == [
        "jobs 'mails': the tick of 86400 s is not enqueued yet: mq on rabbitmq: away"
    ]


async def test_a_tick_gives_way_to_the_next_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    clock = Clock(5.0)
    queue = Queue(clock, 2, fails=lambda now: now < 45.0)
    await run(clock, queue, 10.0, monkeypatch)
    assert [number for number, _ in queue.taken] == [4, 5]
    assert 45.0 <= queue.taken[0][1] <= 46.0
    assert queue.refused < 25
    assert caplog.records[-1].getMessage() == "jobs 'mails': 3 ticks of 10 s were left out"


async def test_a_clock_that_is_set_back_while_the_queue_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(1005.0, sets={2: -500.0})
    queue = Queue(clock, 2, fails=lambda now: now > 1000.0)
    await run(clock, queue, 10.0, monkeypatch)
    assert queue.taken == [(101, 512.0), (52, 520.0)]


@pytest.mark.parametrize(("every", "looks"), [(10.0, 2), (1.0, 1)])
async def test_a_tick_of_another_worker_is_looked_at_again_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, every: float, looks: int
) -> None:
    """Unless the next one is due by then."""
    asked: list[tuple[int, Look]] = []

    class Others(Queue):
        async def enqueue(self, number: int, *, look: Look = Look.first) -> bool:
            asked.append((number, look))
            if number == 7:
                raise Done
            return look is not Look.first

    clock = Clock(every * 4.5)
    await run(clock, Others(clock, 9), every, monkeypatch)
    both = [Look.first, Look.after_another][:looks]
    assert asked == [*((number, look) for number in (5, 6) for look in both), (7, Look.first)]
    assert caplog.records == []


async def test_ticks_end_with_the_configuration() -> None:
    class Gone(Queue):
        async def enqueue(self, number: int, *, look: Look = Look.first) -> bool:
            raise NotConfiguredError("no mq")

    queue: Any = Gone(Clock(0.0), 1)
    await enqueue_ticks(queue)
