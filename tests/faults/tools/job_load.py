"""Senders that enqueue whatever happens, workers beside them, and a record of what was confirmed and what ran."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import anyio
import msgspec

from specstar import Job, SpecStar
from specstar.errors import BackendUnavailable, SpecstarError
from specstar.message_queue import JobQueue
from tests.conformance.jobs.harness import workers
from tests.faults.ledger import Figures
from tests.faults.tools.managed_load import fresh_seed

__all__ = ["ENQUEUE_LIMIT", "JobLoad", "Work", "job_load"]

PUBLISH_SECONDS = 3.0
# Publishing, and a little for the state and a busy machine.
ENQUEUE_LIMIT = PUBLISH_SECONDS + 2.0
# How long jobs are waited for that may be lost, once all others have run.
STRAGGLER_SECONDS = 5.0
_MEMORY = {"type": "memory"}


class Work(msgspec.Struct):
    """What to do: `fails` at the first run."""

    op: str
    fails: bool = False


class JobLoad:
    """`kept` jobs have state and are sent and run by one program; `plain` ones have none and come from another.

    Every confirmed job must run to its end once or more often; a kept one not again once it has ended.
    """

    def __init__(
        self,
        figures: Figures,
        url: str,
        prefix: str,
        *,
        sender_url: str | None = None,
        state: Mapping[str, Any] = _MEMORY,
        delay_queue_type: str = "quorum",
    ) -> None:
        self.figures = figures
        self.seed = fresh_seed()
        self.chance = random.Random(self.seed)
        self.confirmed: set[str] = set()
        self.failing: set[str] = set()
        self.refused: Counter[str] = Counter()
        self.runs: Counter[str] = Counter()
        self.done: set[str] = set()
        self.strange: list[str] = []
        self.again: list[str] = []
        self.sent: dict[str, dict[str, Any]] = {}
        self.history: dict[str, list[tuple[float, int]]] = {}
        # When the broker was away, in seconds since `begun`.
        self.broken: list[tuple[float, float]] = []
        self.begun = time.monotonic()
        # Handlers wait here.
        self.gate = asyncio.Event()
        self.gate.set()
        # How long a handler that is cancelled takes to end.
        self.cleanup_seconds = 0.0
        # How long a handler takes.
        self.work_seconds = 0.0
        # The broker as the sender reaches it.
        self.broker_url = sender_url or url
        self.worker = _spec(url, prefix, state, delay_queue_type)
        self.sender = _spec(self.broker_url, prefix, _MEMORY, delay_queue_type)
        self.kept: JobQueue[Work] = self.worker.add_job(Work, self.run, name="kept", max_retries=50)
        self.plain: JobQueue[Work] = self.sender.add_job(Work, self.run, name="plain", keep_state=False, max_retries=50)
        self.worker.add_job(Work, self.run, name="plain", keep_state=False, max_retries=50)
        self._numbers = 0
        self._stopped = False

    def clock(self) -> float:
        """Seconds since the load began."""
        return round(time.monotonic() - self.begun, 2)

    async def run(self, job: Job[Work]) -> None:
        op = job.payload.op
        # One of a partition is stopped when its delivery is lost, and may have come to its last line by then.
        if op in self.done and op.startswith("kept") and job.partition_key is None:
            self.figures.duplicated += 1
            self.again.append(
                f"{op} at attempt {job.attempts}, partition {job.partition_key}, first at {self.history[op]}"
            )
        self.history.setdefault(op, []).append((self.clock(), job.attempts))
        self.runs[op] += 1
        try:
            await self.gate.wait()
            await asyncio.sleep(self.work_seconds)
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(self.cleanup_seconds)
            raise
        if job.payload.fails and self.runs[op] == 1:
            raise ValueError("once")
        self.done.add(op)

    async def enqueue(self, queue: JobQueue[Work], *, fails: bool = False, **options: Any) -> str | None:
        """Send one job, within the limit; its op if it was confirmed."""
        self._numbers += 1
        op = f"{queue.name}-{self._numbers}"
        begun = time.monotonic()
        self.sent[op] = {"at": self.clock(), "fails": fails, **options}
        try:
            with self.figures.stall():
                await queue.enqueue(Work(op, fails), **options)
        except BackendUnavailable as error:
            self.refused[str(error)[:160]] += 1
            return None
        except SpecstarError as error:
            self.strange.append(f"{op}: {type(error).__name__}: {error}")
            return None
        finally:
            if (taken := time.monotonic() - begun) > ENQUEUE_LIMIT:
                self.strange.append(f"enqueue took {taken:.1f} s")
        self.confirmed.add(op)
        if fails:
            self.failing.add(op)
        self.figures.acknowledged += 1
        return op

    @asynccontextmanager
    async def sending(self, senders: int = 8, *, delayed: float = 0.2, failing: float = 0.1) -> AsyncIterator[None]:
        """Senders go on for as long as the block lasts: plain, kept, delayed, by partition, and jobs that fail once.

        `delayed` and `failing` are the shares of jobs with a delay, and of jobs that fail once.
        """

        async def send(number: int) -> None:
            chance = random.Random(f"{self.seed}-{number}")
            while not self._stopped:
                queue = self.kept if number % 2 else self.plain
                options: dict[str, Any] = {}
                if chance.random() < delayed:
                    options["delay"] = 0.05
                if chance.random() < 0.2:
                    options["partition_key"] = f"key {chance.randrange(4)}"
                await self.enqueue(queue, fails=chance.random() < failing, **options)
                await asyncio.sleep(chance.uniform(0, 0.05))

        self._stopped = False
        async with asyncio.TaskGroup() as group:
            for number in range(senders):
                group.create_task(send(number))
            try:
                yield
            finally:
                self._stopped = True

    async def progress(self, within: float = 30.0) -> None:
        """Jobs are confirmed, and jobs of both kinds end, that were sent after now; the wait counts as a stall."""
        before = set(self.confirmed)
        with self.figures.stall():
            for queue in (self.kept, self.plain):
                prefix = f"{queue.name}-"
                await self.until(partial(self._new_ended, prefix, before), within)

    def _new_ended(self, prefix: str, before: set[str]) -> bool:
        return any(op.startswith(prefix) for op in self.done - before)

    async def finished(self, within: float = 60.0, *, may_be_lost: Callable[[str], bool] = lambda op: False) -> None:
        """All that was confirmed has run; what may be lost is waited for a little, counted, and no reason to fail."""

        def missing() -> list[str]:
            return sorted(op for op in self.confirmed - self.done if not may_be_lost(op))

        try:
            await self.until(lambda: not missing(), within)
            with suppress(AssertionError):
                await self.until(lambda: self.confirmed <= self.done, STRAGGLER_SECONDS)
        except AssertionError:
            depths = {queue.name: await queue.depth() for queue in (self.kept, self.plain)}
            raise AssertionError(
                f"{len(missing())} confirmed jobs never ended (at the broker: {depths}), such as "
                f"{[(op, self.sent[op], self.history.get(op)) for op in missing()[:5]]}; "
                f"away {self.broken} (seed {self.seed})"
            ) from None
        finally:
            self.figures.lost += len(self.confirmed - self.done)
        assert not self.figures.duplicated, f"jobs that had ended ran again: {self.again[:3]} (seed {self.seed})"
        assert not self.strange, f"{self.strange[:3]} (seed {self.seed})"

    async def until(self, condition: Callable[[], bool], within: float) -> None:
        """Wait for what jobs bring about."""
        deadline = time.monotonic() + within
        while not condition():
            assert time.monotonic() < deadline, f"not within {within:g} s (seed {self.seed}; refused {self.refused})"
            await asyncio.sleep(0.02)


def _spec(url: str, prefix: str, state: Mapping[str, Any], delay_queue_type: str) -> SpecStar:
    options = {
        "amqp_url": url,
        "queue_prefix": prefix,
        "retry_delay_seconds": 0,
        "publish_timeout_seconds": PUBLISH_SECONDS,
        "operation_timeout_seconds": 2.0,
        "connect_timeout_seconds": 2.0,
        "delay_queue_expiry_seconds": 60,
        "delay_queue_type": delay_queue_type,
        "partition_shards": 2,
    }
    spec = SpecStar()
    spec.configure(backend={"meta": state, "resource": state, "mq": {"type": "rabbitmq", "options": options}})
    return spec


@asynccontextmanager
async def job_load(
    figures: Figures,
    url: str,
    prefix: str,
    *,
    sender_url: str | None = None,
    concurrency: int = 8,
    state: Mapping[str, Any] = _MEMORY,
    delay_queue_type: str = "quorum",
) -> AsyncIterator[JobLoad]:
    """A load whose workers run; they and both programs are closed afterwards. `state`: where that of `kept` jobs is."""
    load = JobLoad(figures, url, prefix, sender_url=sender_url, state=state, delay_queue_type=delay_queue_type)
    async with load.worker, load.sender, workers(load.worker, concurrency=concurrency, drain_timeout=2.0):
        yield load
