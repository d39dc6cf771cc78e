"""The jobs of one queue among the state that all queues of a spec share: reading, finding and cancelling them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from specstar.errors import (
    InvalidInputError,
    JobNotFoundError,
    NotConfiguredError,
    ResourceNotFoundError,
    RevisionConflictError,
)
from specstar.message_queue.attempt import Attempt, Stopped
from specstar.message_queue.job import JobStatus
from specstar.message_queue.outcomes import cancelled
from specstar.message_queue.state import CONFLICTS, JobState, Snapshot
from specstar.query import QB, Condition, SortKey
from specstar.resource_manager.ids import checked_id

__all__ = ["KeptJobs"]


class KeptJobs:
    """Jobs of other queues count as unknown. `state`: None if the queue keeps none, which makes all but `condition` raise."""

    def __init__(self, queue: str, state: Callable[[], JobState | None]) -> None:
        self._queue = queue
        self._state = state

    def state(self) -> JobState:
        """The state of now. Raises `NotConfiguredError` if the queue keeps none."""
        state = self._state()
        if state is None:
            raise NotConfiguredError(
                f"job {self._queue!r} keeps no state: declare it with keep_state=True to look at its jobs"
            )
        return state

    async def read(self, job_id: str) -> Snapshot:
        """The job as it stands. Raises `JobNotFoundError`."""
        snapshot = await self.state().read(checked_id(job_id, field="job_id"))
        if snapshot is None or snapshot.record.queue != self._queue:
            raise JobNotFoundError(job_id, queue=self._queue)
        return snapshot

    async def search(
        self,
        query: Condition | None,
        status: JobStatus | None,
        *,
        sort: Sequence[str | SortKey],
        limit: int | None,
        offset: int,
    ) -> list[Snapshot]:
        """Those that match. Raises `QueryError`."""
        return await self.state().search(self.condition(query, status), sort=sort, limit=limit, offset=offset)

    async def count(self, query: Condition | None, status: JobStatus | None) -> int:
        """How many match. Raises `QueryError`."""
        return await self.state().count(self.condition(query, status))

    def condition(self, query: Condition | None = None, status: JobStatus | None = None) -> Condition:
        """What a search of all jobs asks for."""
        condition: Condition = QB["queue"] == self._queue
        if status is not None:
            condition = condition & (QB["status"] == _checked_status(status).value)
        return condition if query is None else condition & query

    async def cancel(
        self, job_id: str, running: Callable[[str], Attempt | None], notify: Callable[[str], None]
    ) -> bool:
        """See `JobQueue.cancel`. `running` finds the attempt in this process; `notify` hears of a job that ended by this."""
        state, stopped = self.state(), False
        for _ in range(CONFLICTS):
            snapshot = await self.read(job_id)
            record = snapshot.record
            if record.status.finished:
                return stopped
            if record.status is JobStatus.running:
                attempt = running(job_id)
                if attempt is not None and attempt.record.worker == record.worker:
                    stopped = attempt.stop(Stopped.cancelled) or stopped
                # Also then: it holds if this process is gone before the handler is.
                if record.cancel_requested:
                    return True
                changed = msgspec.structs.replace(record, cancel_requested=True)
            else:
                changed = msgspec.structs.replace(cancelled(record), message_waits=True)
            try:
                await state.settle(snapshot, changed)
            except (RevisionConflictError, ResourceNotFoundError):
                continue
            if changed.status.finished:
                notify(job_id)
            return True
        raise RevisionConflictError(job_id, model=self._queue)


def _checked_status(status: JobStatus) -> JobStatus:
    try:
        return JobStatus(status)
    except ValueError:
        raise InvalidInputError(f"no status of a job: {status!r:.80}", field="status") from None
