"""Periodic jobs by a clock that is set, and with a queue that is away."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from specstar.errors import BackendUnavailable, NotConfiguredError
from specstar.message_queue import ticks
from specstar.message_queue.cron import Cron
from specstar.message_queue.schedule import Every, Schedule
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

    schedule: Schedule = Every(0.01)

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


async def run(clock: Clock, queue: Any, every: float | Schedule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticks, "time", clock)
    monkeypatch.setattr(ticks, "anyio", clock)
    queue.schedule = every if isinstance(every, Schedule) else Every(every)
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
    assert queue.taken == [(10, 1070.0), (11, 1100.0)]


async def test_a_process_that_was_stopped_sends_the_tick_of_now_and_not_those_before(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Other workers have run these, and `forget_after` may have erased that."""
    clock = Clock(3_650.0, sets={1: 8 * 3_600.0})
    queue = Queue(clock, 3)
    await run(clock, queue, 60.0, monkeypatch)
    assert queue.taken == [(541, 32_460.0), (542, 32_520.0), (543, 32_580.0)]
    assert caplog.records == []


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


# Mondays to Fridays: 3 November 2026 is a Tuesday.
SIX = Cron("0 6 * * mon-fri", "Europe/Berlin")


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


async def test_each_time_of_a_cron_expression_is_a_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(seconds("2026-11-05T12:00:00+01:00"))
    queue = Queue(clock, 3)
    await run(clock, queue, SIX, monkeypatch)
    due = [seconds(f"2026-11-{day}T06:00:00+01:00") for day in ("06", "09", "10")]
    assert queue.taken == [(moment, moment) for moment in due]


async def test_a_tick_in_a_year_is_waited_for_a_minute_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    longest: list[float] = []

    class Slow(Clock):
        async def sleep(self, seconds: float) -> None:
            longest.append(seconds)
            # A machine that is suspended for a month in each of them.
            await super().sleep(seconds + 2_600_000)

    clock = Slow(seconds("2026-01-01T00:00:00Z"))
    queue = Queue(clock, 1)
    await run(clock, queue, Cron("0 0 1 1 *", "UTC"), monkeypatch)
    ((tick, moment),) = queue.taken
    assert tick == seconds("2027-01-01T00:00:00Z")
    assert tick <= moment <= tick + 2_600_060
    assert max(longest) == 60.0


async def test_a_cron_tick_after_the_clock_was_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(seconds("2026-11-05T12:00:00+01:00"), sets={1: -86_400.0 * 2})
    queue = Queue(clock, 2)
    await run(clock, queue, SIX, monkeypatch)
    due = [seconds(f"2026-11-{day}T06:00:00+01:00") for day in ("04", "05")]
    assert queue.taken == [(moment, moment) for moment in due]


async def test_a_clock_that_is_set_back_a_little_gives_no_tick_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(seconds("2026-11-05T04:59:30Z"), sets={2: -60.5})
    queue = Queue(clock, 2)
    await run(clock, queue, Cron("* * * * *", "UTC"), monkeypatch)
    first = seconds("2026-11-05T05:00:00Z")
    assert [tick for tick, _ in queue.taken] == [first, first + 60]


@pytest.mark.parametrize("schedule", [Every(86_400), Cron("0 0 * * *", "UTC")])
async def test_a_tick_that_is_to_come_once_more_is_not_tried_until_then(
    monkeypatch: pytest.MonkeyPatch, schedule: Schedule
) -> None:
    """The clock was set back by days while the queue was away."""
    asked: list[float] = []

    class Away(Queue):
        async def enqueue(self, number: int, *, look: Look = Look.first) -> bool:
            asked.append(schedule.moment(number))
            if len(asked) == 3:
                raise Done
            raise BackendUnavailable("away", role="mq", backend="rabbitmq")

    clock = Clock(seconds("2026-11-05T23:59:30Z"), sets={2: -86_400.0 * 3})
    await run(clock, Away(clock, 9), schedule, monkeypatch)
    assert asked == [seconds(f"2026-11-{day}T00:00:00Z") for day in ("06", "06", "04")]


async def test_a_clock_that_is_set_forward_leaves_out_the_cron_ticks_between(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(seconds("2026-11-05T05:59:30+01:00"), sets={1: 86_400.0 * 30})
    queue = Queue(clock, 2)
    await run(clock, queue, SIX, monkeypatch)
    assert [tick for tick, _ in queue.taken] == [
        seconds("2026-12-04T06:00:00+01:00"),
        seconds("2026-12-07T06:00:00+01:00"),
    ]


async def test_a_cron_tick_gives_way_to_the_next_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = seconds("2026-11-05T05:59:30Z")
    clock = Clock(start)
    queue = Queue(clock, 2, fails=lambda now: now < start + 1_000)
    await run(clock, queue, Cron("0,5,15 6 * * *", "UTC"), monkeypatch)
    assert [tick for tick, _ in queue.taken] == [
        seconds("2026-11-05T06:15:00Z"),
        seconds("2026-11-06T06:00:00Z"),
    ]
    assert [record.getMessage() for record in caplog.records] == [
        "jobs 'mails': the tick of cron '0,5,15 6 * * *' in UTC is not enqueued yet: mq on rabbitmq: away",
        "jobs 'mails': 2 ticks of cron '0,5,15 6 * * *' in UTC were left out",
    ]


async def test_a_cron_tick_that_fails_while_the_machine_is_suspended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = seconds("2026-11-05T05:59:30+01:00")
    clock = Clock(start, sets={2: 86_400.0 * 365})
    queue = Queue(clock, 1, fails=lambda now: now < start + 86_400)
    await run(clock, queue, Cron("* * * * *", "UTC"), monkeypatch)
    ((tick, moment),) = queue.taken
    assert tick == moment // 60 * 60
    assert caplog.records[-1].getMessage().startswith("jobs 'mails': the tick of cron")


@pytest.mark.parametrize(("expression", "looks"), [("0 6 * * *", 2), ("* * * * * *", 1)])
async def test_a_cron_tick_of_another_worker_is_looked_at_again_once_after_two_seconds(
    monkeypatch: pytest.MonkeyPatch, expression: str, looks: int
) -> None:
    asked: list[tuple[float, Look]] = []

    class Others(Queue):
        async def enqueue(self, number: int, *, look: Look = Look.first) -> bool:
            asked.append((self.clock.now - number, look))
            if len(asked) > looks:
                raise Done
            return look is not Look.first

    clock = Clock(seconds("2026-11-05T05:59:30Z"))
    await run(clock, Others(clock, 9), Cron(expression, "UTC"), monkeypatch)
    assert asked == [*[(0.0, Look.first), (2.0, Look.after_another)][:looks], (0.0, Look.first)]


async def test_ticks_end_with_the_configuration() -> None:
    class Gone(Queue):
        async def enqueue(self, number: int, *, look: Look = Look.first) -> bool:
            raise NotConfiguredError("no mq")

    queue: Any = Gone(Clock(0.0), 1)
    await enqueue_ticks(queue)
