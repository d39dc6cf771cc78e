"""The state of many jobs at once: cancelled with their messages, sent back to work, or forgotten."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import anyio
import msgspec

from specstar.errors import ResourceNotFoundError, RevisionConflictError, SpecstarError
from specstar.message_queue.job import JobRecord, JobStatus
from specstar.message_queue.outcomes import cancelled
from specstar.message_queue.owner import run_is_gone
from specstar.message_queue.sender import CLOCK_SKEW
from specstar.message_queue.state import CONFLICTS, MESSAGE_WAITS, JobState, Snapshot
from specstar.query import QB, Condition
from specstar.resource_manager.ids import new_id
from specstar.roles import MessageQueue

__all__ = ["cancel_waiting", "forget_finished", "requeue_dead"]

T = TypeVar("T")
_PAGE = 500
_AT_ONCE = 100
_replace = msgspec.structs.replace


async def cancel_waiting(state: JobState, jobs: Condition, began: datetime, report: Callable[[str], None]) -> None:
    """After their messages were purged, since `began`: cancel those of `jobs` that wait, and `report` each.

    Those too that ran in a process which is gone: their messages were back in the queue, and may have been purged.
    """
    waiting = jobs & QB["status"].in_([JobStatus.pending.value, JobStatus.retrying.value, JobStatus.running.value])
    changed = 0

    async def cancel(snapshot: Snapshot) -> None:
        nonlocal changed
        record = snapshot.record
        ran = record.status is JobStatus.running
        if ran and not run_is_gone(record.worker or ""):
            return
        # What was sent since then, or was running, may have a message still.
        changed_since = snapshot.row is not None and snapshot.row.updated_time > began
        came = ran or changed_since or record.created_time > began
        over = _replace(cancelled(record), message_waits=came)
        with contextlib.suppress(RevisionConflictError, ResourceNotFoundError):
            await state.settle(snapshot, over)
            changed += 1
            report(record.job_id)

    await _for_those_ahead(state, waiting, cancel)
    # Also what was sent and purged since then, or by a clock that is a little ahead.
    until_now = waiting & (QB["created_time"] <= datetime.now(UTC) + CLOCK_SKEW)
    while True:
        changed = 0
        await _for_all(state, until_now, cancel)
        if not changed:
            break
    # All that were ever cancelled may be a million.
    waited = (QB["status"] == JobStatus.cancelled.value) & (QB["updated_by"] == MESSAGE_WAITS)
    await _messages_went(state, jobs & (QB["updated_time"] <= began) & waited)


async def _messages_went(state: JobState, jobs: Condition) -> None:
    """Let cancelled jobs be forgotten whose messages were purged."""

    async def let_go(snapshot: Snapshot) -> None:
        with contextlib.suppress(RevisionConflictError, ResourceNotFoundError):
            await state.settle(snapshot, _replace(snapshot.record, message_waits=False))

    await _for_all(state, jobs, let_go)


async def _for_those_ahead(state: JobState, jobs: Condition, work: Callable[[Snapshot], Awaitable[None]]) -> None:
    """Do it for those of these jobs that are there now, by clocks that are far ahead; not for what others send meanwhile."""
    newest = await state.search(jobs, sort=("-created_time",), limit=1)
    if not newest:
        return
    jobs &= QB["created_time"] <= newest[0].record.created_time
    last = ""
    while True:
        ahead = QB["created_time"] > datetime.now(UTC) + CLOCK_SKEW
        page = await state.search(jobs & ahead & (QB["resource_id"] > last), limit=_PAGE)
        if not page:
            return
        last = page[-1].record.job_id
        await _for_each(page, work)


async def _for_all(state: JobState, jobs: Condition, work: Callable[[Snapshot], Awaitable[None]]) -> None:
    """Do it for all of these jobs. Page after page, each from where the last one ended: what was read is not read again."""
    last = ""
    while page := await state.search(jobs & (QB["resource_id"] > last), limit=_PAGE):
        last = page[-1].record.job_id
        await _for_each(page, work)


async def forget_finished(
    state: JobState, messages: MessageQueue, jobs: Condition, before: datetime, *, in_process: bool
) -> int:
    """Erase those of `jobs` that finished before then and whose message is gone; returns how many.

    `in_process`: the queue knows whether it has a message, be it another copy of the one that was worked on.
    """
    finished = [status.value for status in JobStatus if status.finished]
    erased = 0

    async def erase(snapshot: Snapshot) -> None:
        nonlocal erased
        record = snapshot.record
        if messages.holds(record.job_id) and (in_process or record.message_waits):
            return
        with contextlib.suppress(RevisionConflictError):
            went = await state.erase(record.job_id, expected_version=snapshot.version)
            erased += went

    await _for_all(state, jobs & QB["status"].in_(finished) & (QB["updated_time"] < before), erase)
    return erased


async def _for_each(items: Sequence[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Do it for all, many at once. Raises the first error once those that were begun with it have ended."""
    errors: list[SpecstarError] = []

    async def one(item: T) -> None:
        try:
            await work(item)
        except SpecstarError as error:
            errors.append(error)

    for start in range(0, len(items), _AT_ONCE):
        async with anyio.create_task_group() as group:
            for item in items[start : start + _AT_ONCE]:
                group.start_soon(one, item)
        if errors:
            raise errors[0]


async def requeue_dead(state: JobState, messages: MessageQueue, queue: str, job_ids: Sequence[str] | None) -> int:
    """Send dead jobs (None: all that are dead now) back to work with no attempts counted; returns how many."""
    lineage = new_id()

    async def revive(ids: Sequence[str]) -> None:
        # The state first: a worker drops the message of a job that counts as failed.
        await _for_each(ids, lambda job_id: _change(state, queue, job_id, JobStatus.failed, revived))

    def revived(record: JobRecord) -> JobRecord:
        return _replace(
            record,
            status=JobStatus.pending,
            attempts=0,
            delivery=0,
            lineage=lineage,
            worker=None,
            finished_time=None,
            cancel_requested=False,
        )

    async def stay(ids: Sequence[str]) -> None:
        await _for_each(ids, lambda job_id: _change(state, queue, job_id, JobStatus.pending, _failed))

    return await messages.requeue_dead(job_ids, lineage=lineage, before=revive, stays=stay)


def _failed(record: JobRecord) -> JobRecord:
    return _replace(record, status=JobStatus.failed, finished_time=datetime.now(UTC))


async def _change(
    state: JobState, queue: str, job_id: str, status: JobStatus, change: Callable[[JobRecord], JobRecord]
) -> None:
    """Change the state of a job of this queue that has this status."""
    for _ in range(CONFLICTS):
        snapshot = await state.read(job_id)
        if snapshot is None or snapshot.record.status is not status or snapshot.record.queue != queue:
            return
        try:
            await state.settle(snapshot, change(snapshot.record))
        except (RevisionConflictError, ResourceNotFoundError):
            continue
        return
    raise RevisionConflictError(job_id, model=queue)
