"""The worker: all lanes, their shared limits, the housekeeping beside them, and the drain. Lives on the home loop."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anyio

from specstar.errors import BackendUnavailable, NotConfiguredError, SpecstarError
from specstar.message_queue.attempt import Attempt, Stopped
from specstar.message_queue.burst import until_nothing_is_left
from specstar.message_queue.forgetting import forget_for_ever
from specstar.message_queue.handler_threads import HandlerThreads
from specstar.message_queue.job import JobStatus
from specstar.message_queue.lane import Lane
from specstar.message_queue.owner import living_workers, process_token
from specstar.message_queue.recovery import Leases, recover, send_lost_again
from specstar.message_queue.rest import rest_after
from specstar.message_queue.ticks import enqueue_ticks
from specstar.runtime import Home, Outage
from specstar.runtime.gate import inside_worker

if TYPE_CHECKING:
    from specstar.message_queue.queue import JobQueue

__all__ = ["Worker"]

logger: logging.Logger = logging.getLogger("specstar")
_HOUSEKEEPING_SECONDS = 0.25
_WATCH_AFTER_SECONDS = 1.0
_WATCH_SECONDS = 1.0
_LEASE_RENEWAL_SECONDS = 15.0
_RECOVERY_SECONDS = 30.0
_RESTART_SECONDS = 2.0
_INTERRUPT_SECONDS = 5.0
_GOODBYE_SECONDS = 1.0
_numbers = itertools.count(1)


class Worker:
    """Runs the jobs of several queues, at most `concurrency` at a time over all of them."""

    def __init__(
        self,
        queues: Sequence[JobQueue[Any]],
        *,
        concurrency: int,
        drain_timeout: float,
        caller: Home | None,
        burst: bool = False,
    ) -> None:
        self.caller = caller
        self.threads: HandlerThreads = HandlerThreads(concurrency)
        self.stopping: bool = False
        self.interrupted: bool = False
        self._queues = queues
        self._concurrency = concurrency
        self._drain_timeout = drain_timeout
        self._burst = burst
        self._not_looked_at = {queue.name for queue in queues}
        self._gate = queues[0]._gate
        self._name = f"{process_token()}/{next(_numbers):x}"
        self._runs = 0
        self._home: Home | None = None
        self._stop_calls = 0
        self._lanes: list[Lane] = []
        self._errors: list[Exception] = []
        self._without_broker: set[str] = set()
        self._outage = Outage()
        self.permit: anyio.Semaphore | None = None

    def next_token(self) -> str:
        """A name for the next run, unlike that of any other run of any process."""
        self._runs += 1
        return f"{self._name}.{self._runs}"

    @property
    def told_to_stop(self) -> bool:
        """True once `stop_from_anywhere` was called."""
        return self._stop_calls > 0

    def stop_from_anywhere(self, calls: int) -> None:
        """Begin the drain (1), or end it at once (2 and more). From any thread or signal handler."""
        self._stop_calls = max(self._stop_calls, calls)
        home = self._home
        if home is None:
            return  # `run` looks when it begins

        async def on_home() -> None:
            self._stop(self._stop_calls)

        try:
            home.submit(on_home, lambda outcome: None)
        except RuntimeError:
            return  # the loop is gone, and the worker with it

    def _stop(self, calls: int) -> None:
        if calls:
            self.stopping = True
            self._stopped.set()
        if calls > 1:
            self._hurried.set()

    async def run(self) -> None:
        """Work until stopped, then drain. Raises `BackendError` if the broker refuses a queue."""
        self._stopped, self._hurried, self._idle, self._over = (anyio.Event() for _ in range(4))
        self._all_looked_at = anyio.Event()
        # One lane alone is bounded by its slots.
        self.permit = anyio.Semaphore(self._concurrency, fast_acquire=True) if len(self._queues) > 1 else None
        self._home = self._gate.settle()
        self._generation = self._gate.generation
        self._stop(self._stop_calls)
        self._lanes = [
            Lane(self, queue, limit=min(self._concurrency, queue.concurrency or self._concurrency))
            for queue in self._queues
        ]
        self._gate.workers[self] = self._end
        inside_worker.set(self)
        living_workers.add(self._name)
        logger.info(
            "working on %s: at most %d jobs at once",
            ", ".join(repr(queue.name) for queue in self._queues),
            self._concurrency,
        )
        try:
            await self._work()
        finally:
            living_workers.discard(self._name)
            self._gate.workers.pop(self, None)
            self._over.set()
        if self._errors:
            raise self._errors[0]

    async def _end(self) -> None:
        """The spec is about to close: what runs goes back, and says so in its state."""
        self._stop(2)
        await self._over.wait()

    async def _work(self) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._run_lanes)
            group.start_soon(self._keep_house)
            for lane in self._lanes:
                lane.queue._lanes.append(lane)
            for queue in self._queues:
                group.start_soon(self._recover, queue)
                if queue.forget_after is not None and queue.keep_state:
                    group.start_soon(forget_for_ever, queue, queue.forget_after)
            if self._burst:
                group.start_soon(self._stop_when_done)
            else:
                group.start_soon(self._tick)
            try:
                await self._stopped.wait()
                await self._drain()
            finally:
                for lane in self._lanes:
                    lane.queue._lanes.remove(lane)
                self.threads.close()
            group.cancel_scope.cancel()

    async def _tick(self) -> None:
        """Enqueue the periodic jobs until the drain begins."""
        async with anyio.create_task_group() as group:
            for queue in self._queues:
                if queue._ticks is not None:
                    group.start_soon(enqueue_ticks, queue._ticks)
            await self._stopped.wait()
            group.cancel_scope.cancel()

    async def _stop_when_done(self) -> None:
        """Begin the drain when nothing is left."""
        await self._all_looked_at.wait()
        await until_nothing_is_left(self._lanes)
        logger.info("no job is left: the workers stop")
        self._stop(1)

    async def _run_lanes(self) -> None:
        async def run(lane: Lane) -> None:
            try:
                await lane.run()
            except SpecstarError as error:
                self._errors.append(error)
                self._stop(1)

        async with anyio.create_task_group() as group:
            for lane in self._lanes:
                group.start_soon(run, lane)
        self._idle.set()

    async def _drain(self) -> None:
        """Take no more, wait for what runs, then send it back."""
        with anyio.move_on_after(self._drain_timeout):
            async with anyio.create_task_group() as group:
                group.start_soon(_cancel_after, self._hurried, group.cancel_scope)
                for lane in self._lanes:
                    group.start_soon(lane.stop)  # a broker that does not answer takes its time
                await self._idle.wait()
                group.cancel_scope.cancel()
        self.interrupted = True
        if self._idle.is_set():
            return
        running = sum(lane.busy for lane in self._lanes)
        if running:
            end = "cut short" if self._hurried.is_set() else "over"
            logger.warning("the drain is %s: %d jobs that still run are cancelled and go back", end, running)
        for lane in self._lanes:
            lane.interrupt()
        limit = _INTERRUPT_SECONDS if running else _GOODBYE_SECONDS
        until = anyio.current_time() + limit
        while not self._idle.is_set() and anyio.current_time() < until:
            # Nothing ends a handler that still cleans up, and its job goes back only after it, which takes its time too.
            if any(lane.cleans_up for lane in self._lanes):
                until = anyio.current_time() + limit
            with anyio.move_on_after(min(limit, _HOUSEKEEPING_SECONDS)):
                await self._idle.wait()

    async def sleep(self, seconds: float, *, even_when_stopping: bool = False) -> None:
        """Sleep, but not past the moment when it is time to go."""
        with anyio.move_on_after(seconds):
            await (self._hurried if even_when_stopping else self._stopped).wait()

    async def until_stopping(self) -> None:
        """Wait for the moment when it is time to go."""
        await self._stopped.wait()

    def no_broker(self, name: str, error: BackendUnavailable) -> None:
        """The queue of this name cannot be consumed, and is tried again. Told once for all queues, then seldom."""
        self._without_broker.add(name)
        if (lasted := self._outage.fails()) is not None:
            names = ", ".join(sorted(map(repr, self._without_broker)))
            since = f" for {lasted:.0f} s" if lasted else ""
            logger.warning("no broker for jobs %s%s, tried again: %s", names, since, error)

    def has_broker(self, name: str) -> None:
        """The queue of this name is consumed."""
        self._without_broker.discard(name)
        if not self._without_broker and (lasted := self._outage.works()) is not None:
            logger.info("the broker is there again, after %.0f s: all jobs are worked on", lasted)

    async def room_for_threads(self, name: str) -> None:
        """Wait while too many threads are stuck in handlers that are over time."""
        said = False
        while self.threads.full and not self.stopping:
            if not said:
                logger.error("jobs %r: %d threads are stuck in handlers; no new ones start", name, self.threads.stuck)
                said = True
            await self.sleep(0.5)

    # Beside the jobs

    async def _keep_house(self) -> None:
        """Notice that the spec closes, that jobs were cancelled elsewhere, and that deliveries were lost."""
        watched = renewed = time.monotonic()
        while True:
            await anyio.sleep(_HOUSEKEEPING_SECONDS)
            home = self._home
            if home is not None and (home.closing or self._gate.generation != self._generation):
                logger.info("the spec is closed or configured anew: the workers stop")
                self._stop(2)
                return
            now = time.monotonic()
            watch, renew = now - watched >= _WATCH_SECONDS, now - renewed >= _LEASE_RENEWAL_SECONDS
            if watch:
                watched = now
            if renew:
                renewed = now
            for lane in self._lanes:
                await self._look_after(lane, now, watch=watch, renew=renew)

    async def _look_after(self, lane: Lane, now: float, *, watch: bool, renew: bool) -> None:
        old = [
            attempt
            for attempt in lane.attempts.values()
            if now - attempt.began >= _WATCH_AFTER_SECONDS and attempt.reason is None
        ]
        state = lane.queue._state()
        for attempt in lane.attempts.values():
            # With state it goes on until another worker has begun; two must never work on one partition.
            if attempt.delivery.lost and (state is None or attempt.record.partition_key is not None):
                attempt.stop(Stopped.lost)
        if state is None or not old or not (watch or renew):
            return
        shared, leased = lane.queue._sharing()
        attempts_allowed = lane.queue._policy().max_attempts

        async def look(attempt: Attempt) -> None:
            try:
                found = await state.read(attempt.record.job_id)
                if found is None:
                    return
                if found.record.worker != attempt.record.worker:
                    attempt.stop(Stopped.lost)
                elif found.record.cancel_requested:
                    attempt.stop(Stopped.cancelled)
                elif found.record.status is not JobStatus.running:
                    return  # only the end of its delivery is awaited: a mark would erase the result in its row
                elif (renew and leased) or (attempt.delivery.lost and found.record.attempts >= attempts_allowed):
                    # A sign of life for those who have the message: they would give the job up.
                    await state.mark(found, found.record)
            except SpecstarError as error:
                logger.info("the state of job %s could not be looked at: %s", attempt.record.job_id, error)

        if shared:
            async with anyio.create_task_group() as group:
                for attempt in old:
                    group.start_soon(look, attempt)

    async def _recover(self, queue: JobQueue[Any]) -> None:
        """See to jobs whose messages are gone: with the process that an in-process queue ended with, or with a broker."""
        shared, leased = queue._sharing()
        leases = Leases()
        while shared:
            begun = anyio.current_time()
            pause = _RESTART_SECONDS
            try:
                complete = await recover(queue, leases) if leased else False
                if leased or await send_lost_again(queue):
                    self._looked_at(queue)
                if complete:
                    return
            except NotConfiguredError:
                return
            except SpecstarError as error:
                logger.warning("jobs %r: looking for jobs without a message failed: %s", queue.name, error)
                pause = _RECOVERY_SECONDS
            if leased:
                pause = rest_after(anyio.current_time() - begun, at_least=_RECOVERY_SECONDS)
            await anyio.sleep(pause)
        self._looked_at(queue)

    def _looked_at(self, queue: JobQueue[Any]) -> None:
        self._not_looked_at.discard(queue.name)
        if not self._not_looked_at:
            self._all_looked_at.set()


async def _cancel_after(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
