"""What to do with a message, given the state of its job: run it, drop a copy that came too late, or give the job up."""

from __future__ import annotations

import enum

from specstar.message_queue.job import JobRecord, JobStatus
from specstar.roles import Message

__all__ = ["Decision", "decide"]


class Decision(enum.Enum):
    """What a worker does with a delivery."""

    run = enum.auto()
    """Begin the next attempt."""
    drop = enum.auto()
    """Acknowledge without running: the job is finished, or another message of it lives."""
    exhausted = enum.auto()
    """The attempts are used up by workers that died: fail it, then park it."""
    park = enum.auto()
    """The job failed already: only the parking was lost."""
    cancel = enum.auto()
    """Someone cancelled the job while a worker ran it that did not get to it."""
    resend = enum.auto()
    """The retry was decided, but its message may never have been sent."""


def decide(record: JobRecord, message: Message, *, redelivered: bool, max_attempts: int) -> Decision:
    """Decide on a delivery. At least once: where a message might be the last of its job, it is not dropped.

    A message that is not `redelivered` and is older than the state is a copy: the message that moved the state on is still
    at the broker or has ended properly. While a job runs, so is the very message that its run began with, until it has become
    a dead letter: any other one that is no newer is a copy too, redelivered or not.
    """
    status = record.status
    # One from before the job was sent back from the dead letters, whose attempts were counted anew, is newer than nothing.
    of_now = message.lineage is None or message.lineage == record.lineage
    same = message.attempts == record.delivery and record.copy in {message.copy, None}
    lost = (of_now and message.attempts > record.delivery) or (redelivered and same)
    if status is JobStatus.failed:
        # A newer message than any run: its sender left a last attempt to a worker that could not park it.
        late = of_now and message.attempts > record.attempts
        return Decision.park if (redelivered and lost) or late else Decision.drop
    if status.finished:
        return Decision.drop
    if status is JobStatus.running:
        if not lost:
            return Decision.drop
    elif message.attempts < record.attempts:
        return Decision.resend if redelivered else Decision.drop
    if record.cancel_requested:
        return Decision.cancel
    return Decision.exhausted if record.attempts >= max_attempts else Decision.run
