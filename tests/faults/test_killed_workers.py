"""Workers killed in the middle of a handler, between handler and state, between state and ack, or at any moment: every
confirmed job runs to its end, and is counted."""

from __future__ import annotations

import asyncio
import math
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from specstar import SpecStar
from specstar.message_queue import JobQueue
from tests.faults.ledger import Figures, fault_count
from tests.faults.tools.kill_points import POINTS
from tests.faults.tools.stores import disk_backend, postgres_backend
from tests.faults.tools.victims import Victim, victims
from tests.faults.tools.worked import Worked
from tests.faults.tools.working import Duty, Task, declared, work

_JOBS_OF_A_WORKER = 25
_STORED = ["job taken, not marked", "job marked, handler not begun", "handler done, no state", "state there, no ack"]
_SENT = ["retry sent, no ack"]
_FINISH_SECONDS = 90.0


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class _Slot:
    """A place for one worker at a time.

    `deadline`: when its worker is killed, unless it died by itself before; `patience` seconds after its first job began.
    """

    def __init__(self) -> None:
        self.victim: Victim | None = None
        self.deadline: float | None = None
        self.patience = math.inf
        self.killed: float | None = None


class _Loop:
    """Workers that die, and others that take their place."""

    def __init__(self, figures: Figures, backend: dict[str, Any], points: list[str]) -> None:
        self.seed = int(os.environ.get("SPECSTAR_FAULTS_SEED") or random.SystemRandom().getrandbits(32))
        self.random = random.Random(self.seed)
        self.figures = figures
        self.worked = Worked(figures, self.seed)
        self.backend = backend
        self.points = points
        self.sent = 0
        self.codes: list[int] = []

    async def run(self, kills: int, *, slots: int) -> None:
        places = [_Slot() for _ in range(slots)]
        with victims() as start:
            while self.figures.faults < kills:
                for place in places:
                    if place.victim is None:
                        self._hire(start, place, deadly=True)
                await asyncio.sleep(0.01)
                for place in places:
                    await self._bury(place)
            await self._finish(start, places)
        await self._judge()

    def _hire(self, start: Callable[..., Victim], place: _Slot, *, deadly: bool) -> None:
        first = self.sent
        self.sent += _JOBS_OF_A_WORKER * deadly
        duty = Duty(
            backend=self.backend,
            seed=self.seed,
            numbers=(first, self.sent),
            loop=self.random.choice(["asyncio", "trio"]),
            kills=0.02,
            fails=0.1,
            die_at=self.random.choice(self.points) if deadly else "",
            die_after=self.random.randrange(12),
        )
        place.victim = start(work, msgspec.msgpack.encode(duty))
        place.killed, place.deadline = None, None
        place.patience = self.random.uniform(0.01, 0.8) if deadly else math.inf
        if deadly and self.random.random() < 0.2:
            # Perhaps before it works at all.
            place.deadline = time.monotonic() + place.patience

    async def _bury(self, place: _Slot) -> None:
        """Kill a worker whose time has come, and take note of one that is gone."""
        victim = place.victim
        assert victim is not None
        if place.deadline is None and any(record[0] == "begin" for record in victim.records):
            place.deadline = time.monotonic() + place.patience
        if place.deadline is not None and time.monotonic() >= place.deadline and place.killed is None:
            place.killed = victim.kill()
        if not victim.ended.is_set():
            return
        code = await asyncio.to_thread(victim.end)
        assert code == -9, f"seed {self.seed}: a worker ended with {code}"
        self.figures.faults += 1
        self.worked.take(victim.pid, victim.records, place.killed)
        place.victim = None

    async def _finish(self, start: Callable[..., Victim], places: list[_Slot]) -> None:
        """Workers that nobody kills (but jobs may) do what is left; then they are stopped, in good order."""
        for place in places:
            place.deadline = place.patience = math.inf
        spec, queues = self._spec()
        limit = time.monotonic() + _FINISH_SECONDS
        async with spec:
            while True:
                for place in places:
                    if place.victim is not None:
                        await self._bury(place)
                    if place.victim is None:
                        self._hire(start, place, deadly=False)
                left = await self.worked.unfinished(queues)
                if not left:
                    break
                assert time.monotonic() < limit, (
                    f"seed {self.seed}: {len(left)} jobs are not finished: {list(left)[:3]}"
                )
                await asyncio.sleep(0.1)
        for place in places:
            victim = place.victim
            assert victim is not None
            victim.signal(signal.SIGTERM)
            code = await asyncio.to_thread(victim.end)
            # A job that nobody was told of may have killed it at this moment.
            assert code == 0 or victim.records[-1][0] == "dying", (
                f"seed {self.seed}: a drained worker ended with {code}"
            )
            self.worked.take(victim.pid, victim.records)

    async def _judge(self) -> None:
        spec, queues = self._spec()
        async with spec:
            assert await self.worked.unfinished(queues) == set()
            await self.worked.check(queues)
        interrupted = sum(not run.ended for runs in self.worked.runs.values() for run in runs)
        assert interrupted, "no worker died in the middle of a job: nothing was shown"
        assert self.figures.lost == self.figures.duplicated == 0

    def _spec(self) -> tuple[SpecStar, list[JobQueue[Task]]]:
        spec = SpecStar()
        spec.configure(backend=self.backend)
        queues = declared(spec, lambda *_: None)
        return spec, [queues["async"], queues["plain"]]


@pytest.mark.timeout(3600)
async def test_simple_with_state_on_disk(figures: Figures, tmp_path: Path) -> None:
    figures.name = "simple, state on disk: workers killed"
    backend = disk_backend(tmp_path) | {"mq": {"type": "simple", "options": {"retry_delay_seconds": 0}}}
    await _Loop(figures, backend, _STORED).run(fault_count(8), slots=1)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
async def test_rabbitmq_with_state_on_postgresql(
    figures: Figures, tmp_path: Path, postgres_database: str, amqp_url: str, queue_prefix: str, queue_type: str
) -> None:
    figures.name = "RabbitMQ, state on PostgreSQL: workers killed"
    options = {
        "amqp_url": amqp_url,
        "queue_prefix": queue_prefix,
        "retry_delay_seconds": 0,
        "queue_type": queue_type,
        "partition_shards": 4,
    }
    backend = postgres_backend(postgres_database, "", tmp_path) | {"mq": {"type": "rabbitmq", "options": options}}
    assert set(_STORED + _SENT) <= set(POINTS)
    await _Loop(figures, backend, _STORED + _SENT).run(fault_count(6, share=0.5), slots=2)
