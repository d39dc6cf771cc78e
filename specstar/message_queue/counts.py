"""What this process has done with the jobs of one queue."""

from __future__ import annotations

from datetime import datetime

from specstar.runtime.durations import Durations
from specstar.runtime.process import join

__all__ = ["JobCounts"]


class JobCounts:
    """Numbers since the process began; a forked child begins at zero. Written on the home loop, read from any thread.

    `enqueued` jobs were sent from here, `started` runs begun here; each run `succeeded`, `failed` for good (its job is a dead
    letter), is to be `retried`, was `cancelled`, or was `interrupted`, and its job given back. `failed` counts those too that
    were given up without a run. `ran` is the time in handlers, run by run; `waited` that from the moment in which a job was due
    to the start of its run.
    """

    __slots__ = (
        "__weakref__",
        "cancelled",
        "enqueued",
        "failed",
        "interrupted",
        "ran",
        "retried",
        "started",
        "succeeded",
        "waited",
    )

    def __init__(self) -> None:
        self.after_fork()
        join(self)

    def began(self, started: datetime | None, due: datetime | None) -> None:
        """A run begins."""
        self.started += 1
        if started is not None and due is not None:
            # The clock of the sender may be ahead.
            self.waited.add(max((started - due).total_seconds(), 0.0))

    def after_fork(self) -> None:
        """In a forked child: what the parent did is the parent's."""
        self.enqueued: int = 0
        self.started: int = 0
        self.succeeded: int = 0
        self.failed: int = 0
        self.retried: int = 0
        self.cancelled: int = 0
        self.interrupted: int = 0
        self.ran: Durations = Durations()
        self.waited: Durations = Durations()

    def end(self) -> None:
        """The program ends: nothing to do."""
