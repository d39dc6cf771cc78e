"""The jobs that one spec has declared, and the backend that their queues share.

What jobs are made of is imported with the first of them: many programs have none.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from specstar.errors import InvalidInputError, NotConfiguredError
from specstar.suggestions import closest, did_you_mean

if TYPE_CHECKING:
    from specstar.bound import Bound
    from specstar.declared_models import DeclaredModels
    from specstar.message_queue.backend import JobBackend
    from specstar.message_queue.job import Job
    from specstar.message_queue.middleware import JobMiddleware
    from specstar.message_queue.queue import JobQueue
    from specstar.runtime import Gate

__all__ = ["DeclaredJobs"]

P = TypeVar("P")
logger: logging.Logger = logging.getLogger("specstar")


class DeclaredJobs:
    """The queues by the names of their jobs. The state of all jobs is kept as one of the `models`."""

    def __init__(self, gate: Gate, bound: Bound, models: DeclaredModels) -> None:
        self.queues: dict[str, JobQueue[Any]] = {}
        self._gate = gate
        self._bound = bound
        self._models = models
        self._backend: JobBackend | None = None
        self._workers_of_all: int = 0
        self._workers: int = 0

    def declare(self, options: Mapping[str, Any], handler: Callable[[Job[P]], Any]) -> JobQueue[P, Any]:
        """The queue of a new job. Options: see `JobQueue`. Raises `InvalidInputError`, also for a name that is taken."""
        from specstar.message_queue.job import INDEXED_FIELDS, MODEL_NAME, JobRecord
        from specstar.message_queue.queue import JobQueue
        from specstar.message_queue.stored_state import told_by_row

        records = self._models.declare(JobRecord, name=MODEL_NAME, indexed_fields=INDEXED_FIELDS)
        records._live_by_rows(told_by_row)
        queue: JobQueue[P, Any] = JobQueue(self.backend, handler, **options)
        if queue.name in self.queues:
            raise InvalidInputError(f"a job named {queue.name!r} is declared already; give another name=", field="name")
        self.queues[queue.name] = queue
        if self._workers_of_all:
            logger.warning(
                "job %r is declared while workers run, which do not run it: declare jobs before run_workers()",
                queue.name,
            )
        return queue

    def add_middleware(self, middleware: JobMiddleware) -> None:
        """For all jobs sent from now on, and all workers that begin from now on. Raises `InvalidInputError`."""
        from specstar.message_queue.middleware import JobMiddleware

        if not isinstance(middleware, JobMiddleware):
            message = f"middleware is a JobMiddleware of specstar.message_queue, not {middleware!r:.80}"
            raise InvalidInputError(message, field="middleware")
        self.backend.middleware += (middleware,)
        if self._workers:
            logger.warning(
                "%s is added while workers run, whose jobs run without it: add middleware before run_workers()",
                type(middleware).__name__,
            )

    @contextlib.contextmanager
    def running(self, *, all_jobs: bool) -> Iterator[None]:
        """While workers run: where of all jobs, those that are declared meanwhile are not among them."""
        self._workers_of_all += all_jobs
        self._workers += 1
        try:
            yield
        finally:
            self._workers_of_all -= all_jobs
            self._workers -= 1

    def find(self, name: str) -> JobQueue[Any]:
        """The queue of a job, by its name. Raises `NotConfiguredError` if there is none."""
        queue = self.queues.get(name)
        if queue is None:
            hint = did_you_mean(closest(name, self.queues))
            raise NotConfiguredError(f"no job {name!r} is declared; declare it with @spec.job or spec.add_job(){hint}")
        return queue

    @property
    def backend(self) -> JobBackend:
        """What all the queues stand on."""
        from specstar.message_queue.backend import JobBackend
        from specstar.message_queue.job import MODEL_NAME

        if self._backend is None:
            self._backend = JobBackend(
                self._gate,
                queue_factory=self._bound.messages,
                storage=lambda: self._models.managers[MODEL_NAME]._slot.storage,
                state_is_durable=lambda: self._bound.storage().durable,
            )
        return self._backend
