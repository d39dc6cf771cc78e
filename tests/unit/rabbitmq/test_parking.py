"""While the dead letters take nothing: what is on its way there waits, ever longer, and one at a time tries again."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest

from specstar.backends.rabbitmq.faults import NotTakenError
from specstar.backends.rabbitmq.letter_headers import reason_headers
from specstar.backends.rabbitmq.parking import Parking
from specstar.errors import BackendError

WHY = reason_headers("why\nit failed")


@pytest.fixture
def anyio_backend() -> str:
    """The driver is for asyncio alone."""
    return "asyncio"


class ScriptedQueue:
    """The queue of a job whose dead letters, or whose delay queues too, take nothing for now."""

    name = "mail"

    def __init__(self) -> None:
        self.full = True
        self.nowhere = False
        self.tried = 0
        self.dead: list[bytes] = []
        self.put_off: list[tuple[bytes, float]] = []
        self.replaced = 0

    async def send_dead(self, body: bytes, headers: dict[str, Any]) -> None:
        self.tried += 1
        await asyncio.sleep(0)
        if self.full:
            raise NotTakenError("mail:dead")
        self.dead.append(body)

    async def put_aside(self, body: bytes, headers: dict[str, Any], delay: float) -> None:
        assert headers == WHY
        if self.nowhere:
            raise NotTakenError("mail:aside:1000")
        self.put_off.append((body, delay))

    def replace_publisher(self) -> None:
        self.replaced += 1


@pytest.fixture
async def clock() -> SimpleNamespace:
    return SimpleNamespace(now=0.0)


@pytest.fixture
async def queue() -> ScriptedQueue:
    return ScriptedQueue()


@pytest.fixture
async def parking(queue: ScriptedQueue, clock: SimpleNamespace) -> Parking:
    parking = Parking(cast("Any", queue))
    parking._loop = cast("Any", SimpleNamespace(time=lambda: clock.now))
    return parking


async def test_the_dead_letters_are_left_alone_ever_longer(
    queue: ScriptedQueue, parking: Parking, clock: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    rests = []
    for _ in range(8):
        tried = queue.tried
        await parking.park("mail", b"tries", WHY)
        assert queue.tried == tried + 1
        await parking.park("mail", b"waits with it", WHY)
        assert queue.tried == tried + 1
        assert queue.put_off[-2][1] == queue.put_off[-1][1]
        rests.append(queue.put_off[-1][1])
        clock.now += rests[-1]
    assert rests == [1, 2, 4, 8, 16, 32, 60, 60]
    assert len(queue.put_off) == 16
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert caplog.text.endswith("one of them: why\\nit failed\n")
    queue.full = False
    for number in range(3):
        await parking.park("mail:part:1", b"%d" % number, WHY)
    assert queue.dead == [b"0", b"1", b"2"]
    assert caplog.text.count("take messages again") == 1


async def test_one_at_a_time_finds_out_whether_they_take_messages_again(
    queue: ScriptedQueue, parking: Parking, clock: SimpleNamespace
) -> None:
    await parking.park("mail", b"first", WHY)
    clock.now += 1
    queue.full = False
    await asyncio.gather(*[parking.park("mail", b"%d" % number, WHY) for number in range(5)])
    assert (queue.tried, queue.dead) == (2, [b"0"])
    await asyncio.gather(*[parking.park("mail", body, WHY) for body, _ in queue.put_off])
    assert sorted(queue.dead) == [b"0", b"1", b"2", b"3", b"4", b"first"]


async def test_what_neither_takes_is_told_to_the_caller(queue: ScriptedQueue, parking: Parking) -> None:
    queue.nowhere = True
    with pytest.raises(BackendError, match="aside"):
        await parking.park("mail", b"", WHY)


async def test_whoever_tries_may_be_cancelled(queue: ScriptedQueue, parking: Parking, clock: SimpleNamespace) -> None:
    await parking.park("mail", b"first", WHY)
    clock.now += 1
    task = asyncio.create_task(parking.park("mail", b"", WHY))
    while queue.tried < 2:  # noqa: ASYNC110  one turn of the loop
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    queue.full = False
    await parking.park("mail", b"next", WHY)
    assert queue.dead == [b"next"]
