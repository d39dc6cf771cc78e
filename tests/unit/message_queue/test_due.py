"""When a job that is sent again is due, by clocks that differ."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from specstar.message_queue.job import JobRecord
from specstar.message_queue.sender import seconds_until_due


def job(ahead: timedelta, delay: float, *, attempts: int = 0) -> JobRecord:
    """One that was sent, or failed, just now by a clock that is ahead."""
    there = datetime.now(UTC) + ahead
    return JobRecord(
        job_id="a",
        queue="q",
        payload=msgspec.Raw(b"{}"),
        created_time=there - timedelta(days=attempts),
        revision_id="r",
        attempts=attempts,
        started_time=there if attempts else None,
        scheduled_time=there + timedelta(seconds=delay),
    )


@pytest.mark.parametrize("attempts", [0, 2], ids=["delayed", "retried"])
@pytest.mark.parametrize(
    ("ahead", "least", "most"),
    [
        (timedelta(), 3_000, 3_600),
        (timedelta(minutes=10), 3_600, 3_600),
        (timedelta(days=365), 3_600, 3_600),
        (timedelta(minutes=-10), 2_400, 3_000),
        (timedelta(days=-365), 0, 0),
    ],
    ids=["right", "ahead", "a year ahead", "behind", "a year behind"],
)
def test_a_job_waits_no_longer_than_it_was_told_to(ahead: timedelta, least: float, most: float, attempts: int) -> None:
    assert least <= seconds_until_due(job(ahead, 3_600, attempts=attempts)) <= most


def test_a_job_without_a_delay_is_due() -> None:
    assert seconds_until_due(msgspec.structs.replace(job(timedelta(days=365), 0), scheduled_time=None)) == 0.0
