"""One queue in one worker: its consumer, and the slots that take from it."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from specstar.errors import BackendError, BackendUnavailable, SpecstarError
from specstar.message_queue.attempt import Attempt, Stopped
from specstar.message_queue.runner import JobRunner
from specstar.message_queue.waiting import Waiting
from specstar.roles import Consumer, Delivery

if TYPE_CHECKING:
    from specstar.message_queue.queue import JobQueue
    from specstar.message_queue.worker import Worker

__all__ = ["Lane"]

logger: logging.Logger = logging.getLogger("specstar")
_TURN = 32
# The broker's number has 16 bits.
_MOST_PREFETCHED = 65_535
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0


class _Session:
    """One consumer and its slots. `over` is set when it gives no more and nothing of it may be waited for."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.ended = False
        self.slots = 0
        self.idle = 0
        self.over = anyio.Event()


class Lane:
    """Runs the jobs of one queue with at most `limit` slots. A slot is a task that takes one delivery after another."""

    def __init__(self, worker: Worker, queue: JobQueue[Any], *, limit: int) -> None:
        self.queue = queue
        self.limit = limit
        self.pid: int = os.getpid()
        self._worker = worker
        self._runner = JobRunner(worker, queue)
        self._messages = queue._messages()
        self._waiting = Waiting(worker, queue, limit=limit)
        self._session: _Session | None = None
        self.turns: int = 0
        """How many deliveries slots have dealt with."""

    @property
    def attempts(self) -> dict[str, Attempt]:
        """The jobs that run now, by id."""
        return self._runner.attempts

    async def run(self) -> None:
        """Consume until the worker stops; while the broker is down, wait for it. Raises `SpecstarError` if it refuses."""
        pause = _FIRST_PAUSE_SECONDS
        errors: list[SpecstarError] = []
        # Around the consumers: a handler whose consumer has broken goes on, and does not keep the next one from opening.
        async with anyio.create_task_group() as slots:
            while not self._worker.stopping and not errors:
                try:
                    async with self._messages.consume(prefetch=min(self.limit, _MOST_PREFETCHED)) as consumer:
                        pause = _FIRST_PAUSE_SECONDS
                        self._worker.has_broker(self.queue.name)
                        if self.queue._sharing()[0]:
                            consumer.share_partitions()
                        self._session = session = _Session(consumer)
                        if self._worker.stopping:
                            break
                        self._start_slot(slots, session)
                        async with anyio.create_task_group() as beside:
                            beside.start_soon(self._waiting.share_out, consumer, self)
                            await session.over.wait()
                            beside.cancel_scope.cancel()
                except BackendUnavailable as error:
                    if not self._worker.stopping:
                        self._worker.no_broker(self.queue.name, error)
                except SpecstarError as error:
                    errors.append(error)
                finally:
                    self._session = None
                await self._worker.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        if errors:
            raise errors[0]

    async def stop(self) -> None:
        """Take no more deliveries; slots end when the job in their hands is done."""
        if self._session is not None:
            try:
                await self._session.consumer.stop()
            except SpecstarError as error:
                logger.warning("jobs %r: stopping the consumer failed: %s", self.queue.name, error)

    @property
    def busy(self) -> int:
        """The jobs that run now, and those that are claimed at the moment."""
        return self._runner.busy

    @property
    def idle(self) -> bool:
        """True while all its slots wait for a delivery, and there is a consumer to bring one."""
        session = self._session
        if session is None or session.ended or session.idle < session.slots or self.busy:
            return False
        return self.queue.is_async or not self._worker.threads.full

    @property
    def cleans_up(self) -> bool:
        """True while a handler that was told to stop has not."""
        return any(attempt.reason is not None and not attempt.over for attempt in self.attempts.values())

    def interrupt(self) -> None:
        """Cancel the handlers that run; their jobs go back."""
        for attempt in list(self.attempts.values()):
            attempt.stop(Stopped.shutdown)

    def _start_slot(self, slots: TaskGroup, session: _Session) -> None:
        session.slots += 1
        session.idle += 1
        slots.start_soon(self._slot, slots, session)

    async def _slot(self, slots: TaskGroup, session: _Session) -> None:
        worker = self._worker
        try:
            while not worker.stopping and not session.ended:
                if not self.queue.is_async:
                    await worker.room_for_threads(self.queue.name)
                try:
                    delivery = await session.consumer.receive()
                except BackendError as error:
                    self._end(session, error)
                    return
                session.idle -= 1
                if not session.idle and session.slots < self.limit:
                    self._start_slot(slots, session)
                try:
                    await self._handle(delivery)
                finally:
                    session.idle += 1
                self.turns += 1
                if self.turns % _TURN == 0:
                    # Neither the broker nor the handler need ever have waited: let others run.
                    await checkpoint()
        except BaseException as error:
            # A cancelled slot may leave a delivery without an end: it goes back when the consumer is left.
            self._end(session, error)
            raise
        finally:
            session.slots -= 1
            session.idle -= 1
            if not session.slots:
                session.over.set()

    async def _handle(self, delivery: Delivery) -> None:
        """Run it when it is its turn."""
        worker, permit = self._worker, self._worker.permit
        if permit is not None:
            try:
                permit.acquire_nowait()
            except anyio.WouldBlock:
                if not self._waiting.take_kept() and not await self._waiting.until(delivery, permit.acquire):
                    return
        try:
            full = not self.queue.is_async and worker.threads.full
            if full and not await self._waiting.until(delivery, lambda: worker.room_for_threads(self.queue.name)):
                return
            # It may have come or waited until the drain, or until the broker had it again.
            if worker.stopping:
                await self._waiting.leave(delivery)
            elif not delivery.lost:
                await self._runner.handle(delivery)
        finally:
            if permit is not None:
                permit.release()

    def _end(self, session: _Session, error: BaseException) -> None:
        """The consumer gives no more. While the worker drains, it stays open for the ends of what runs."""
        if not self._worker.stopping and not session.ended:
            logger.warning("jobs %r: the consumer has ended: %s", self.queue.name, error)
            session.over.set()
        session.ended = True
