"""What a worker does with a delivery: every status, fresh and redelivered, older and newer than the state."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from msgspec import Raw

from specstar.message_queue.claim import Decision, decide
from specstar.message_queue.job import JobRecord, JobStatus
from specstar.roles import Message

RUN, DROP, EXHAUSTED, PARK, RESEND = (
    Decision.run,
    Decision.drop,
    Decision.exhausted,
    Decision.park,
    Decision.resend,
)


def record(status: str, *, attempts: int = 0, delivery: int = 0, copy: str | None = None) -> JobRecord:
    return JobRecord(
        job_id="1",
        queue="q",
        payload=Raw(b"1"),
        created_time=datetime.now(UTC),
        revision_id="r",
        status=JobStatus(status),
        attempts=attempts,
        delivery=delivery,
        copy=copy,
    )


@pytest.mark.parametrize(
    ("status", "attempts", "delivery", "message_attempts", "redelivered", "expected"),
    [
        ("pending", 0, 0, 0, False, RUN),
        ("pending", 0, 0, 0, True, RUN),  # prefetched by a worker that went before it began
        ("retrying", 1, 0, 1, False, RUN),
        ("retrying", 1, 0, 1, True, RUN),
        ("retrying", 1, 0, 0, False, DROP),  # a copy of the first message
        ("retrying", 1, 0, 0, True, RESEND),  # died between the state and the new message
        ("retrying", 2, 1, 0, True, RESEND),
        ("retrying", 3, 2, 3, False, EXHAUSTED),  # its worker died, and an in-process queue was recovered
        ("running", 1, 0, 0, False, DROP),  # a copy while the job runs
        ("running", 1, 0, 0, True, RUN),  # its worker died
        ("running", 2, 1, 0, True, DROP),  # an old message came late: the newer one is at work
        ("running", 2, 0, 1, False, RUN),
        ("running", 3, 0, 0, True, EXHAUSTED),
        ("succeeded", 1, 0, 0, False, DROP),
        ("succeeded", 1, 0, 0, True, DROP),
        ("cancelled", 0, 0, 0, False, DROP),
        ("cancelled", 0, 0, 0, True, DROP),
        ("failed", 3, 0, 0, False, DROP),
        ("failed", 3, 2, 4, False, PARK),  # newer than any run: it had been left to a worker without its message
        ("failed", 3, 2, 2, True, PARK),  # died between the state and the dead letter
        ("failed", 3, 2, 0, True, DROP),  # an old message came late: the newer one is the dead letter
    ],
)
def test_decisions(
    status: str, attempts: int, delivery: int, message_attempts: int, redelivered: bool, expected: Decision
) -> None:
    found = record(status, attempts=attempts, delivery=delivery)
    message = Message(id="1", body=b"", attempts=message_attempts)
    assert decide(found, message, redelivered=redelivered, max_attempts=3) is expected


@pytest.mark.parametrize("redelivered", [False, True])
@pytest.mark.parametrize(("begun_with", "copy"), [("", "x"), ("x", ""), ("x", "y")])
def test_a_copy_of_the_message_that_a_run_began_with_is_dropped(begun_with: str, copy: str, redelivered: bool) -> None:
    """Even redelivered: a worker that died had it in hand, and not the job."""
    message = Message(id="1", body=b"", attempts=2, copy=copy)
    for status in ("running", "failed"):
        found = record(status, attempts=3, delivery=2, copy=begun_with)
        assert decide(found, message, redelivered=redelivered, max_attempts=9) is DROP


@pytest.mark.parametrize("begun_with", ["x", None])
def test_the_message_that_a_run_began_with_comes_again_when_its_worker_died(begun_with: str | None) -> None:
    """None: an earlier version began the run, and told nothing of copies."""
    message = Message(id="1", body=b"", attempts=2, copy="x")
    for status, expected in (("running", RUN), ("failed", PARK)):
        found = record(status, attempts=3, delivery=2, copy=begun_with)
        assert decide(found, message, redelivered=True, max_attempts=9) is expected


def test_a_newer_message_is_never_a_copy() -> None:
    found = record("running", attempts=3, delivery=2, copy="x")
    assert decide(found, Message(id="1", body=b"", attempts=3, copy="y"), redelivered=False, max_attempts=9) is RUN


@pytest.mark.parametrize(
    ("lineage", "running", "failed"), [("now", RUN, PARK), (None, RUN, PARK), ("before", DROP, DROP), ("", DROP, DROP)]
)
def test_a_message_from_before_the_dead_letter_went_back_is_newer_than_nothing(
    lineage: str | None, running: Decision, failed: Decision
) -> None:
    """Attempts were counted anew since then. None: an earlier version sent it, which may be the last message."""
    message = Message(id="1", body=b"", attempts=2, lineage=lineage)
    for status, expected in (("running", running), ("failed", failed)):
        found = msgspec.structs.replace(record(status, attempts=1, copy="x"), lineage="now")
        assert decide(found, message, redelivered=False, max_attempts=9) is expected


def test_the_message_that_a_run_began_with_counts_whatever_its_lineage_is() -> None:
    found = msgspec.structs.replace(record("running", attempts=3, delivery=2, copy="x"), lineage="now")
    message = Message(id="1", body=b"", attempts=2, copy="x", lineage="before")
    assert decide(found, message, redelivered=True, max_attempts=9) is RUN


@pytest.mark.parametrize(("status", "redelivered"), [("running", True), ("retrying", False), ("pending", False)])
def test_a_job_that_was_to_be_cancelled_when_its_worker_died_does_not_begin_again(
    status: str, redelivered: bool
) -> None:
    asked = msgspec.structs.replace(record(status, attempts=1), cancel_requested=True)
    message = Message(id="1", body=b"", attempts=0 if redelivered else 1)
    assert decide(asked, message, redelivered=redelivered, max_attempts=4) is Decision.cancel
