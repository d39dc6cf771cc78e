"""Jobs with durable state whose messages are gone: the queue ended with its process, or its broker lost them."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from specstar.errors import BackendUnavailable, ResourceNotFoundError, RevisionConflictError
from specstar.message_queue.job import JobRecord, JobStatus
from specstar.message_queue.owner import run_is_gone
from specstar.message_queue.sender import CLOCK_SKEW, message_of, seconds_until_due
from specstar.message_queue.state import JobState, Snapshot
from specstar.query import QB
from specstar.resource_manager.ids import new_id
from specstar.roles import Message
from specstar.runtime import left_in_order

if TYPE_CHECKING:
    from specstar.message_queue.queue import JobQueue

__all__ = ["LEASE_SECONDS", "Leases", "recover", "send_lost_again"]

logger: logging.Logger = logging.getLogger("specstar")
LEASE_SECONDS = 60.0
"""A run elsewhere whose row has not been renewed while this process watched for so long is taken to be dead."""
# What kept this process from looking for longer than this, be it stopped or the store, may have kept the other from renewing.
_COUNTED_SECONDS = LEASE_SECONDS / 2
# By how much our clock may be behind that of a sender. What is due by then is sent again too, to wait until it is due by ours;
# by whole minutes, as each delay has a queue of its own.
_WRONG_BY_SECONDS = 900.0
_DELAY_STEP_SECONDS = 60
_PAGE = 500
_SPREAD_SECONDS = 1.0


class Leases:
    """The runs of other places that `recover` has seen: which version their rows had, and for how long we watched.

    By the steady clock of this process alone: what the clocks of hosts say of the time may be wrong by any amount.
    """

    def __init__(self) -> None:
        self._before: dict[str, tuple[int, float, float]] = {}
        self._seen: dict[str, tuple[int, float, float]] = {}

    def look_again(self) -> None:
        """A new look at all jobs begins."""
        self._before, self._seen = self._seen, {}

    def over(self, snapshot: Snapshot) -> bool:
        """True if the row was not renewed for `LEASE_SECONDS` of watching."""
        now = anyio.current_time()
        job_id, version = snapshot.record.job_id, snapshot.version
        before, watched, looked = self._before.get(job_id, (version, 0.0, now))
        watched = watched + min(now - looked, _COUNTED_SECONDS) if before == version else 0.0
        self._seen[job_id] = version, watched, now
        return watched >= LEASE_SECONDS


async def recover(queue: JobQueue[Any], leases: Leases) -> bool:
    """Send the unfinished jobs of an in-process queue again. False if some run elsewhere: look again later.

    Several processes may do this at once: a claim is conditional, so whoever is second finds the job taken.
    """
    state, messages = queue._state(), queue._messages()
    if state is None:
        return True
    count, complete = 0, True
    leases.look_again()
    async with left_in_order(_unfinished(queue.name, state)) as pages:
        async for page in pages:
            for found in page:
                job_id = found.record.job_id
                # The workers of this process run meanwhile: look again, and at the queue after that.
                snapshot = None if messages.holds(job_id) else await state.read(job_id)
                if snapshot is None or snapshot.record.status.finished or messages.holds(job_id):
                    continue
                taken = await _taken_over(state, snapshot, leases)
                if taken is None:
                    complete = False
                    continue
                await messages.publish(_again(taken), delay=seconds_until_due(taken))
                count += 1
    if count:
        logger.info("jobs %r: %d unfinished jobs of an earlier process are picked up", queue.name, count)
    return complete


async def send_lost_again(queue: JobQueue[Any]) -> bool:
    """After a restart of the broker: send the jobs again that had waited, and whose time had come. False if it is away.

    Also those that are due within a quarter of an hour: another clock may say that they were.
    Those that the broker still has come twice then, which their state shows: the second copy is dropped. Several workers
    may do this at once, for the same reason.
    """
    state, messages = queue._state(), queue._messages()
    if state is None:
        return True
    try:
        if not await messages.may_have_lost():
            return True
    except BackendUnavailable:
        return False  # the consumers tell of it
    # Most often another worker has done it by then.
    await anyio.sleep(random.uniform(0.0, _SPREAD_SECONDS))
    if not await messages.may_have_lost():
        return True
    count = 0
    async with left_in_order(_unfinished(queue.name, state)) as pages:
        async for page in pages:
            lost: dict[float, list[Message]] = {}
            for found in page:
                left = seconds_until_due(found.record)
                if found.record.scheduled_time is not None and left <= _WRONG_BY_SECONDS:
                    taken = await _taken_over(state, found, None)
                    if taken is not None:
                        lost.setdefault(_whole_minutes(left), []).append(_again(taken))
            for delay, sent in sorted(lost.items()):
                await messages.publish_many(sent, delay=delay)
                count += len(sent)
    await messages.mark_complete()
    if count:
        logger.info("jobs %r: the broker was restarted; %d jobs that had waited are sent again", queue.name, count)
    return True


def _whole_minutes(seconds: float) -> float:
    """Rounded up; nothing of what is soon over."""
    soon = seconds <= CLOCK_SKEW.total_seconds()
    return 0.0 if soon else float(math.ceil(seconds / _DELAY_STEP_SECONDS) * _DELAY_STEP_SECONDS)


async def _unfinished(name: str, state: JobState) -> AsyncIterator[list[Snapshot]]:
    """The unfinished jobs of a queue, oldest first, page after page. They end meanwhile, so pages are not counted."""
    statuses = [JobStatus.pending.value, JobStatus.running.value, JobStatus.retrying.value]
    jobs = (QB["queue"] == name) & QB["status"].in_(statuses)
    condition = jobs
    while page := await state.search(condition, sort=("created_time", "resource_id"), limit=_PAGE):
        yield page
        last = page[-1].record
        later = (QB["created_time"] > last.created_time) | (QB["resource_id"] > last.job_id)
        condition = jobs & (QB["created_time"] >= last.created_time) & later


def _again(record: JobRecord) -> Message:
    return msgspec.structs.replace(message_of(record), attempts=record.attempts, copy=new_id())


async def _taken_over(state: JobState, snapshot: Snapshot, leases: Leases | None) -> JobRecord | None:
    """The record to send; a run whose process is gone is first put back to `retrying`. None if it still runs elsewhere.

    `leases`: runs renew their rows, so that one of another place is gone as well if it has not for long.
    """
    record = snapshot.record
    if record.status is not JobStatus.running:
        return record
    if record.worker is not None:
        gone = run_is_gone(record.worker)
        if gone is None and leases is not None:
            gone = leases.over(snapshot)
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
