"""The state of many jobs at once: cancelled with their messages, sent back to work, or forgotten."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Set
from datetime import UTC, datetime

import msgspec

from specstar.errors import ResourceNotFoundError, RevisionConflictError
from specstar.message_queue.job import JobStatus
from specstar.message_queue.state import JobState
from specstar.query import QB, Condition
from specstar.roles import MessageQueue

__all__ = ["cancel_waiting", "forget_finished", "requeue_dead"]

_CONFLICTS = 16
_PAGE = 500
_replace = msgspec.structs.replace


async def cancel_waiting(state: JobState, jobs: Condition, before: datetime, cancelled: Callable[[str], None]) -> None:
    """After their messages were purged: cancel those of `jobs` that were created by then and wait, and report each."""
    old = jobs & (QB["created_time"] <= before)
    waiting = old & QB["status"].in_([JobStatus.pending.value, JobStatus.retrying.value])
    while True:
        changed, last = 0, ""
        # Page after page, not from the beginning again: what waits lies behind all that is finished.
        while page := await state.search(waiting & (QB["resource_id"] > last), limit=_PAGE):
            last = page[-1].record.job_id
            for snapshot in page:
                record = _replace(snapshot.record, status=JobStatus.cancelled, finished_time=datetime.now(UTC))
                try:
                    await state.settle(snapshot, record)
                except (RevisionConflictError, ResourceNotFoundError):
                    continue
                changed += 1
                cancelled(record.job_id)
        if not changed:
            break
    await _messages_went(state, old & (QB["status"] == JobStatus.cancelled.value))


async def _messages_went(state: JobState, cancelled: Condition) -> None:
    """Let cancelled jobs be forgotten whose messages were purged."""
    offset = 0
    while page := await state.search(cancelled, limit=_PAGE, offset=offset):
        offset += len(page)
        for snapshot in page:
            if snapshot.record.message_waits:
                with contextlib.suppress(RevisionConflictError, ResourceNotFoundError):
                    await state.settle(snapshot, _replace(snapshot.record, message_waits=False))


async def forget_finished(
    state: JobState, messages: MessageQueue, jobs: Condition, before: datetime, *, in_process: bool
) -> int:
    """Erase those of `jobs` that finished before then and whose message is gone; returns how many.

    `in_process`: the queue knows whether it has a message, be it another copy of the one that was worked on.
    """
    finished = [status.value for status in JobStatus if status.finished]
    condition = jobs & QB["status"].in_(finished) & (QB["updated_time"] < before)
    erased = kept = 0
    while page := await state.search(condition, limit=_PAGE, offset=kept):
        went = stay = 0
        for snapshot in page:
            if messages.holds(snapshot.record.job_id) and (in_process or snapshot.record.message_waits):
                stay += 1
                continue
            try:
                went += await state.erase(snapshot.record.job_id, expected_version=snapshot.version)
            except RevisionConflictError:
                continue
        erased += went
        kept += stay
        if not went and not stay:
            break
    return erased


async def requeue_dead(state: JobState, messages: MessageQueue, queue: str, job_ids: Set[str] | None) -> int:
    """Send dead jobs (None: all that are dead now) back to work with no attempts counted; returns how many."""
    seen: set[str] = set()
    requeued = 0
    while True:
        # Jobs that fail again meanwhile are not sent a second time.
        limit = _PAGE + len(seen)
        letters = await messages.dead_letters(limit=limit)
        ids = list(dict.fromkeys(letter.message.id for letter in letters if letter.message.id not in seen))
        seen.update(ids)
        wanted = ids if job_ids is None else [job_id for job_id in ids if job_id in job_ids]
        # The state first: a worker drops the message of a job that counts as failed.
        for job_id in wanted:
            await _revive(state, queue, job_id)
        requeued += await messages.requeue_dead(wanted) if wanted else 0
        if len(letters) < limit or not ids or (job_ids is not None and job_ids <= seen):
            return requeued


async def _revive(state: JobState, queue: str, job_id: str) -> None:
    for _ in range(_CONFLICTS):
        snapshot = await state.read(job_id)
        if snapshot is None or snapshot.record.status is not JobStatus.failed or snapshot.record.queue != queue:
            return
        revived = _replace(
            snapshot.record,
            status=JobStatus.pending,
            attempts=0,
            delivery=0,
            worker=None,
            finished_time=None,
            cancel_requested=False,
        )
        try:
            await state.settle(snapshot, revived)
        except (RevisionConflictError, ResourceNotFoundError):
            continue
        return
    raise RevisionConflictError(job_id, model=queue)
