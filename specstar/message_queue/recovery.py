"""Picking up what an earlier process left: unfinished jobs with durable state whose queue ended with the process."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from specstar.errors import ResourceNotFoundError, RevisionConflictError
from specstar.message_queue.job import JobRecord, JobStatus
from specstar.message_queue.owner import is_gone
from specstar.message_queue.sender import message_of, seconds_until
from specstar.message_queue.state import JobState, Snapshot
from specstar.query import QB

if TYPE_CHECKING:
    from specstar.message_queue.queue import JobQueue

__all__ = ["LEASE_SECONDS", "recover"]

logger = logging.getLogger("specstar")
LEASE_SECONDS = 60.0
"""A run on another host that has not renewed its row for so long is taken to be dead."""
_PAGE = 500


async def recover(queue: JobQueue[Any]) -> bool:
    """Send the unfinished jobs of an in-process queue again. False if some run elsewhere: look again later.

    Several processes may do this at once: a claim is conditional, so whoever is second finds the job taken.
    """
    state, messages = queue._state(), queue._messages()
    if state is None:
        return True
    unfinished = [JobStatus.pending.value, JobStatus.running.value, JobStatus.retrying.value]
    condition = (QB["queue"] == queue.name) & QB["status"].in_(unfinished)
    count, complete, offset = 0, True, 0
    while True:
        page = await state.search(condition, sort=("created_time",), limit=_PAGE, offset=offset)
        for found in page:
            job_id = found.record.job_id
            # The workers of this process run meanwhile: look again, and at the queue after that.
            snapshot = None if messages.holds(job_id) else await state.read(job_id)
            if snapshot is None or snapshot.record.status.finished or messages.holds(job_id):
                continue
            taken = await _taken_over(state, snapshot)
            if taken is None:
                complete = False
                continue
            await messages.publish(
                msgspec.structs.replace(message_of(taken), attempts=taken.attempts),
                delay=seconds_until(taken.scheduled_time),
            )
            count += 1
        if len(page) < _PAGE:
            break
        offset += _PAGE
    if count:
        logger.info("jobs %r: %d unfinished jobs of an earlier process are picked up", queue.name, count)
    return complete


async def _taken_over(state: JobState, snapshot: Snapshot) -> JobRecord | None:
    """The record to send; a run whose process is gone is first put back to `retrying`. None if it still runs elsewhere."""
    record = snapshot.record
    if record.status is not JobStatus.running:
        return record
    if record.worker is not None:
        gone = is_gone(record.worker.partition("/")[0])
        if gone is None and snapshot.row is not None:
            gone = (datetime.now(UTC) - snapshot.row.updated_time).total_seconds() > LEASE_SECONDS
        if not gone:
            return None
    back = msgspec.structs.replace(
        record,
        status=JobStatus.retrying,
        worker=None,
        error=f"WorkerLost: the worker died during attempt {record.attempts}",
    )
    try:
        await state.settle(snapshot, back)
    except (RevisionConflictError, ResourceNotFoundError):
        return None  # someone else is at it
    return back
