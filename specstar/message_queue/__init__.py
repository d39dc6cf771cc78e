"""Jobs: typed messages to handlers, at least once, with retries, state, dead letters and graceful workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specstar.lazy import lazy_names
from specstar.message_queue.job import DeadJob, DelayRetry, Job, JobRecord, JobStatus, NoRetry

if TYPE_CHECKING:
    from specstar.message_queue.backend import JobBackend, job_model
    from specstar.message_queue.factories import (
        BoundMessageQueueFactory,
        RabbitMQMessageQueueFactory,
        SimpleMessageQueueFactory,
    )
    from specstar.message_queue.middleware import JobMiddleware
    from specstar.message_queue.queue import JobQueue
    from specstar.message_queue.run import WorkerStop, run_workers, run_workers_blocking

_HOMES = {
    "BoundMessageQueueFactory": ".factories",
    "JobBackend": ".backend",
    "JobMiddleware": ".middleware",
    "JobQueue": ".queue",
    "RabbitMQMessageQueueFactory": ".factories",
    "SimpleMessageQueueFactory": ".factories",
    "WorkerStop": ".run",
    "job_model": ".backend",
    "run_workers": ".run",
    "run_workers_blocking": ".run",
}

__all__ = [
    "BoundMessageQueueFactory",
    "DeadJob",
    "DelayRetry",
    "Job",
    "JobBackend",
    "JobMiddleware",
    "JobQueue",
    "JobRecord",
    "JobStatus",
    "NoRetry",
    "RabbitMQMessageQueueFactory",
    "SimpleMessageQueueFactory",
    "WorkerStop",
    "job_model",
    "run_workers",
    "run_workers_blocking",
]

if not TYPE_CHECKING:  # else checkers would take any misspelt name for one of type Any
    __getattr__ = lazy_names(__name__, _HOMES)
