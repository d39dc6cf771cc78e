"""How often a worker looks for jobs that others have left."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from specstar.message_queue import worker
from specstar.message_queue.worker import Worker


class LoneWorker:
    """What `_recover` asks of its worker."""

    def _looked_at(self, _queue: Any) -> None: ...


class SharedQueue:
    """What `_recover` asks of a queue."""

    name = "mails"

    def _sharing(self) -> tuple[bool, bool]:
        return True, True


@pytest.mark.parametrize(("look", "pause"), [(0.01, 30), (2, 120)])
def test_a_look_that_takes_long_is_taken_seldom(look: float, pause: float, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []

    async def recover(_queue: Any, _leases: Any) -> bool:
        looks.append(trio.current_time())
        await trio.sleep(look)
        return len(looks) == 3

    monkeypatch.setattr(worker, "recover", recover)
    lone: Any = LoneWorker()
    queue: Any = SharedQueue()
    trio.run(Worker._recover, lone, queue, clock=trio.testing.MockClock(autojump_threshold=0))
    first, second, third = looks
    assert second - first == pytest.approx(look + pause)
    assert third - second == pytest.approx(look + pause)
