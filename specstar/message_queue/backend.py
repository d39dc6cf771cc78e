"""What the jobs of one spec stand on in the present generation of connections: the queue factory and the job state."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import anyio

from specstar.config.resolved import JOB_STATE_IN_MEMORY
from specstar.errors import BackendUnavailable
from specstar.message_queue.job import INDEXED_FIELDS, MODEL_NAME, JobRecord
from specstar.message_queue.local_state import LiveJobs, LocalJobState
from specstar.message_queue.middleware import JobMiddleware
from specstar.message_queue.state import JobState
from specstar.message_queue.stored_state import StoredJobState
from specstar.query import fields_of
from specstar.roles import MessageQueue, MessageQueueFactory, ModelSpec, Storage
from specstar.runtime import Gate, Home, PerGeneration

if TYPE_CHECKING:
    from specstar.message_queue.factories import BoundMessageQueueFactory

__all__ = ["JobBackend", "Opened", "Sendings", "job_model"]

logger: logging.Logger = logging.getLogger("specstar")
# Those that wait for a broker that is away are not waited for any longer.
_SENDING_SECONDS = 5.0


def job_model() -> ModelSpec:
    """The model under which the state of all jobs of a spec is stored: one resource a job, searchable by `INDEXED_FIELDS`.

    For whoever gives a `JobBackend` its storage, or looks at the stored jobs without a spec.
    """
    return ModelSpec(name=MODEL_NAME, indexed_fields=fields_of(JobRecord, INDEXED_FIELDS))


class Sendings:
    """Jobs on their way into state and queue: `with` it around each. Closing waits for them, and admits no more."""

    def __init__(self) -> None:
        self._count = 0
        self._closing = False
        self._over: anyio.Event | None = None

    def __enter__(self) -> None:
        if self._closing:
            raise BackendUnavailable("specstar is closing; call again", role="mq")
        self._count += 1

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if not self._count and self._over is not None:
            self._over.set()

    async def end(self) -> None:
        """Wait for those that have begun: one that is cut in two leaves the state of a job that was never sent."""
        self._closing = True
        if self._count:
            self._over = self._over or anyio.Event()
            with anyio.move_on_after(_SENDING_SECONDS):
                await self._over.wait()


class Opened(NamedTuple):
    """The present generation."""

    home: Home
    factory: MessageQueueFactory
    state: JobState
    state_is_durable: bool
    sendings: Sendings
    queues: dict[str, MessageQueue]


class JobBackend:
    """Builds, once a generation, what all job queues of a spec share. Used on the home loop only.

    `queue_factory` raises `NotConfiguredError` where no mq is bound. `storage` is the storage of `job_model()`, and
    `state_is_durable` says whether it outlives the process.
    """

    def __init__(
        self,
        gate: Gate,
        *,
        queue_factory: Callable[[], BoundMessageQueueFactory],
        storage: Callable[[], Storage],
        state_is_durable: Callable[[], bool],
    ) -> None:
        self.gate = gate
        self._queue_factory = queue_factory
        self._storage = storage
        self._state_is_durable = state_is_durable
        self._now = PerGeneration(gate, self._open)
        self._told = False
        self.middleware: tuple[JobMiddleware, ...] = ()

    def current(self) -> Opened:
        """The factory and the state of now."""
        return self._now.get()

    def _open(self, home: Home) -> Opened:
        factory = self._queue_factory().open(self.gate)
        storage = self._storage()
        durable = self._state_is_durable()
        stored = StoredJobState(storage, job_model().indexed_fields, counts_outcomes=durable)
        state: JobState = stored
        if not durable:
            live = self.gate.connections.share(("specstar.jobs",), LiveJobs, "jobs")
            state = LocalJobState(home, live, stored, storage)
        sendings = Sendings()
        self.gate.sendings[self] = sendings.end
        return Opened(home, factory, state, durable, sendings, {})

    def state(self) -> JobState:
        """The state of now. Says once what it means that one process alone knows it."""
        opened = self.current()
        if opened.factory.durable and not opened.state_is_durable and not self._told:
            self._told = True
            logger.warning(JOB_STATE_IN_MEMORY)
        return opened.state

    def queue(self, name: str, *, max_priority: int | None = None) -> MessageQueue:
        """The queue of one job type."""
        opened = self.current()
        queue = opened.queues.get(name)
        if queue is None:
            queue = opened.queues[name] = opened.factory.build(name, max_priority=max_priority)
        return queue
