"""Numbers for whoever watches a program from outside: what `SpecStar.metrics` gives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from specstar.runtime.durations import BOUNDS

if TYPE_CHECKING:
    from specstar.message_queue.queue import JobQueue
    from specstar.runtime import Gate, PoolUse
    from specstar.runtime.durations import Durations

__all__ = ["BatchMetrics", "Histogram", "JobMetrics", "Metrics", "PoolMetrics", "metrics_of"]


class Histogram(Struct, frozen=True, kw_only=True):
    """How long things took. `counts[i]` took at most `bounds[i]` seconds, and longer than the bound before it; the last of
    `counts`, of which there is one more, took longer than all bounds. `sum` is the time of all, in seconds.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)


class BatchMetrics(Struct, frozen=True, kw_only=True):
    """Of the calls of one kind that travel in batches, such as `postgres writes of User`.

    `calls` were sent in `requests` (statements, transactions, uploads), which took `request_seconds` together, and one by one
    what `request_times` counts. `failed` ended in an error, a conflict or a missing resource too, or were refused before they
    were sent. `waited_seconds`: how long the first call of each request had waited for its turn, summed. `waiting` is the
    number of calls that wait now.
    """

    name: str
    calls: int
    failed: int
    requests: int
    request_seconds: float
    request_times: Histogram
    waited_seconds: float
    waiting: int


class PoolMetrics(Struct, frozen=True, kw_only=True):
    """Of the open pools of one type of backend: connections `in_use`, of at most `limit`; calls `waiting` for one.

    `taken` is how many calls have had one since the pool was opened: on S3 each is a request.
    """

    backend: str
    in_use: int
    limit: int
    waiting: int
    taken: int


class JobMetrics(Struct, frozen=True, kw_only=True):
    """Of the jobs of one queue, as far as this process is concerned.

    `enqueued` were sent from here. `started` runs began here, of which each `succeeded`, `failed` for good (its job is a dead
    letter), is to be followed by another (`retried`), was `cancelled`, or was `interrupted` by the end of the worker or the
    loss of its connection; `running` are under way. `failed` also counts jobs that were given up without a run.
    `run_seconds` is the time in handlers; `waited_seconds` that from the moment in which each job was due to the start of its
    run, where that is known: both summed, and run by run in `run_times` and `waited_times`.
    """

    queue: str
    enqueued: int
    started: int
    running: int
    succeeded: int
    retried: int
    failed: int
    cancelled: int
    interrupted: int
    run_seconds: float
    run_times: Histogram
    waited_seconds: float
    waited_times: Histogram


class Metrics(Struct, frozen=True, kw_only=True):
    """What one SpecStar has done in this process. Counts and sums only grow, from zero also in a forked child."""

    batches: tuple[BatchMetrics, ...]
    pools: tuple[PoolMetrics, ...]
    jobs: tuple[JobMetrics, ...]


def metrics_of(gate: Gate, queues: Iterable[JobQueue[Any]]) -> Metrics:
    """The metrics of now, from any thread."""
    batches = tuple(
        BatchMetrics(
            name=name,
            calls=counts.calls,
            failed=counts.failed,
            requests=counts.requests,
            request_seconds=counts.took.seconds,
            request_times=_histogram(counts.took),
            waited_seconds=counts.waited,
            waiting=waiting,
        )
        for name, (counts, waiting) in sorted(gate.batches.read().items())
    )
    return Metrics(batches=batches, pools=_pools(gate), jobs=tuple(_jobs(queue) for queue in queues))


def _pools(gate: Gate) -> tuple[PoolMetrics, ...]:
    by_backend: dict[str, list[PoolUse]] = {}
    for lazy in gate.connections.opened():
        connection = lazy.opened
        use = None if connection is None else connection.use()
        if use is not None:
            by_backend.setdefault(lazy.name, []).append(use)
    return tuple(
        PoolMetrics(
            backend=backend,
            in_use=sum(use.in_use for use in uses),
            limit=sum(use.limit for use in uses),
            waiting=sum(use.waiting for use in uses),
            taken=sum(use.taken for use in uses),
        )
        for backend, uses in sorted(by_backend.items())
    )


def _jobs(queue: JobQueue[Any]) -> JobMetrics:
    counts = queue._counts
    return JobMetrics(
        queue=queue.name,
        enqueued=counts.enqueued,
        started=counts.started,
        running=sum(len(lane.attempts) for lane in queue._lanes_here()),
        succeeded=counts.succeeded,
        retried=counts.retried,
        failed=counts.failed,
        cancelled=counts.cancelled,
        interrupted=counts.interrupted,
        run_seconds=counts.ran.seconds,
        run_times=_histogram(counts.ran),
        waited_seconds=counts.waited.seconds,
        waited_times=_histogram(counts.waited),
    )


def _histogram(durations: Durations) -> Histogram:
    return Histogram(bounds=BOUNDS, counts=tuple(durations.counts), sum=durations.seconds)
